"""Whole searches on a Ray cluster: trials alone and nested, stopped, crashed, broken, and taken up again."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.model_store.lease import acquire
from raymtl.model_store.publish_run import publish_run
from raymtl.storage.object_store import Store
from raymtl.training import driver as training
from raymtl.training.rundir import RunFolder
from raymtl.tuning import sampler
from raymtl.tuning.run import open_search, tune
from raymtl.tuning.trial_store import TrialStore
from tests.helpers.tune_process import search_config

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
LR = "train.dense_optimizer.lr"
STOPPING: dict[str, Any] = {
    "space": {LR: {"log_uniform": [0.001, 0.01]}},
    "stopping": {"type": "asha", "first_rung_rows": 300, "reduction": 2},
    "max_concurrent": 1,
    "repeats": 0,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("searches")


def loaded(root: Path, name: str, section: dict[str, Any], *sets: str, **train: Any) -> Config:
    return load_config(search_config(root, name, section, files=4, **train), sets)


def test_trials_share_data_and_processes_and_equal_runs_of_their_own(ray_cluster: None, root: Path) -> None:
    section = {
        "space": {LR: {"choice": [0.001, 0.002, 1e30]}},
        "sampler": {"type": "grid"},
        "max_trials": 4,
        "max_concurrent": 2,
        "repeats": 1,
    }
    config = loaded(root, "alone", section)
    result = tune(config)
    folder = Path(result["folder"])
    trial_store = TrialStore(RunFolder.open(str(folder)))
    broken = [t for t in trial_store.trials.values() if t.status == "failed"]
    assert [t.fields[LR] for t in broken] == [1e30]
    assert "became nan" in str(broken[0].reason) or "null" in str(broken[0].reason)
    assert all(t.rows == 800 for t in trial_store.trials.values() if t.status == "finished")
    assert len({p for t in trial_store.trials.values() for p in t.processes}) <= 2, (
        "two at a time, so at most two processes"
    )
    # a trial is the very run that `raymtl train` would be
    best = load_config(result["best_config"])
    own = training.train(best.model_copy(update={"name": "own"}))["metrics"]
    told = trial_store.trials[result["recommended"]].metrics
    assert told is not None
    assert {task: m["logloss"] for task, m in told["tasks"].items()} == {
        t: m["logloss"] for t, m in own["eval"].items()
    }
    store = Store.open(str(folder / "versions"))
    with acquire(store, "publish", wait_s=5) as lease:
        publish_run(f"{best.output}/own", store, checkpoint=None, version="v1", check_lease=lease.check_held)
    _begins_with_the_version(loaded(root, "from", FROM, f"tune.start.store={folder}/versions"), own)
    table = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [row["trial"] for row in table] == sorted(trial_store.trials)
    assert not list(folder.glob("trials/0*/")), "nothing is kept of a trial that has ended but its record"
    again = tune(config)
    assert again["best"] == result["best"]
    assert TrialStore(RunFolder.open(str(folder))).trials == trial_store.trials, (
        "a search that is over is not searched again"
    )


FROM = {
    "space": {LR: {"choice": [1e-12]}},
    "start": {"train": "heads"},
    "max_trials": 2,
    "max_concurrent": 1,
    "repeats": 0,
}


def _begins_with_the_version(config: Config, own: dict[str, Any]) -> None:
    """Heads that all but stand still under tables that do not learn leave the version's metrics as they are."""
    [default, still] = TrialStore(RunFolder.open(tune(config)["folder"])).trials.values()
    for metrics, same in ((still.metrics, True), (default.metrics, False)):
        assert metrics is not None
        for task, found in metrics["tasks"].items():
            assert (found["logloss"] == pytest.approx(own["eval"][task]["logloss"], abs=1e-9)) is same


def test_a_killed_process_goes_on_from_its_checkpoint_and_stopped_trials_leave_in_order(
    ray_cluster: None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {**STOPPING, "max_trials": 3}
    monkeypatch.setattr(sampler, "should_prune", lambda tune, trials, trial: trial.number == 1)
    killed: list[int] = []

    def kill(record: dict[str, Any]) -> None:
        trial = record.get("trial")
        if trial is not None and trial.number == 2 and trial.rows >= 400 and not killed:
            killed.append(int(trial.processes[-1].partition(":")[2]))
            os.kill(killed[0], signal.SIGKILL)

    result = tune(loaded(root, "killed", section), on_event=kill)
    trials = TrialStore(RunFolder.open(result["folder"])).trials
    assert killed
    assert [t.status for t in trials.values()] == ["finished", "stopped", "finished"]
    assert trials[1].rows == 400, "the end of the unit in which the rung lies"
    assert trials[2].rows == 800
    assert trials[2].from_scratch == 1
    assert [e["rows"] for e in trials[2].history] == [400, 600, 800]


def test_nested_trials_end_by_themselves_and_leave_nothing(
    ray_cluster: None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {**STOPPING, "max_trials": 2}
    monkeypatch.setattr(sampler, "should_prune", lambda tune, trials, trial: trial.number == 1)
    result = tune(loaded(root, "nested", section, workers=2))
    trials = TrialStore(RunFolder.open(result["folder"])).trials
    assert [t.status for t in trials.values()] == ["finished", "stopped"]
    assert [t.rows for t in trials.values()] == [800, 400]
    total, deadline = ray.cluster_resources()["CPU"], time.monotonic() + 20
    while ray.available_resources().get("CPU") != total and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray.available_resources().get("CPU") == total, "no placement group holds what the workers had"


def test_another_configuration_under_the_same_name_is_refused(ray_cluster: None, root: Path) -> None:
    section = {"space": {LR: {"choice": [0.001]}}, "max_trials": 1, "repeats": 0}
    tune(loaded(root, "same", section))
    with pytest.raises(
        ConfigError, match=r"started with another configuration: train.batch_size was .* and is now 32,"
    ):
        tune(loaded(root, "same", section, "train.batch_size=32"))
    with pytest.raises(ConfigError, match=r"started with another configuration: tune.seed was .* and is now 5,"):
        tune(loaded(root, "same", section, "tune.seed=5"))
    more = tune(loaded(root, "same", section, "tune.max_trials=2"))
    assert more["trials"]["finished"] == 2
    assert open_search(more["folder"])[0].is_over()
    assert yaml.safe_load(Path(more["best_config"]).read_text())["tune"] is None
