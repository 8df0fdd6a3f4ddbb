"""Keep MLflow's model registry as the store is, if a version's configuration tracks with MLflow."""

from collections.abc import Callable

from pydantic import ValidationError

from raymtl.config.track import Mlflow, Track
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.store import Listed, folder_of, list_versions
from raymtl.storage.object_store import Store
from raymtl.storage.paths import split_options
from raymtl.tracking.mlflow_models import PublishedVersion, name_version, update_registry
from raymtl.tracking.mlflow_run import title
from raymtl.tracking.run_tracking import install, lineage, missing_packages, read_ids, reason_of
from raymtl.training.rundir import RunFolder, run_of
from raymtl.words import count_of


def register_versions(store: Store, notify: Callable[[str], None], run: tuple[str, str] | None = None) -> None:
    """Register the versions that are missing, and move alias and statuses; whatever fails is one sentence and changes nothing
    else.

    The newest version that tracks with MLflow says where. `run`: the ID of a run that was published, and its version.
    """
    listed = list_versions(store)
    settings = next((found for version in listed if (found := _settings(version.manifest)) is not None), None)
    if settings is None:
        return
    where = title(settings)
    if missing_packages(Track(mlflow=settings)):
        notify(f"{where} was not told of the current version: train.track has `mlflow`, {install('mlflow')}")
        return
    path = split_options(store.path)[0]
    model = settings.model or path.rpartition("/")[2] or "raymtl"
    versions = [_published(store, version) for version in reversed(listed)]
    try:
        if run is not None:
            name_version(settings, *run)
        number = update_registry(settings, model, path, versions)
    except Exception as error:  # whatever the client raises, the store is right
        notify(
            f"{where} was not told of the current version ({reason_of(error)}); the store has it, and the next publish or "
            f"rollback registers it too: check the tracker, or change train.track"
        )
        return
    notify(f"{where}: version {number} of the model `{model}` is current")


def tracked_run(run: str, version: str) -> tuple[str, str] | None:
    """The ID of a run in MLflow, and the version that it was published as; None: the run was not tracked."""
    known = read_ids(RunFolder.open(run_of(run))).get("mlflow")
    return None if known is None else (known, version)


def _settings(manifest: Manifest | None) -> Mlflow | None:
    if manifest is None:
        return None
    found = manifest.config.get("train", {}).get("track") or {}
    try:
        return Track.model_validate(found).mlflow
    except ValidationError:  # of a newer raymtl
        return None


def _published(store: Store, version: Listed) -> PublishedVersion:
    manifest, facts, description = version.manifest, {}, ""
    if manifest is not None:
        facts = {
            "run": str(manifest.config.get("name", "")),
            "parent": manifest.parent or "none",
            **lineage(manifest.data_range, manifest.snapshots),
        }
        rows = count_of(manifest.counts.get("rows", 0), "row")
        kind = "" if manifest.base is None else f", a delta on {manifest.base}"
        description = f"{rows} trained, configuration {manifest.config_hash}{kind}"
    return PublishedVersion(
        version.id,
        store.path_of(folder_of(version.id)),
        version.status,
        facts,
        description,
        is_wanted=version.current or _settings(manifest) is not None,
    )
