"""No behaviour sequences."""

from raymtl.models.inputs import ModelInput
from raymtl.models.registry import register
from raymtl.models.slots import Context, SequenceSlot


@register("sequence", "none")
class NoSequence(SequenceSlot):
    """Adds nothing to x."""

    def __init__(self, context: Context):
        super().__init__()
        self.width = 0
        self.reads = ()

    def forward(self, inputs: ModelInput) -> None:
        return None
