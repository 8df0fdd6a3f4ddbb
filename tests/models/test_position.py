"""The position tower (docs/formulas.md §11) and what it reads."""

from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedTensor

from raymtl.config.load import load_config
from raymtl.config.model import Model
from raymtl.config.tasks import Task
from raymtl.data.batch import Collator
from raymtl.embeddings.tables import InputAssembler, describe_lookup
from raymtl.errors import ConfigError
from raymtl.models.biases.position import PositionTower
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.slots import Context
from tests.helpers.model_zoo import FUNNEL, SPEC, make, rows, stir, stirred

TWO = {"tasks": ["click", "buy"], "hidden": [3], "dropout": 0.0}


def tower(spec: InputSpec = SPEC, tasks: dict[str, Task] = FUNNEL, **options: Any) -> PositionTower:
    return stir(PositionTower(Context(tasks, spec, len(tasks)), **{**TWO, **options}))


def youtube(**options: Any) -> Ranker:
    return stirred("youtube", bias={"type": "position", **TWO, **options})


@pytest.mark.parametrize("hidden", [[], [3], [5, 3]])
def test_shallow_tower_written_out(hidden: list[int]) -> None:
    slot, inputs = tower(hidden=hidden), rows(20)
    found = slot(inputs)
    assert inputs.bias is not None
    assert inputs.bias_present is not None
    for i, t in enumerate((0, 2)):
        h = inputs.bias
        for layer in slot.mlps.layers if slot.mlps is not None else []:
            h = (h @ layer.weight[i].T + layer.bias[i]).relu()
        torch.testing.assert_close(found[:, t], (h @ slot.weight[i]) * inputs.bias_present)
    assert not inputs.bias_present.all()


def test_several_features_side_by_side() -> None:
    spec = InputSpec({}, bias={"position": 4, "device": 2})
    slot = tower(spec, hidden=[])
    position, device = torch.randn(9, 4), torch.randn(9, 2)
    found = slot(ModelInput(torch.zeros(9, 0), torch.zeros(9, 0), bias=torch.cat((position, device), 1)))
    torch.testing.assert_close(found[:, 0], position @ slot.weight[0, :4] + device @ slot.weight[0, 4:])


def test_y1_served_logits_do_not_depend_on_the_position() -> None:
    model, inputs = youtube().eval(), rows(20)
    served = model(inputs)
    for position in (torch.zeros(20, 4), 1e3 * torch.randn(20, 4), torch.full((20, 4), torch.nan), None):
        inputs.bias = position
        assert torch.equal(model(inputs), served)
    inputs.bias_present = torch.zeros(20).bool()
    assert torch.equal(model(inputs), served)
    inputs = rows(20)
    assert not torch.equal(model.train()(inputs), served)


def test_y2_the_exported_graph_has_no_position() -> None:
    class Served(torch.nn.Module):
        def __init__(self, model: Ranker):
            super().__init__()
            self.model = model

        def forward(self, pooled: Tensor, dense: Tensor, position: Tensor) -> Tensor:
            return self.model(ModelInput(pooled, dense, bias=position))

    model, inputs = youtube().eval(), rows(5)
    assert inputs.bias is not None
    graph = torch.export.export(Served(model), (inputs.pooled, inputs.dense, inputs.bias)).graph
    users = {node.name: len(node.users) for node in graph.nodes if node.op == "placeholder"}
    assert users["position"] == 0  # it is offered, and nothing reads it
    assert users["pooled"] == users["dense"] == 1
    assert not any(users[name] for name in users if "model_bias" in name)
    assert any(users[name] for name in users if "model_towers" in name)


@pytest.mark.parametrize("why", ["absent", "hidden"])
def test_y3_without_positions_training_is_serving(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = youtube(dropout=0.5 if why == "hidden" else 0.0), rows(20)
    inputs.bias_present = torch.zeros(20).bool() if why == "absent" else None
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.zeros(*size))  # below any share
    assert torch.equal(model.train()(inputs), model.eval()(inputs))
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, 0.99))
    assert torch.equal(model.train()(inputs), model.eval()(inputs)) == (why == "absent")


