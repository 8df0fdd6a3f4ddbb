"""The Missing Value Layer from the files to the loss: K4 to K6 (docs/formulas.md §9)."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.data.batch import Batch, Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.embeddings.tables import describe_lookup
from raymtl.errors import DataError
from raymtl.models.input_layers.concat import ConcatInput
from raymtl.models.input_layers.missing import MissingValues
from raymtl.models.inputs import InputSpec, ModelInput, Pick
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.slots import Context

SPEC = InputSpec(pooled={"user": 2}, dense=("age", "price", "rating"), dense_fill=(0.5, -1.0, 0.0))
NAN = math.nan


def layer(flags: bool = False) -> MissingValues:
    return MissingValues(SPEC, flags)


def test_k4_without_nulls_it_is_the_identity_and_nothing_is_learned() -> None:
    made, x = layer(), torch.randn(6, 3)
    assert torch.equal(made(x), x)
    made(x).square().sum().backward()
    assert made.value.grad is not None
    assert made.value.grad.tolist() == [0, 0, 0]


def test_k4_what_stands_for_a_null_does_not_depend_on_x() -> None:
    """A null is a NaN here, so x under it can only be one of the many NaNs; its own gradient is zero, not NaN."""
    made = layer()
    made.value.data = torch.tensor([3.0, 4.0, 5.0])
    odd = torch.tensor([0x7FC00000, -0x00400000, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert odd.isnan().all()
    for nan in odd:
        x = torch.stack((torch.stack((nan, torch.tensor(1.0), nan)), nan.expand(3))).requires_grad_()
        assert made(x).tolist() == [[3, 1, 5], [3, 4, 5]]
        (gradient,) = torch.autograd.grad(made(x).sum(), [x])
        assert gradient.tolist() == [[0, 1, 0], [0, 0, 0]]


def test_k5_the_gradient_of_v_counts_only_rows_without_the_number() -> None:
    made = layer()
    x = torch.tensor([[NAN, 1.0, NAN], [NAN, 2.0, 3.0], [4.0, 5.0, NAN], [NAN, 6.0, 7.0]])
    upstream = torch.tensor([[1.0, 10, 100], [2, 20, 200], [3, 30, 300], [4, 40, 400]])
    (made(x) * upstream).sum().backward()
    assert made.value.grad is not None
    assert made.value.grad.tolist() == [1 + 2 + 4, 0, 100 + 300]


def test_v_starts_at_the_fill_of_its_feature_so_that_step_0_is_that_of_fill() -> None:
    x = torch.tensor([[NAN, NAN, NAN], [1.0, NAN, 2.0]])
    assert layer()(x).tolist() == [[0.5, -1, 0], [1, -1, 2]]
    assert InputSpec({}, dense=("a", "b")).dense_fill == (0, 0)


def test_flags_are_one_more_input_per_feature() -> None:
    made = layer(flags=True)
    assert made.width == 6
    assert made(torch.tensor([[NAN, 1.0, NAN], [1.0, 2.0, 3.0]])).tolist() == [[0.5, 1, 0, 1, 0, 1], [1, 2, 3, 0, 0, 0]]


def test_only_learned_values_come_with_parameters() -> None:
    context = Context({"click": Task()}, SPEC, 1)
    assert not list(ConcatInput(context).parameters())
    slot = ConcatInput(context, missing="learned", missing_flags=True)
    assert [n for n, _ in slot.named_parameters()] == ["missing.value"]
    inputs = ModelInput(torch.randn(2, 2), torch.tensor([[NAN, 1.0, 2.0], [3.0, NAN, 4.0]]))
    assert slot.width == 2 + 3 + 3
    assert torch.equal(slot(inputs)[:, :2], inputs.pooled)
    assert slot(inputs)[:, 2:].tolist() == [[0.5, 1, 2, 1, 0, 0], [3, -1, 4, 0, 1, 0]]
    assert inputs.dense.isnan().sum() == 2  # the inputs of the other slots stay as they were
    none = ConcatInput(Context({"click": Task()}, InputSpec({"user": 2}), 1), missing="learned")
    assert not list(none.parameters())


def test_other_slots_read_the_fill() -> None:
    inputs = ModelInput(torch.tensor([[7.0, 8.0]]), torch.tensor([[NAN, NAN, 2.0]]))
    assert Pick(SPEC, ["price", "user", "rating", "age"])(inputs).tolist() == [[-1, 7, 8, 2, 0.5]]


def test_exported_it_is_the_same() -> None:
    batch = {0: torch.export.Dim("batch", min=1)}
    for flags in (False, True):
        made = layer(flags)
        nn.init.normal_(made.value)
        graph = torch.export.export(made, (torch.randn(4, 3),), dynamic_shapes=(batch,)).module()
        for x in (torch.tensor([[NAN, 1.0, NAN]]), torch.full((9, 3), NAN)):
            assert torch.equal(graph(x), made(x))


# From the files


CONFIG = """
data: {path: /logs, train: {start: 2026-01-01, end: 2026-01-01}}
features:
  price: {kind: dense, transform: log1p, mean: 1.0, std: 2.0, fill: -0.5}
  age: {kind: dense}
