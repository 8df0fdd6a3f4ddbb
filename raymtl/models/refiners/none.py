"""All tasks read the same input."""

from raymtl.models.inputs import ModelInput
from raymtl.models.precomputed import X
from raymtl.models.registry import register
from raymtl.models.slots import Context, RefineSlot


@register("refine", "none")
class NoRefine(RefineSlot):
    """Hands x on unchanged."""

    supports_precomputed = True

    def __init__(self, context: Context):
        super().__init__()
        self.width = context.width

    def forward(self, x: X, inputs: ModelInput) -> X:
        return x