def test_a_share_of_the_rows_is_hidden_in_training() -> None:
    slot, many = tower(hidden=[], dropout=0.25), rows(4000)
    many.bias_present = torch.arange(4000) % 2 == 0
    found = slot(many)
    shown = found.any(1)
    assert not shown[1::2].any()
    assert shown[::2].float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert ((found[:, 0] != 0) == (found[:, 2] != 0)).all()  # the row's position, not one head's
    assert torch.equal(slot.eval()(many)[shown], found[shown])
    assert slot(many)[::2].any(1).all()


def test_y4_other_tasks_never_meet_the_position() -> None:
    model, inputs = youtube(), rows(30)
    assert inputs.bias is not None
    inputs.bias.requires_grad_()
    parameters = [*model.bias.parameters(), inputs.bias]
    logits = model(inputs)
    assert not model.bias(inputs)[:, 1].any()
    for t, reads in enumerate((True, False, True)):
        found = torch.autograd.grad(logits[:, t].sum(), parameters, retain_graph=True)
        assert [bool(g.any()) for g in found] == [reads] * len(parameters)
    own = torch.autograd.grad(logits[:, 0].sum(), list(model.bias.parameters()))
    assert all(not g[1].any() for g in own)  # every task has a tower of its own


def test_y5_the_untrained_model_is_the_one_without_the_tower() -> None:
    bias, none = {"type": "position", **TWO}, {"type": "none"}
    with_tower, without = make("youtube", bias=bias), make("youtube", bias=none)
    assert torch.equal(with_tower(rows(20)), without(rows(20)))
    loss = with_tower(rows(20)).sum()
    loss.backward()
    assert with_tower.bias.weight.grad.any()


def test_first_task_by_default() -> None:
    two = {"a": Task(kind="count"), "b": Task()}
    found = stir(PositionTower(Context(two, SPEC, 2)))(rows(20))
    assert found[:, 0].any()
    assert not found[:, 1].any()


def test_tasks_that_are_not_trained_are_skipped() -> None:
    assert len(tower(tasks={"click": Task(), "cart": Task()}).weight) == 1
    with pytest.raises(ConfigError, match=r"model.bias.tasks is \['click', 'buy'\], none of which is trained"):
        tower(tasks={"like": Task()})
    with pytest.raises(ConfigError, match="no feature has the kind `bias`"):
        tower(InputSpec({}))


def test_fp32_under_autocast() -> None:
    slot, inputs = tower(hidden=[]), rows(20)
    with torch.autocast("cpu", torch.bfloat16):
        found = slot(inputs)
    assert found.dtype == torch.float32
    assert torch.equal(found, slot(inputs))


PLACES, CLICKS = 10, {"click": Task()}


def shown(n: int, seed: int, old_ranker: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, relevance, place and clicks; the ranker of the day put rows by feature 2, of which relevance knows nothing."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=g)
    relevance = x[:, 0] + 0.5 * x[:, 1]
    score = old_ranker * x[:, 2] + torch.randn(n, generator=g)
    place = PLACES - 1 - score.argsort().argsort() * PLACES // n
    click = torch.rand(n, generator=g) < (0.5 + relevance - 0.4 * place).sigmoid()
    return x, relevance, F.one_hot(place, PLACES).float(), click.float()


def learn(position: bool, old_ranker: float) -> tuple[float, float]:
    """AUC of the served score against the true relevance, and its slope."""
    torch.manual_seed(0)
    x, _, place, click = shown(6000, 1, old_ranker)
    bias = {"type": "position", "hidden": [8]} if position else {"type": "none"}
    section = Model(trunk={"type": "shared_bottom", "hidden": []}, towers={"hidden": []}, bias=bias)
    spec = InputSpec({}, dense=("a", "b", "c", "d"), bias={"place": PLACES})
    model = build_ranker(section, CLICKS, spec, {"click": click.mean().item()})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for chosen in torch.randint(0, 6000, (150, 256)):
        logits = model(ModelInput(torch.zeros(256, 0), x[chosen], bias=place[chosen]))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits[:, 0], click[chosen]).backward()
        optimizer.step()
    x, relevance, _, _ = shown(6000, 2, old_ranker)
    with torch.no_grad():
        score = model.eval()(ModelInput(torch.zeros(6000, 0), x))[:, 0]
    good = relevance > 0
    ranks = score.argsort().argsort().float()
    auc = (ranks[good].mean() - (good.sum() - 1) / 2) / (~good).sum()
    slope = torch.cov(torch.stack((score, relevance)))[0, 1] / relevance.var()
    return auc.item(), slope.item()


