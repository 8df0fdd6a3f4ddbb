"""Check by names and shapes, before Ray starts, whether a configuration matches a saved model."""

import torch
from torch import Tensor

from raymtl.config.root import Config
from raymtl.config.slots.common import Custom
from raymtl.embeddings.tables import describe_lookup
from raymtl.errors import ConfigError
from raymtl.training.checkpoint import compare, saved_entries
from raymtl.training.model import TrainModel


def check_fits(config: Config, checkpoint: str) -> None:
    """Raise CheckpointError if a checkpoint is of another model than that of `config`."""
    if (entries := model_entries(config)) is not None:
        compare(entries, saved_entries(checkpoint), checkpoint)


def model_entries(config: Config) -> dict[str, Tensor] | None:
    """The state of the model without memory; None if a slot is custom code, which only workers must have.

    Raises ConfigError if a slot refuses its options."""
    if any(isinstance(getattr(config.model, slot), Custom) for slot in type(config.model).model_fields):
        return None
    try:
        with torch.device("meta"):
            model = TrainModel(config, describe_lookup(config), dict.fromkeys(config.active_tasks(), 0.5), None)
    except (RuntimeError, TypeError) as error:  # of a width or a product above 64 bits, and of a width above that
        if "overflow" not in str(error).lower():
            raise
        raise ConfigError(
            "a weight of the model would have more bytes than 64 bits count; lower the rows or the dim of the tables, or the "
            "widths in `model`"
        ) from error
    return dict(model.state_dict())
