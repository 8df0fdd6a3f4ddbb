"""What the configuration check says of the towers, of PEPNet and of the features by task."""

import pytest

from raymtl.config.model import Model
from raymtl.errors import ConfigError
from tests.helpers.small_config import small

HISTORIES = ["features.seen={kind: sequence, table: user}", "features.kinds={kind: sequence, table: user}"]
POOLED = [*HISTORIES, "model.sequence={type: pooled}"]
PPNET = "model.towers={type: ppnet, hidden: [8], features: [user]}"


def reads(**tasks: str) -> str:
    inner = ", ".join(f"{name}: {names}" for name, names in tasks.items())
    return f"model.refine={{type: task_features, reads: {{{inner}}}}}"


REFUSED = [
    (["model.towers={hidden: [], norm: layer}"], "model.towers.norm is set but model.towers.hidden is []"),
    (["model.towers={hidden: [], activation: gelu}"], "model.towers.activation is set but model.towers.hidden is []"),
    (["model.towers={hidden: [], dropout: 0.1}"], "model.towers.dropout is set but model.towers.hidden is []"),
    (["model.towers={hidden: [], per_task: {buy: {dropout: 0.1}}}"], "model.towers.per_task is set but"),
    (
        ["model.towers.per_task.by={dropout: 0.1}"],
        "model.towers.per_task has an entry for `by`, which is not one of the tasks",
    ),
    (["model.towers.per_task.buy={}"], "model.towers.per_task.buy sets nothing"),
    (
        ["model.towers={hidden: [8, 4], per_task: {buy: {hidden: [4, 8]}}}"],
        "its last width must be that of model.towers.hidden, 4",
    ),
    (["model.towers.norm=batch"], "model.towers.norm is `batch`; expected one of `none`, `layer`"),
    (["model.towers={type: ppnt}"], "did you mean `ppnet`?"),
    (["model.towers={type: ppnet, hidden: [8]}"], "model.towers.features is missing"),
    (
        ["model.towers={type: ppnet, features: [usr]}"],
        "model.towers.features names `usr`, which is not one of the features",
    ),
    (
        [*POOLED, "model.towers={type: ppnet, features: [seen]}"],
        "model.towers.features names `seen`, a feature of kind",
    ),
    (["model.refine={type: epnet}"], "model.refine is `epnet` but nothing distinguishes the scenarios"),
    (["model.refine={type: epnet, features: [usr]}"], "model.refine.features names `usr`"),
    (["model.refine={type: task_features, reads: {}}"], "model.refine.reads"),
    ([reads(by="[user]")], "model.refine.reads has an entry for `by`, which is not one of the tasks"),
    ([reads(buy="[usr]")], "model.refine.reads.buy names `usr`"),
    ([reads(buy="[user]"), "model.input={type: field_wise}"], "the input `field_wise` mixes features"),
    ([reads(buy="[user]"), "model.trunk={type: ple}"], "the shared experts of `ple` read the inputs of all tasks"),
    ([*POOLED, reads(buy="[seen]")], "names a history but leaves out `kinds`, which model.sequence mixes with it"),
    (
        [*HISTORIES, "model.preset=dtrn", "model.sequence.target=[user]", reads(buy="[user]")],
        "the sequence `tim` mixes",
    ),
    ([reads(buy="[age]"), PPNET], "leaves out `user`, which model.towers.features brings to every task"),
    (
        [reads(buy="[user]"), "model.coupler={type: product}"],
        "model.refine.reads.buy does not hold what `click` reads (every feature)",
    ),
    (
        [reads(buy="[user]", click="[age]"), "model.coupler={type: ait, width: 8}", "model.towers={hidden: [8]}"],
        "does not hold what `click` reads (`age`), but the coupler `ait` passes it on",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=[sentence[:50] for _, sentence in REFUSED])
def test_the_sentence(changes: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small("tasks={click: {}, buy: {parent: click}}", *changes)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        ["model.towers={hidden: [8, 4], per_task: {buy: {hidden: [4], dropout: 0.1}}}"],
        ["model.towers={hidden: [8, 4], per_task: {buy: {hidden: [4]}}}", "tasks_subset=[click]"],
        ["model.towers={type: mlp, hidden: []}"],
        [PPNET, "model.refine={type: epnet, features: [age]}"],
        [PPNET, reads(buy="[user]")],
        [reads(click="[user]", buy="[user, age]"), "model.coupler={type: product}"],
        [reads(buy="[user]"), "model.coupler={type: product}", "tasks.buy.parent=null", "tasks.cart={parent: click}"],
        [reads(buy="[user]"), "model.trunk={type: ple, shared_experts: 0}"],
        [*POOLED, reads(buy="[seen, kinds]", click="[user]")],
        [
            *HISTORIES,
            "model.preset=dupn",
            "model.sequence={item: [seen], properties: [kinds], user: [user]}",
            reads(buy="[user]"),
        ],
    ],
)
def test_what_fits(changes: list[str]) -> None:
    assert small("tasks={click: {}, buy: {parent: click}}", *changes)


def test_a_preset_keeps_its_towers_under_keys_without_a_type() -> None:
    trunk = {"type": "shared_bottom", "hidden": [4]}
    assert Model(trunk=trunk, towers={"hidden": [4]}).towers.type == "mlp"
    own = Model.model_validate({"preset": "pepnet", "towers": {"hidden": [4], "features": ["user"]}}).towers
    assert (own.type, own.hidden) == ("ppnet", [4])
    other = Model.model_validate({"preset": "pepnet", "towers": {"type": "mlp", "hidden": [4]}}).towers
    assert (other.type, other.hidden) == ("mlp", [4])
    kept = Model.model_validate({"preset": "zhihu", "towers": {"type": "mlp", "dropout": 0.1}}).towers
    assert (kept.hidden, kept.dropout) == ([64], 0.1)
