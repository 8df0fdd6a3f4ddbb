"""The features that the sequence slots and M2M name."""

import pytest

from raymtl.errors import ConfigError
from tests.helpers.small_config import small

HISTORIES = [
    "features.seen={kind: sequence, table: user}",
    "features.kinds={kind: sequence, table: user}",
]
DIN = [*HISTORIES, "model.preset=din", "model.sequence.target=[user]"]
KINDS = "tables.kinds={rows: 9, dim: 16}"
GAP = "features.gap={kind: sequence_dense, of: seen}"
TIM = [*HISTORIES, "model.preset=dtrn", "model.sequence.target=[user]"]
DUPN = [*HISTORIES, "model.preset=dupn"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            [*TIM, "model.sequence.target=[usr]"],
            "model.sequence.target names `usr`, which is not one of the features `user`",
        ),
        ([*TIM, "model.sequence.target=[age]"], "names `age`, a feature of kind `dense`; these would fit: `user`"),
        (
            [*TIM, "model.sequence.behaviours={a: [seen, user], b: [kinds]}"],
            "behaviours.a names `user`, a feature of kind `id`",
        ),
        (
            [*TIM, "model.sequence.behaviours={a: [seen]}"],
            "features.kinds has the kind `sequence` but model.sequence.behaviours",
        ),
        ([*TIM, "model.sequence.behaviours={a: [seen, kinds], b: [seen]}"], "names `seen` 2 times; list it once"),
        (
            [*TIM, "features.seen.max_length=9", "model.sequence.behaviours={a: [seen, kinds]}"],
            "features of the same steps need one max_length, but they have `seen` 9, `kinds` 50",
        ),
        (
            [*TIM, "features.kinds.since=2026-01-02", "model.sequence.behaviours={a: [seen, kinds]}"],
            "features of the same steps need one `since`, as the lists must have one length, but they have `seen` none, `kinds` "
            "2026-01-02; set it alike, or write the column for the earlier days too",
        ),
        (
            [
                *DUPN,
                "features.kinds.since=2026-01-02",
                "model.sequence={type: dupn, item: [seen], properties: [kinds]}",
            ],
            "model.sequence: features of the same steps need one `since`",
        ),
        (
            [*TIM, "features.kinds.table=kinds", "tables.kinds={rows: 3, dim: 8}"],
            "tables that are read as sequences need one `dim` (TorchRec keeps them in one module), but they have `user` 16",
        ),
        (
            [*TIM, "model.sequence.heads=5"],
            "model.sequence.width is 32, not divisible by model.sequence.heads = 5",
        ),
        (
            [*DIN, "model.sequence.behaviours={a: [seen], b: [kinds]}", "features.kinds.table=kinds", KINDS],
            "model.sequence.target has no feature that reads a table of the behaviour `b` (`kinds`), so its steps cannot be",
        ),
        (
            [*DIN, "features.other={kind: id, table: user}", "model.sequence.target=[user, other]"],
            "model.sequence.target names `user`, `other`, which read the same table `user`; keep the one",
        ),
        (
            [*DIN, "model.sequence.search_steps=9"],
            "search_steps is 9, but model.sequence.search is empty; name the behaviours",
        ),
        (
            [*DIN, "model.sequence.search={sen: user}"],
            "search names `sen`, which is not one of the behaviours `seen`, `kinds`",
        ),
        (
            [*DIN, "model.sequence.search={seen: usr}"],
            "search.seen names `usr`, which is not one of the features `user`",
        ),
        ([*DIN, "model.sequence.search={seen: age}"], "search.seen names `age`, a feature of kind `dense`"),
        (
            [*DIN, "model.sequence.behaviours={a: [seen, kinds]}", "model.sequence.search={a: user}"],
            "search.a is `user`, whose table `user` is read by `seen`, `kinds` of the behaviour; it must be one",
        ),
        (DUPN, "model.sequence.item is left out, but there are several histories: `seen`, `kinds`"),
        ([*DUPN, "model.sequence.properties=[kind]"], "model.sequence.properties names `kind`, which is not one of"),
        ([*DUPN, "model.sequence.properties=[seen, kinds]"], "model.sequence.item is empty"),
        ([*DUPN, "model.sequence.user=[seen]"], "model.sequence.user names `seen`, a feature of kind `sequence`"),
        (
            [*TIM, GAP, "model.sequence.behaviours={a: [seen], b: [kinds, gap]}"],
            "behaviours.b names `gap`, whose numbers are of the steps of `seen`, which is not there; move the two together",
        ),
        (
            [*TIM, GAP, "model.sequence.behaviours={a: [seen, gap], b: [gap, kinds]}"],
            "names `gap` 2 times; list it once",
        ),
        ([*DUPN, GAP, "model.sequence.item=[gap]", "model.sequence.properties=[seen, kinds]"], "item is empty"),
        ([*DUPN, GAP, "model.sequence.user=[gap]"], "user names `gap`, a feature of kind `sequence_dense`"),
        (
            [*TIM, "features.gap={kind: sequence_dense, of: sen}"],
            "features.gap.of names `sen`, which is not a feature; set it to one of `seen`, `kinds`; did you mean `seen`?",
        ),
        (
            [*TIM, "features.gap={kind: sequence_dense, of: age}"],
            "features.gap.of names `age`, a feature of kind `dense`; set it to one of `seen`, `kinds`",
        ),
        (
            ["features.gap={kind: sequence_dense, of: age}"],
            "features.gap.of names `age`, a feature of kind `dense`; set it to a feature of kind `sequence`, which must be added",
        ),
        ([*TIM, GAP.replace("}", ", side: user}")], "features.gap.side"),
        (
            [*TIM, "features.tags={kind: ids, weights: w}", "tables.tags={rows: 3, dim: 8}"],
            "tables that are read as sequences or with weights need one `dim` (TorchRec keeps them in one module), but they have",
        ),
        ([*HISTORIES, "model.preset=m2m"], "nothing distinguishes the scenarios; set data.scenario"),
        ([*HISTORIES, "model.preset=m2m", "model.trunk.knowledge=[ag]"], "model.trunk.knowledge names `ag`"),
        ([*HISTORIES], "model.sequence is `none` but there are features of kind `sequence`"),
        (["model.sequence.type=pooled"], "model.sequence is `pooled` but no feature has the kind `sequence`"),
    ],
)
def test_the_sentence(changes: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small(*changes)
    assert sentence in str(caught.value)


def test_what_is_right_passes() -> None:
    small(*TIM, "model.sequence.behaviours={a: [seen, kinds]}")
    small(*DUPN, "model.sequence.properties=[kinds]", "model.sequence.user=[user, age]")
    small(*HISTORIES, "model.preset=m2m", "model.trunk.knowledge=[user, age]")
