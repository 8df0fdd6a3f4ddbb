"""Recalibration in a training job: users to fit on and users to judge, any number of workers, checkpoints and versions."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.data.read import Input, Schedule
from raymtl.model_store.loader import check_fits, load_version
from raymtl.model_store.store import publish, rollback, show
from raymtl.model_store.writer import Delta, write_version
from raymtl.serving.model import load_ranker
from raymtl.serving.version import open_version, read_dense
from raymtl.storage.object_store import Store
from raymtl.training import checkpoint
from raymtl.training.build import TrainState
from raymtl.training.progress import Progress
from raymtl.training.trainer import Trainer, Worker
from tests.helpers.mixed_models import make
from tests.helpers.version_models import draft
from tests.helpers.worker_processes import mixed_block, mixed_config, several
from tests.training.test_trainer import plan_of

ROWS = [900, 700]
DAY = {"start": "2026-01-02", "end": "2026-01-02"}


def config_of(calibration: dict[str, Any] | None, **changes: Any) -> Config:
    raw = mixed_config([None], rows=96).model_dump(mode="json")
    raw["data"] |= {"group": "user", "eval": DAY, "scenario": {"column": "place", "values": ["feed", "search"]}}
    return Config.model_validate(raw | {"calibration": calibration} | changes)


def evaluation(config: Config, schedule: Schedule, rank: int, workers: int) -> Iterator[pa.Table]:
    """Blocks of evaluation rows; each worker has every n-th of the same rows."""
    for place, (_, unit) in enumerate(schedule):
        whole = mixed_block(config, ROWS[unit], seed=unit, unit=place)
        users = np.random.default_rng([unit, 5]).integers(0, 300, ROWS[unit])
        whole = whole.append_column("group", pa.array(users))
        yield whole.take(pa.array(np.arange(rank, ROWS[unit], workers)))


def trainer_of(config: Config, state: TrainState, rank: int, workers: int) -> tuple[Trainer, Input]:
    loader_groups = [dist.new_group(backend="gloo") if workers > 1 else None for _ in range(2)]
    world = dist.group.WORLD
    assert world is not None

    def open_stream(source: Input, schedule: Schedule, meetings: Sequence[int]) -> Iterator[pa.Table]:
        return evaluation(config, schedule, rank, workers)

    worker = Worker(rank, workers, torch.device("cpu"), world, *loader_groups, open_stream)
    source = Input(plan_of(ROWS), True)
    return Trainer(worker, config, state, {"eval": source}, Progress(), None, lambda: None), source


def maps_of(state: TrainState) -> torch.Tensor:
    return state.model.module.head.ranker.calibrator.maps.clone()


def calibrate(rank: int, workers: int, folder: str, method: str) -> dict[str, Any]:
    """The maps, the metrics before and after, and what a model made anew has after loading the checkpoint of three workers."""
    config = config_of({"method": method, "by": "scenario", "prior_positives": 10.0})
    state = make(config)
    torch.manual_seed(7)
    with torch.no_grad():  # labels are random, and the model is very sure of them
        for parameter in state.model.module.head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    trainer, source = trainer_of(config, state, rank, workers)
    before, all_rows = trainer.measure(source), trainer.measure(source, unseen=True)
    trainer.calibrate(source)
    found = {"maps": maps_of(state), "before": before, "all": all_rows, "after": trainer.measure(source)}
    world = dist.group.WORLD
    assert world is not None
    if workers == 3:
        checkpoint.save(state, Progress(plan="plan"), folder, world, background=False)
    else:
        fresh = make(config)
        checkpoint.load(fresh, folder, model_only=True, group=world)
        found["loaded"] = maps_of(fresh)
    return found


@pytest.mark.dist
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_one_and_three_workers_fit_the_same_maps_and_a_checkpoint_has_them(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    many = several(3, tmp_path / "three", calibrate, str(folder), method)
    [one] = several(1, tmp_path / "one", calibrate, str(folder), method)
    for other in many:
        torch.testing.assert_close(other["maps"], one["maps"], rtol=1e-4, atol=1e-4)
        assert torch.equal(other["maps"], many[0]["maps"])
        assert other["after"]["calibration"]["click"]["scenario_error"]["after"] == pytest.approx(
            one["after"]["calibration"]["click"]["scenario_error"]["after"], abs=1e-5
        )
    assert torch.equal(one["loaded"], many[0]["maps"])
    identity = one["before"]["calibration"]["click"]
    assert identity["before"]["calibration_error"] == pytest.approx(
        identity["after"]["calibration_error"], abs=1e-6
    )  # the maps were the identity
    changed = one["after"]["calibration"]["click"]
    assert changed["before"] == identity["before"]
    assert changed["scenario_error"]["after"] < changed["scenario_error"]["before"]
    assert set(changed["scenarios"]) == {"feed", "search", "other"}
    for scenario in ("feed", "search", "other"):
        for task in ("click", "buy"):
            rows = [one[key]["scenarios"][scenario][task] for key in ("before", "after")]
            if method == "platt":
                assert rows[0]["auc"] == pytest.approx(rows[1]["auc"], abs=1e-6)
            assert rows[0]["count"] == rows[1]["count"]
    # The users of the fit are left out, about half of them
    assert 0.4 < one["before"]["rows"] / one["all"]["rows"] < 0.6
    assert one["all"]["rows"] == sum(ROWS)


def versions(rank: int, workers: int, root: str) -> dict[str, Any]:
    """Two versions, the second a delta, each with its own maps; then every way to turn recalibration on, over and off."""
    config = config_of({"by": "scenario"})
    world = dist.group.WORLD
    assert world is not None
    state, store = make(config), Store.open(root)
    calibrator = state.model.module.head.ranker.calibrator
    calibrator.maps[..., 0] = 0.5
    write_version(state, store, draft(config, "first"), world)
    publish(store, "first")
    calibrator.maps[..., 0] = 0.25
    delta = Delta("first", {name: np.arange(2) for name in config.tables})
    write_version(state, store, draft(config, "second"), world, delta=delta)
    publish(store, "second")
    found: dict[str, Any] = {"current": served_slopes(store)}
    rollback(store)
    found["rolled back"] = served_slopes(store)

    def loaded(config: Config, version: str) -> tuple[Any, list[str]]:
        other = make(config)
        ranker = other.model.module.head.ranker
        if ranker.calibrator is not None:
            ranker.calibrator.maps.fill_(9.0)  # of a version that was loaded before
        check_fits(config, store, show(store, version))
        notes = load_version(other, config, store, version, world, optimizer=False).notes
        return None if ranker.calibrator is None else maps_of(other), notes

    found["same"] = loaded(config, "second")
    found["off"] = loaded(config_of(None), "second")
    found["other tasks"] = loaded(config_of({"by": "scenario", "tasks": ["click"]}), "second")
    plain = config_of(None)
    write_version(make(plain), store, draft(plain, "plain"), world)
    publish(store, "plain")
    found["on"] = loaded(config, "plain")
    return found


def served_slopes(store: Store) -> list[float]:
    version = open_version(store.path)
    ranker = load_ranker(version.config, read_dense(version), version.manifest.id)
    assert ranker.calibrator is not None
    return ranker.calibrator.maps[..., 0].unique().tolist()


@pytest.mark.dist
def test_each_version_has_its_own_maps(tmp_path: Path) -> None:
    """A delta too, and after a rollback those of the version that is current again."""
    [found] = several(1, tmp_path / "run", versions, str(tmp_path / "store"))
    assert found["current"] == [0.25]
    assert found["rolled back"] == [0.5]
    maps, notes = found["same"]
    assert maps[..., 0].unique().tolist() == [0.25]
    assert notes == []
    identity = torch.tensor([1.0, 0.0])
    for case, noted in (("on", False), ("other tasks", True)):
        maps, notes = found[case]
        assert (maps == identity).all()
        assert bool(notes) == noted
    assert found["off"][0] is None
    assert "recalibrated with another `calibration`" in found["off"][1][0]
