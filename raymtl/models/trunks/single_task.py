"""One MLP for one task, the reference for the multi-task models."""

from collections.abc import Sequence

from raymtl.errors import ConfigError
from raymtl.models.registry import register
from raymtl.models.slots import Context
from raymtl.models.trunks.shared_bottom import SharedBottom


@register("trunk", "single_task")
class SingleTask(SharedBottom):
    """One MLP for exactly one task: x [B, d] -> [B, k]. Raises ConfigError if there are more."""

    def __init__(self, context: Context, *, hidden: Sequence[int], dropout: float = 0.0):
        if len(context.tasks) != 1:
            raise ConfigError(
                f"model.trunk is `single_task` but there are {len(context.tasks)} tasks {list(context.tasks)}; "
                "set tasks_subset to one of them"
            )
        super().__init__(context, hidden=hidden, dropout=dropout)
