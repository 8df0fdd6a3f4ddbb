"""Each task reads the features that it may, and no others."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raymtl.errors import ConfigError
from raymtl.models.inputs import ModelInput
from raymtl.models.precomputed import X, materialize
from raymtl.models.registry import register
from raymtl.models.slots import Context, RefineSlot


@register("refine", "task_features")
class TaskFeatures(RefineSlot):
    """x [B, d] or [B, T, d] -> [B, T, d]: zeros in the columns of task t that depend on a feature which it may not read.

    Tasks without an entry in `reads` read everything. The trunk then runs once per task.
    """

    supports_precomputed = True

    def __init__(self, context: Context, *, reads: Mapping[str, Sequence[str]]):
        super().__init__()
        self.width = context.width
        if context.heads != len(context.tasks):
            raise ConfigError(
                f"model.refine `task_features` needs one input per task, but model.coupler has {context.heads} towers for "
                f"{len(context.tasks)} tasks; use another coupler"
            )
        if None in context.sources:
            raise ConfigError(
                "model.refine is `task_features`, but model.input or model.sequence does not say on which features its output "
                "depends; use the input `concat` and a sequence that does not attend to the candidate, or declare `columns` and "
                "`reads` in your own slot (docs/extending.md)"
            )
        # `reads` names no numbers of steps: a task may read those of every history that it may read
        owners = context.spec.numbers
        depends = [{owners.get(name, name) for name in names or ()} for names in context.sources]
        allowed = [[name not in reads or names <= {*reads[name]} for names in depends] for name in context.tasks]
        self.register_buffer("_allowed", torch.tensor(allowed), persistent=False)

    def forward(self, x: X, inputs: ModelInput) -> Tensor:
        x = materialize(x)
        # Selected, not multiplied: an infinite number that a task may not read must not reach it as NaN
        return torch.where(self._allowed, x if x.dim() == 3 else x.unsqueeze(1), 0)
