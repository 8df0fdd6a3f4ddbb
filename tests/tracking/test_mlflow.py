"""Runs and versions in MLflow, in a local database and on a real server: what its client reads back."""

import logging
import shutil
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from raymtl.cli.main import run_command
from raymtl.config.track import Mlflow, Track
from raymtl.model_store import store as versions
from raymtl.model_store.register import register_versions
from raymtl.storage.object_store import Store
from raymtl.tracking.mlflow_run import MlflowRun, open_client
from raymtl.tracking.run_tracking import RunTracking, TrackedRun, read_ids
from raymtl.training.rundir import RunFolder
from tests.helpers.fake_versions import write
from tests.helpers.mlflow_server import MlflowServer
from tests.helpers.tracked import eval_record, train_record

CONFIG = {
    "name": "ctr",
    "train": {"epochs": 2, "placement": {"labels": {"ray.io/type?": "H100"}}},
    "tasks": ["click", "buy"],
}
FACTS = {"run": "ctr", "days.train": "2026-01-01..2026-01-03", "snapshot.train": "7"}


def installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database without runs: MLflow needs seconds to create one."""
    pytest.importorskip("mlflow")
    if not installed("sqlalchemy"):
        pytest.skip("a local database needs SQLAlchemy")
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(path.parent)  # where a database keeps the artefacts
        open_client(Mlflow(uri=f"sqlite:///{path}")).search_experiments()
        yield path


@pytest.fixture(scope="module", params=["database", "server"])
def uri(request: pytest.FixtureRequest, empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    database = shutil.copy(empty, folder / "server.db")
    if request.param == "database":
        yield f"sqlite:///{database}"
        return
    if not installed("mlflow"):
        pytest.skip("mlflow-skinny has no server: install mlflow")
    server = MlflowServer(folder)
    yield server.uri
    server.close()


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def track(uri: str, folder: Path, said: list[str], steps: range) -> str:
    """A run of some steps; returns its ID."""
    run_dir = RunFolder.open(str(folder))
    tracking = RunTracking(
        {"mlflow": MlflowRun(Mlflow(uri=uri))}, TrackedRun("ctr", CONFIG, FACTS), run_dir, said.append
    )
    listen = tracking.listener(lambda event: None)
    for step in steps:
        listen(train_record(step))
    listen(eval_record(steps.stop - 1))
    tracking.add_file("report.html", "<p>AUC</p>")
    tracking.close("finished")
    return read_ids(run_dir)["mlflow"]


def test_a_run_and_its_resumption(uri: str, tmp_path: Path) -> None:
    said: list[str] = []
    first = track(uri, tmp_path, said, range(1, 8))
    second = track(uri, tmp_path, said, range(8, 11))
    assert (said, second) == ([], first)
    client = client_of(uri)
    run = client.get_run(first)
    assert run.info.run_name == "ctr"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "name": "ctr",
        "train.epochs": "2",
        "train.placement.labels.ray.io_type_": "H100",
        "tasks": '["click", "buy"]',
    }
    assert {key: run.data.tags[f"raymtl.{key}"] for key in FACTS} == FACTS
    loss = client.get_metric_history(first, "train/loss.click")
    assert [(point.step, point.value) for point in loss] == [(step, 0.5 + step / 100) for step in range(1, 11)]
    assert loss[0].timestamp == (10**9 + 1) * 1000
    assert [point.step for point in client.get_metric_history(first, "eval/click.auc")] == [7, 10]
    assert [file.path for file in client.list_artifacts(first)] == ["report.html"]
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_a_run_that_mlflow_forgot_gets_a_new_one(uri: str, tmp_path: Path) -> None:
    first = track(uri, tmp_path, said := [], range(1, 3))
    client_of(uri).delete_run(first)
    second = track(uri, tmp_path, said, range(3, 5))
    assert said == []
    assert second != first


def test_a_run_that_somebody_deletes_goes_on_without_mlflow(uri: str, tmp_path: Path) -> None:
    said: list[str] = []
    tracking = RunTracking(
        {"mlflow": MlflowRun(Mlflow(uri=uri))},
        TrackedRun("ctr", CONFIG, FACTS),
        folder := RunFolder.open(str(tmp_path)),
        said.append,
    )
    while not (known := read_ids(folder)):
        time.sleep(0.05)
    client_of(uri).delete_run(known["mlflow"])
    tracking.log(1, {"train/loss": float("nan")})
    tracking.log(2, {"train/loss": 1.0})
    tracking.close("finished")
    assert len(said) == 1
    assert said[0].startswith(f"MLflow at {uri} does not take this run (")


def tracked_versions(uri: str, root: Path, *names: str) -> tuple[Store, list[str]]:
    """A store with published versions whose configuration tracks with MLflow, and what was said."""
    store, said, before = Store.open(str(root)), [], None
    for name in names:
        config = {"name": "ctr", "train": {"track": Track(mlflow=Mlflow(uri=uri)).model_dump()}}
        write(store, name, config=config, parent=before, snapshots={"train": 7})
        versions.publish(store, name)
        register_versions(store, said.append)
        before = name
    return store, said


def registered(uri: str, model: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The raymtl version that the alias names; of each: status and source."""
    client = client_of(uri)
    found = client.search_model_versions(f'name="{model}"')
    current = client.get_model_version_by_alias(model, "current").tags["raymtl.version"]
    return current, {v.tags["raymtl.version"]: (v.tags["raymtl.status"], v.source) for v in found}


