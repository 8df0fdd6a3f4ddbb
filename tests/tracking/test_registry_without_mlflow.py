"""A store whose versions track with MLflow works without MLflow, and says what it could not tell it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raymtl.api import ModelStore
from raymtl.cli.main import run_command
from raymtl.config.track import Mlflow
from raymtl.model_store import store as versions
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.register import register_versions
from raymtl.storage.object_store import Store
from raymtl.tracking import run_tracking
from raymtl.tracking.mlflow_models import PublishedVersion
from raymtl.tracking.mlflow_run import title
from raymtl.tracking.run_tracking import IDS
from tests.helpers.fake_versions import write


def two_versions(root: Path) -> Store:
    store = Store.open(str(root))
    for name in ("v1", "v2"):
        write(store, name, config={"train": {"track": {"mlflow": {"uri": "http://mlflow:5000"}}}})
        versions.publish(store, name)
    return store


def test_a_rollback_needs_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_tracking, "find_spec", lambda name: None)
    store = two_versions(tmp_path)
    assert run_command(["versions", "rollback", "--store", store.path, "--json"]) == 0
    out, _ = capfd.readouterr()
    said, _, *_, result = out.splitlines()
    assert said == (
        "MLflow at http://mlflow:5000 was not told of the current version: train.track has `mlflow`, but the package `mlflow` is "
        "missing; install it with `pip install 'raymtl[mlflow]'`"
    )
    assert json.loads(result) == {"current": "v1", "was": "v2"}


def test_a_password_does_not_belong_into_the_configuration() -> None:
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD"):
        Mlflow(uri="https://ann:secret@mlflow.example/a")


def test_whatever_a_client_raises_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("raymtl.model_store.register.missing_packages", lambda track: [])
    monkeypatch.setattr("raymtl.model_store.register.update_registry", broken)
    said: list[str] = []
    register_versions(two_versions(tmp_path), said.append)
    assert len(said) == 1
    assert "(first line)" in said[0]


def test_whatever_makes_a_version_current_tells_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def update(settings: Mlflow, model: str, store: str, found: Sequence[PublishedVersion]) -> str:
        told.append((model, {version.id: version.status for version in found}))
        return "1"

    def publish_run(run: str, store: Store, **_: Any) -> Manifest:
        manifest = write(store, "v3", config={"train": {"track": {"mlflow": {}}}})
        versions.publish(store, "v3")
        return manifest

    monkeypatch.setattr("raymtl.model_store.register.missing_packages", lambda track: [])
    monkeypatch.setattr("raymtl.model_store.register.update_registry", update)
    monkeypatch.setattr("raymtl.model_store.register.name_version", lambda settings, *run: told.append(run))
    monkeypatch.setattr("raymtl.model_store.publish_run.publish_run", publish_run)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / IDS).write_text('{"mlflow": "id-9"}')
    store = ModelStore(two_versions(tmp_path / "models"))
    said: list[str] = []
    store.publish(tmp_path / "run", notify=said.append)
    store.rollback("v2", notify=said.append)
    store.gc(1, notify=said.append)
    assert told == [
        ("id-9", "v3"),
        ("models", {"v1": "published", "v2": "published", "v3": "current"}),
        ("models", {"v1": "published", "v2": "current", "v3": "rolled back"}),
        ("models", {"v2": "current", "v3": "rolled back"}),
    ]
    assert len(said) == 3


@pytest.mark.parametrize("config", [{}, {"train": {}}, {"train": {"track": None}}, {"train": {"track": {"new": {}}}}])
def test_other_stores_are_left_alone(tmp_path: Path, config: dict[str, Any]) -> None:
    store = Store.open(str(tmp_path))
    write(store, "v1", config=config)
    versions.publish(store, "v1")
    said: list[str] = []
    register_versions(store, said.append)
    assert said == []


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@mlflow.example/a")
    assert title(Mlflow()) == "MLflow at https://mlflow.example/a"
