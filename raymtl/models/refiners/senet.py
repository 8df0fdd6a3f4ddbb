"""SENet: which features count, given all of them (FiBiNET; Huang, Zhang and Zhang, RecSys 2019)."""

import torch
from torch import Tensor, nn

from raymtl.models.inputs import ModelInput
from raymtl.models.layers import glorot_
from raymtl.models.registry import register
from raymtl.models.slots import Context, RefineSlot


@register("refine", "senet")
class SENet(RefineSlot):
    """x [..., d], the parts e_1 … e_F of F features side by side -> a_1 e_1 … a_F e_F:

        z_i = mean of the elements of e_i                                        squeeze
        a   = 2σ(W_2 ReLU(W_1 z)),   W_1 [⌈F/r⌉, F],  W_2 [F, ⌈F/r⌉]             excitation

    Section 3.2 of the paper (arXiv 1905.09433) over embeddings, with both activations left open; W_2 starts at zero and the
    gate is 2σ, so that x is unchanged at the start and no feature can be switched off permanently, as behind a ReLU. A number is
    a feature with one element, the histories together are one more.
    """

    def __init__(self, context: Context, *, reduction: int):
        super().__init__()
        fields = len(context.fields)
        hidden = -(-fields // reduction)
        self.squeezed = nn.Parameter(glorot_(torch.empty(hidden, fields)))
        self.excited = nn.Parameter(torch.zeros(fields, hidden))
        sizes = torch.tensor(context.fields)
        self.register_buffer("_field", torch.repeat_interleave(torch.arange(fields), sizes), persistent=False)
        self.register_buffer("_sizes", sizes.float(), persistent=False)
        self.width = context.width

    def forward(self, x: Tensor, inputs: ModelInput) -> Tensor:
        return x * self.gate(x).index_select(-1, self._field)

    def gate(self, x: Tensor) -> Tensor:
        """The factors, between 0 and 2, in fp32 also under autocast: [..., F]."""
        sums = x.new_zeros(*x.shape[:-1], len(self._sizes)).index_add(-1, self._field, x)
        hidden = nn.functional.linear(sums / self._sizes, self.squeezed).relu()
        return 2 * nn.functional.linear(hidden, self.excited).float().sigmoid()
