"""The published versions of a store in MLflow's registry: a registered model, whose alias `current` moves with the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymtl.config.track import Mlflow
from raymtl.storage.paths import split_options
from raymtl.tracking.mlflow_run import PREFIX, experiment_of, open_client

ALIAS = "current"
_VERSION, _STORE, _STATUS = f"{PREFIX}version", f"{PREFIX}store", f"{PREFIX}status"
REMOVED = "removed"
"""Status of a model version whose files are gone."""


@dataclass(frozen=True)
class PublishedVersion:
    """A version as the registry shows it."""

    id: str
    folder: str
    """Path or URL; the registry gets no copy."""
    status: str
    """As `raymtl versions list` shows it; one of all versions is `current`."""
    facts: Mapping[str, str]
    description: str
    is_wanted: bool
    """Whether to register it, if it is not there yet."""


def update_registry(settings: Mlflow, model: str, store: str, versions: Sequence[PublishedVersion]) -> str | None:
    """Register what is missing of the versions of a store, oldest first, correct the status of the others, and move the alias.

    Returns the number of the model version that is current, None if there is none. Any exception of MLflow may escape.
    """
    client = open_client(settings)
    registered = _model(client, model)
    there = {found.tags[_VERSION]: found for found in _versions_of(client, model, store)}
    for version in versions:
        if version.is_wanted and version.id not in there:
            tags = {PREFIX + key: value for key, value in version.facts.items()}
            there[version.id] = client.create_model_version(
                model,
                _source(version.folder, client.tracking_uri),
                run_id=_run_of(client, settings, version.id),
                tags={_VERSION: version.id, _STATUS: version.status, **tags, _STORE: store},
                description=version.description,
            )
    status = {version.id: version.status for version in versions}
    for name, found in there.items():
        now = status.get(name, REMOVED)
        if found.tags.get(_STATUS) != now:
            client.set_model_version_tag(model, found.version, _STATUS, now)
    current = next((there[version.id].version for version in versions if version.status == "current"), None)
    if current is not None and str(registered.aliases.get(ALIAS)) != str(current):
        client.set_registered_model_alias(model, ALIAS, current)
    return None if current is None else str(current)


def name_version(settings: Mlflow, run: str, version: str) -> None:
    """Note in a run that it was published."""
    open_client(settings).set_tag(run, _VERSION, version)


def _model(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return client.create_registered_model(name)


def _versions_of(client: Any, model: str, store: str) -> list[Any]:
    """The model versions that raymtl registered for this store."""
    found, token = [], None
    while True:
        page = client.search_model_versions(f"name = {_literal(model)}", page_token=token)
        found += [one for one in page if one.tags.get(_STORE) == store and _VERSION in one.tags]
        token = page.token
        if not token:
            return found


def _run_of(client: Any, settings: Mlflow, version: str) -> str | None:
    """The run that was published as a version, if it was tracked here."""
    experiment = experiment_of(client, settings)
    found = client.search_runs([experiment], f"tags.`{_VERSION}` = '{version}'", max_results=1)
    return found[0].info.run_id if found else None


def _source(folder: str, tracking_uri: str) -> str:
    """The folder, as the server accepts it: it refuses any local path outside its own artefacts, so a scheme says whose it is."""
    plain = split_options(folder)[0]
    return plain if "://" in plain or not tracking_uri.startswith("http") else f"raymtl:{plain}"


def _literal(text: str) -> str:
    """A text in a filter; MLflow's grammar has no escape for a quote."""
    return f'"{text}"' if "'" in text else f"'{text}'"
