"""DCN-v2: explicit products of the inputs, in front of the trunk (Wang et al., WWW 2021)."""

from itertools import pairwise

from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.inputs import ModelInput
from raymtl.models.layers import glorot_
from raymtl.models.precomputed import X, linear, materialize
from raymtl.models.registry import register
from raymtl.models.slots import Context, RefineSlot


@register("refine", "dcn_v2")
class DCNv2(RefineSlot):
    """x_0 [..., d] -> x_L [..., d]:

        x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l                 W_l [d, d]
        x_{l+1} = x_0 ⊙ (U_l V_l x_l + b_l) + x_l             with `rank` r: U_l [d, r], V_l [r, d]

    These are equations 1 and 2 of the paper (arXiv 2008.13535) in its stacked form, where the deep network, here the trunk,
    reads x_L. Its mixture of low-rank experts is left out; the parallel form, which concatenates both, is not offered, since
    every x_L still holds x_0.
    """

    supports_precomputed = True

    def __init__(self, context: Context, *, layers: int, rank: int | None):
        super().__init__()
        d = self.width = context.width
        if rank is not None and rank > d:
            raise ConfigError(
                f"model.refine.rank is {rank}, more than the {d} numbers that its layers read, so two matrices would only cost "
                f"more than one; set it below {d // 2}, or to null"
            )
        widths = [d, d] if rank is None else [d, rank, d]
        self.layers = nn.ModuleList(_Factors(widths) for _ in range(layers))

    def forward(self, x: X, inputs: ModelInput) -> Tensor:
        first = below = x
        for layer in self.layers:
            product = layer(below)  # before `materialize`: only the products of x itself are known
            first, below = materialize(first), materialize(below)
            below = first * product + below
        return below


class _Factors(nn.Module):
    """W x + b, with W as a product of one matrix or two."""

    def __init__(self, widths: list[int]):
        super().__init__()
        last = len(widths) - 2
        self.factors = nn.ModuleList(nn.Linear(i, o, bias=n == last) for n, (i, o) in enumerate(pairwise(widths)))
        for factor in self.factors:
            glorot_(factor.weight.data)
        nn.init.zeros_(self.factors[last].bias)

    def forward(self, x: X) -> Tensor:
        for factor in self.factors:
            x = linear(x, factor.weight, factor.bias)
        return x