def test_publish_rollback_and_removal_move_the_registered_model(uri: str, tmp_path: Path) -> None:
    names = ["2026-01-01-a", "2026-01-02-b", "2026-01-03-c"]
    store, said = tracked_versions(uri, tmp_path / "it's", *names)
    folder = store.path_of("versions/2026-01-01-a")
    source = folder if uri.startswith("sqlite") else f"raymtl:{folder}"
    assert said == [f"MLflow at {uri}: version {n} of the model `it's` is current" for n in (1, 2, 3)]
    current, found = registered(uri, "it's")
    assert current == names[2]
    assert found[names[0]] == ("published", source)
    tags = client_of(uri).get_model_version_by_alias("it's", "current").tags
    assert tags["raymtl.parent"] == names[1]
    assert tags["raymtl.snapshot.train"] == "7"

    assert run_command(["versions", "rollback", "--store", store.path]) == 0
    current, found = registered(uri, "it's")
    assert current == names[1]
    assert [found[name][0] for name in names] == ["published", "current", "rolled back"]

    assert run_command(["versions", "gc", "--keep", "1", "--store", store.path]) == 0
    current, found = registered(uri, "it's")
    assert [found[name][0] for name in names] == ["removed", "current", "rolled back"]


def test_a_version_that_was_published_while_mlflow_was_down_comes_with_the_next(uri: str, tmp_path: Path) -> None:
    store, said = tracked_versions("http://127.0.0.1:9", tmp_path / "late", "2026-01-01-a")
    assert len(said) == 1
    assert "MLflow at http://127.0.0.1:9 was not told of the current version (Connection refused)" in said[0]
    assert versions.current(store) == "2026-01-01-a"
    store, said = tracked_versions(uri, tmp_path / "late", "2026-01-02-b")
    assert said == [f"MLflow at {uri}: version 2 of the model `late` is current"]
    assert registered(uri, "late")[1].keys() == {"2026-01-01-a", "2026-01-02-b"}


def test_the_version_names_its_run(uri: str, tmp_path: Path) -> None:
    run = track(uri, tmp_path / "run", [], range(1, 3))
    store = Store.open(str(tmp_path / "store"))
    config = {"name": "ctr", "train": {"track": {"mlflow": {"uri": uri, "model": "own name"}}}}
    write(store, "v1", config=config)
    versions.publish(store, "v1")
    register_versions(store, lambda line: None, (run, "v1"))
    client = client_of(uri)
    assert client.get_model_version_by_alias("own name", "current").run_id == run
    assert client.get_run(run).data.tags["raymtl.version"] == "v1"


def test_mlflow_says_nothing_itself(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    track(uri, tmp_path, [], range(1, 3))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("mlflow").level == logging.ERROR
