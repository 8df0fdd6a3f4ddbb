"""All tasks read the same input."""

from torch import Tensor

from raymtl.models.inputs import ModelInput
from raymtl.models.registry import register
from raymtl.models.slots import Context, RefineSlot


@register("refine", "none")
class NoRefine(RefineSlot):
    """Hands x on unchanged."""

    def __init__(self, context: Context):
        super().__init__()
        self.width = context.width

    def forward(self, x: Tensor, inputs: ModelInput) -> Tensor:
        return x
