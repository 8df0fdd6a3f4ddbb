"""Which trackers get the runs and the published versions."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from raymtl.config.base import Section
from raymtl.config.roles import Role

_Text = Annotated[str, Field(min_length=1)]


class Mlflow(Section):
    """MLflow: the runs as an experiment, and the published versions as a registered model."""

    uri: Annotated[_Text | None, Role.OUTPUT] = None
    """Address of the server, such as `http://mlflow:5000`, without a password; null: `MLFLOW_TRACKING_URI` of the environment."""

    @field_validator("uri")
    @classmethod
    def _holds_no_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in value.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "uri holds a user or a password, which would be stored with every version; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the environment instead"
            )
        return value

    experiment: Annotated[_Text | None, Role.OUTPUT] = None
    """Name of the experiment; null: `MLFLOW_EXPERIMENT_NAME` of the environment, else `raymtl`."""
    model: Annotated[_Text | None, Role.OUTPUT] = None
    """Name of the registered model; null: the last part of the store's path."""


class Wandb(Section):
    """Weights & Biases: the runs in a project."""

    project: Annotated[_Text | None, Role.OUTPUT] = None
    """Name of the project; null: `WANDB_PROJECT` of the environment, else `raymtl`."""


class Track(Section):
    """Trackers, each with its settings; a list of their names gives them the defaults."""

    mlflow: Mlflow | None = None
    """MLflow (`pip install 'raymtl[mlflow]'`); `{}` gives it the defaults, leave it out for none."""
    wandb: Wandb | None = None
    """Weights & Biases (`pip install 'raymtl[wandb]'`); `{}` gives it the defaults, leave it out for none."""

    @model_validator(mode="before")
    @classmethod
    def _from_names(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            raise ValueError(f"a single text is no list of trackers; write `[{raw}]`")
        if isinstance(raw, dict) and (empty := next((name for name in raw if raw[name] is None), None)):
            raise ValueError(
                f"{empty} is null, which could mean its defaults or none; write `{empty}: {{}}` for the defaults, or leave it out"
            )
        if not isinstance(raw, list):
            return raw
        if other := next((name for name in raw if not isinstance(name, str)), None):
            raise ValueError(
                f"the list holds {other}, which is not a name; for a tracker's settings write `mlflow: {{…}}`"
            )
        return {name: {} for name in raw}

    @model_serializer(mode="wrap")
    def _without_null(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @property
    def names(self) -> list[str]:
        """The trackers that are on."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]