def test_y6_relevance_is_recovered_where_places_followed_an_old_ranker() -> None:
    with_tower, without = learn(True, 1.0)[0], learn(False, 1.0)[0]
    assert with_tower > 0.95
    assert without < with_tower - 0.05


def test_y6_relevance_is_recovered_to_scale_where_places_were_random() -> None:
    # The order is right without a tower too: clicks over all places still rise with relevance, only less steeply.
    with_tower, without = learn(True, 0.0)[1], learn(False, 0.0)[1]
    assert with_tower == pytest.approx(1.0, abs=0.12)
    assert without < with_tower - 0.08


# What the tables hand to the tower

PLACED = """
data: {path: /logs, train: {start: 2026-01-01, end: 2026-01-03}}
features:
  place: {kind: bias}
  user: {kind: id}
  device: {kind: bias, table: DEVICE}
  age: {kind: dense}
  history: {kind: sequence, table: item}
tables: {user: {rows: 9, dim: 4}, place: {rows: 9, dim: 8}, DEVICE: {rows: 9, dim: 4}, item: {rows: 9, dim: 4}}
tasks: {click: {}}
model: {preset: youtube, sequence: {type: pooled}}
"""


@pytest.mark.parametrize("table", ["device", "item"])  # pooled, or looked up unpooled because a sequence shares it
def test_a_row_has_a_position_if_it_has_all_of_its_bias_features(table: str) -> None:
    unused = "DEVICE: {rows: 9, dim: 4}, "
    text = PLACED.replace(unused, "") if table == "item" else PLACED
    config = load_config(None, [], text=text.replace("DEVICE", table))
    block = pa.table(
        {
            "id:place": pa.array([1, None, 3, None]),
            "id:user": pa.array([None, 1, 1, 1]),
            "id:device": pa.array([1, 2, None, None]),
            "dense:age": pa.array([0.0, 1.0, 2.0, 3.0], pa.float32()),
            "ids:history": pa.array([[1, 2], [], [3], [4]], pa.list_(pa.int64())),
            "label:click": pa.array([0.0] * 4, pa.float32()),
        }
    )
    batch = Collator(config, 5, False)([block])  # one row of padding
    lookup, arrange = describe_lookup(config), InputAssembler(config, describe_lookup(config))
    pooled = {n: lookup.tables[config.table_of(n)].dim for n in list(batch.ids.keys())}
    values = torch.arange(5.0 * sum(pooled.values())).view(5, -1)
    answers = KeyedTensor(list(pooled), list(pooled.values()), values)
    jagged = {
        name: JaggedTensor(ids.values().float().unsqueeze(1).expand(-1, 2), lengths=ids.lengths())
        for name, ids in batch.sequences.to_dict().items()
    }
    inputs = arrange(answers, jagged, batch)
    assert inputs.bias_present is not None
    assert inputs.bias_present.tolist() == [True, False, False, False, False]
    assert inputs.bias is not None
    device = answers["device"] if table == "device" else torch.tensor([[1.0, 1], [2, 2], [0, 0], [0, 0], [0, 0]])
    assert torch.equal(inputs.bias, torch.cat((answers["place"], device), 1))
    assert torch.equal(inputs.pooled, answers["user"])
    assert inputs.dense is batch.dense
    assert inputs.scenario is batch.scenario


def test_without_bias_features_the_tables_answer_is_the_input() -> None:
    text = "\n".join(line for line in PLACED.splitlines() if "kind: bias" not in line)
    text = text.replace(" place: {rows: 9, dim: 8}, DEVICE: {rows: 9, dim: 4},", "").replace("youtube", "mmoe")
    config = load_config(None, [], text=text)
    batch = Collator(config, 2, False)([])
    values = torch.randn(2, 2)
    inputs = InputAssembler(config, describe_lookup(config))(KeyedTensor(["user"], [2], values), None, batch)
    assert inputs.pooled is values
    assert inputs.bias is None
    assert inputs.bias_present is None