tasks: {click: {}}
model: {preset: meituan, kl_bound: {weight: 0}, trunk: {hidden: [6]}, towers: {hidden: [4]}}
"""
PRICES = pa.array([0.0, None, 3.0, None], pa.float64())
AGES = pa.array([1, 2, 3, None], pa.int8())
PLACE = Place("part-0.parquet", 0)


def config_of(*overrides: str) -> Config:
    return load_config(None, overrides, text=CONFIG)


def block_of(config: Config, price: pa.Array = PRICES) -> pa.Table:
    raw = pa.table({"price": price, "age": AGES, "click": pa.array([0, 1, 0, 1], pa.int8())})
    return BlockMaker(config, evaluation=False)(raw, PLACE, 0)


def batch_of(config: Config, rows: int = 5) -> Batch:
    return Collator(config, rows, evaluation=False)([block_of(config)])


@pytest.mark.parametrize("kind", ["concat", "field_wise"])
def test_a_null_reaches_the_model_as_nan_where_it_learns_and_as_fill_elsewhere(kind: str) -> None:
    ids = ["features.user={kind: id}", "tables.user={rows: 5}"] if kind == "field_wise" else []
    raw = {"price": PRICES, "age": AGES, "user": [1, 2, 3, 4], "click": [0, 1, 0, 1]}
    found = {}
    for missing in ("fill", "learned"):
        config = config_of(f"model.input={{type: {kind}, missing: {missing}, missing_flags: false}}", *ids)
        found[missing] = BlockMaker(config, False)(pa.table(raw), PLACE, 0)
    there = (math.log(4) - 1) / 2
    assert found["learned"]["dense:price"].to_pylist() == pytest.approx([-0.5, NAN, there, NAN], nan_ok=True)
    assert found["fill"]["dense:price"].to_pylist() == pytest.approx([-0.5, -0.5, there, -0.5])
    assert found["learned"]["dense:age"].to_pylist() == pytest.approx([1, 2, 3, NAN], nan_ok=True)
    assert found["fill"]["dense:age"].to_pylist() == [1, 2, 3, 0]
    assert found["learned"]["dense:price"].null_count == 0  # NaN, not an Arrow null


def test_a_custom_input_slot_gets_the_fill() -> None:
    config = config_of("model.input={type: custom, path: 'some.where:Slot', options: {missing: learned}}")
    assert block_of(config)["dense:price"].to_pylist()[1] == -0.5


def test_what_lies_below_a_null_is_not_read() -> None:
    values = np.array([0.0, math.inf, 3.0, 77.0])
    price = pa.Array.from_buffers(pa.float64(), 4, [pa.py_buffer(b"\x05"), pa.py_buffer(values.tobytes())])
    config = config_of()
    assert block_of(config, price)["dense:price"].to_pylist() == pytest.approx(
        block_of(config)["dense:price"].to_pylist(), nan_ok=True
    )


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_nan_in_the_files_stays_an_error(value: float) -> None:
    with pytest.raises(DataError, match=r"row 2: the value is (nan|inf), expected a finite number; write null"):
        block_of(config_of(), pa.array([0.0, None, value, 1.0]))


def ranker_of(config: Config) -> Ranker:
    torch.manual_seed(0)
    return build_ranker(config.model, config.active_tasks(), describe_lookup(config).spec, {"click": 0.5})


def learned(ranker: Ranker) -> nn.Parameter:
    assert isinstance(ranker.input, ConcatInput)
    assert ranker.input.missing is not None
    return ranker.input.missing.value


def step(ranker: Ranker, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss and logits of a batch without ID features."""
    logits = ranker(ModelInput(torch.zeros(len(batch.dense), 0), batch.dense))
    rows = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
    return (rows * batch.valid.unsqueeze(1)).sum(), logits


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("flags", ["true", "false"])
def test_k6_nulls_give_a_finite_loss_and_finite_gradients(flags: str, bf16: bool) -> None:
    config = config_of(f"model.input.missing_flags={flags}")
    ranker, batch = ranker_of(config), batch_of(config)
    assert batch.dense[:4].isnan().sum() == 3
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, logits = step(ranker, batch)
    assert loss.isfinite()
    assert logits.isfinite().all()
    loss.backward()
    for name, p in ranker.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    assert learned(ranker).grad is not None
    assert learned(ranker).grad.all()


def test_the_first_step_is_that_of_fill_and_v_moves_afterwards() -> None:
    config = config_of("model.input.missing_flags=false")
    plain = config_of("model.input={type: concat, missing: fill, missing_flags: false}")
    ranker, other = ranker_of(config), ranker_of(plain)
    assert learned(ranker).tolist() == [-0.5, 0]
    batch = batch_of(config)
    assert torch.equal(step(ranker, batch)[1], step(other, batch_of(plain))[1])
    optimizer = torch.optim.SGD(ranker.parameters(), lr=1.0)
    step(ranker, batch)[0].backward()
    optimizer.step()
    assert (learned(ranker) != torch.tensor([-0.5, 0])).all()


def test_padding_is_no_null() -> None:
    """A worker that has run out of rows feeds zeros: they must not train v."""
    config = config_of()
    ranker, empty = ranker_of(config), Collator(config, 3, evaluation=False)([])
    assert not empty.dense.any()
    step(ranker, empty)[0].backward()
    found: list[Any] = [p.grad for p in ranker.parameters()]
    assert all(g is not None and not g.any() for g in found)
