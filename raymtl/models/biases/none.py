"""No position tower."""

from raymtl.models.inputs import ModelInput
from raymtl.models.registry import register
from raymtl.models.slots import BiasSlot, Context


@register("bias", "none")
class NoBias(BiasSlot):
    """Adds nothing to the logits."""

    def __init__(self, context: Context):
        super().__init__()

    def forward(self, inputs: ModelInput) -> None:
        return None
