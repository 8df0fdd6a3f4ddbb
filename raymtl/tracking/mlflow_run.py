"""A run in MLflow."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from raymtl.config.track import Mlflow
from raymtl.tracking.tracker import Outcome, Sample, Tracker, flat

PREFIX = "raymtl."
"""Begins the names of all tags that raymtl sets."""
_DEFAULTS = {
    # MLflow's own are 7 retries of 120 s: whoever waits here would wait for minutes. `RunTracking` retries by itself.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_ALLOWED = re.compile(r"[^\w\-.: /]")
_MOST_CHARACTERS = 250
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
"""Error codes for what a server does not take, such as a value too long for its version, or a run that somebody deleted."""
_STATUS: dict[Outcome, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def open_client(settings: Mlflow) -> Any:
    """A client of MLflow, which gives up on a server that does not answer within seconds."""
    for key, value in _DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    for library in ("mlflow", "alembic"):  # MLflow creates and migrates a local database, and says so
        logging.getLogger(library).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=settings.uri or None)


def title(settings: Mlflow) -> str:
    """MLflow and its address, without a password."""
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or "its local default"
    return "MLflow at " + re.sub(r"//[^/@]*@", "//", uri)


def experiment_of(client: Any, settings: Mlflow) -> str:
    """The ID of the experiment, which is created where it is missing."""
    name = settings.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "raymtl"
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found is not None else client.create_experiment(name)


class MlflowRun(Tracker):
    """A run of an experiment."""

    def __init__(self, settings: Mlflow):
        self._settings = settings
        self._client: Any = None
        self._id = ""

    @property
    def title(self) -> str:
        return title(self._settings)

    def start(self, name: str, known: str | None) -> str:
        self._client = client = open_client(self._settings)
        if known is not None and self._exists(known):
            client.update_run(known, status="RUNNING")
            self._id = known
        else:
            self._id = client.create_run(experiment_of(client, self._settings), run_name=name).info.run_id
        return self._id

    def _exists(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_name(key.replace("/", "_")), _text(value)) for key, value in flat(config).items()]
        self._client.log_batch(self._id, params=params)

    def log(self, samples: Sequence[Sample]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_metric_name(tag), value, int(sample.time * 1000), sample.step)
            for sample in samples
            for tag, value in sample.values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def add_facts(self, facts: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, tags=[RunTag(PREFIX + key, value) for key, value in facts.items()])

    def add_file(self, name: str, text: str) -> None:
        self._client.log_text(self._id, text, name)

    def finish(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, _STATUS[outcome])

    def refuses(self, error: Exception) -> bool:
        return getattr(error, "error_code", None) in _REFUSALS


def _metric_name(tag: str) -> str:
    """`train/loss.click` for `train/loss/click`: MLflow's file store would need a file and a folder named `train/loss`."""
    group, _, rest = tag.partition("/")
    return _name(f"{group}/{rest.replace('/', '.')}")


def _name(text: str) -> str:
    return _ALLOWED.sub("_", text)[:_MOST_CHARACTERS]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
