"""Batches whose rows share the user side of their request: the same losses and gradients as without, for every preset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.units import Counted
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.build import build
from tests.helpers.nested_logs import nest_folder
from tests.helpers.worker_processes import several
from tests.training.test_every_preset import CONF, NAMES, batches

STEPS, ROWS = 2, 180
"""18 requests of ten rows each in a step, which three workers cut in the middle of requests."""
LAYOUTS = {
    "flat": [],
    "requests": ["data.request=request_id"],
    "nested": ["data.path={logs}-nested", "data.impressions=impressions"],
}
RATE = 0.5
OF_REQUESTS = (
    *(
        "request_id",
        "timestamp",
        "scenario",
        "hour_of_day",
        "user_id",
        "user_segment",
        "age",
        "gender",
        "city",
        "device",
    ),
    *(
        "app_version",
        "user_clicks_30d",
        "hist_items",
        "hist_categories",
        "hist_kinds",
        "hist_gaps",
        "hist_hours",
        "hist_carts",
        "hist_buys",
    ),
    *("random_order", "weight"),
)


def configured(name: str, logs: str, *more: str) -> Config:
    days = ["data.train={start: 2026-01-01, end: 2026-01-01}", "data.eval=null", "train.precision=fp32"]
    rates = ["train.sparse_optimizer={type: sgd, lr: 0.5}", "train.schedule={decay: none}"]
    return load_config(
        str(CONF / f"{name}.yaml"), [f"data.path={logs}", f"train.batch_size={ROWS}", *days, *rates, *more]
    )


def trained(config: Config, rank: int, workers: int, counted: Sequence[Counted] = (Counted(),)) -> dict[str, Any]:
    """Losses of some steps, the dense gradients of the last, and the tables after it."""
    group = dist.group.WORLD
    assert group is not None
    some, rates = batches(config, rank, workers, STEPS, ROWS, counted)
    built = build(config, rates, STEPS, torch.device("cpu"), group)
    losses = []
    for batch in some:
        torch.manual_seed(3)  # of dropout
        built.optimizers.zero_grad()
        loss, (_, per_task, *_) = built.model(batch)
        loss.backward()
        built.optimizers.step()
        losses.append([loss.item(), *per_task.tolist()])
    dense = {n: p.grad.clone() for n, p in built.model.module.head.named_parameters() if p.grad is not None}
    tables = {n: value for n, value in built.model.state_dict().items() if not n.startswith("head.")}
    local = {
        n.rsplit(".", 2)[-2]: [s.tensor.clone() for s in v.local_shards()]
        if hasattr(v, "local_shards")
        else [v.clone()]
        for n, v in tables.items()
    }
    return {"losses": losses, "dense": dense, "tables": local, "requests": len(some[0].user_dense)}


def of_layouts(rank: int, workers: int, logs: str, names: list[str], more: list[str]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for name in names:
        answers[name] = {
            layout: trained(configured(name, logs, *more, *(key.format(logs=logs) for key in keys)), rank, workers)
            for layout, keys in LAYOUTS.items()
        }
    return answers


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("requests")
    spec = SynthSpec(days=1, rows_per_day=1_000, users=60, items=80, behaviours=True, engagement=True, interest=1.0)
    logs = str(folder / "logs")
    write_logs(spec, logs)
    one = pq.read_schema(next(Path(logs).rglob("*.parquet")))
    nest_folder(logs, f"{logs}-nested", "request_id", [name for name in one.names if name not in OF_REQUESTS], 1000)
    return logs


def check(flat: dict[str, Any], shared: dict[str, Any]) -> None:
    assert shared["requests"] < flat["requests"] / 5
    assert torch.allclose(torch.tensor(shared["losses"]), torch.tensor(flat["losses"]), rtol=1e-6, atol=1e-6)
    assert shared["dense"].keys() == flat["dense"].keys()
    for name, gradient in flat["dense"].items():
        assert torch.allclose(shared["dense"][name], gradient, rtol=1e-5, atol=1e-6), name
    assert shared["tables"].keys() == flat["tables"].keys()
    for name, parts in flat["tables"].items():
        for ours, theirs in zip(shared["tables"][name], parts, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6 * RATE), name


@pytest.mark.dist
@pytest.mark.parametrize("workers", [1, 3])
def test_losses_and_gradients_are_those_of_flat_rows(workers: int, logs: str, tmp_path: Path) -> None:
    for answer in several(workers, tmp_path / "run", of_layouts, logs, NAMES, [], limit_s=300):
        for found in answer.values():
            check(found["flat"], found["requests"])
            check(found["flat"], found["nested"])


@pytest.mark.dist
def test_embedded_numbers_and_interactions_too(logs: str, tmp_path: Path) -> None:
    more = [
        "features.price.embed={type: autodis, width: 4, buckets: 3}",
        "features.user_clicks_30d.embed={type: piecewise, edges: [-1.0, 0.0, 2.0]}",
        "features.city.null_id=99",
    ]
    for answer in several(2, tmp_path / "run", of_layouts, logs, ["mmoe"], more, limit_s=300):
        check(answer["mmoe"]["flat"], answer["mmoe"]["requests"])
        check(answer["mmoe"]["flat"], answer["mmoe"]["nested"])


@pytest.mark.dist
@pytest.mark.parametrize("sharding", ["row_wise", "table_wise"])
def test_sharded_tables_too(sharding: str, logs: str, tmp_path: Path) -> None:
    more = [f"table_defaults.sharding={sharding}"]
    for answer in several(3, tmp_path / "run", of_layouts, logs, ["mmoe", "dtrn", "din"], more, limit_s=300):
        for found in answer.values():
            check(found["flat"], found["requests"])
            check(found["flat"], found["nested"])
