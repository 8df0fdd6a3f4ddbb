"""Field-wise bi-interaction: which pairs of features count, by the fields they are of (NFwFM, FLEN)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.input_checks import width_problem
from raymtl.errors import ConfigError
from raymtl.models.input_layers.concat import ConcatInput
from raymtl.models.inputs import ModelInput, Pick
from raymtl.models.layers import full_precision
from raymtl.models.registry import register
from raymtl.models.slots import Context, InputSlot


@register("input", "field_wise")
class FieldWiseInput(InputSlot):
    """FwBI beside the plain inputs: x = [h_S ‖ h_MF + h_FM ‖ pooled ‖ dense], [B, 1 + D + ΣD + F].

    The FwBI of FLEN (Chen et al., arXiv 1911.04690), which Meitu's talk calls NFwFM, over pooled features j with embeddings
    v_j [D] in fields m, whose sums are e_m:

        h_S  = w_0 + Σ_j <w_j, v_j>                                        linear module S
        h_MF = Σ_{m<m'} r_mm' · e_m ⊙ e_m'                                 pairs of different fields
        h_FM = Σ_m r_mm · ½ · ((Σ_j v_j)² − Σ_j v_j²)                      pairs inside one field

    The linear module has one vector per feature, not one weight per ID as a factorization machine has: that would need a
    second table of width 1 for every table, while the embedding already tells IDs apart. All r start at 1, where
    h_MF + h_FM is a factorization machine's interaction over all pairs (NFM's), and w at 0.

    With `dice` β < 1 each element of h_MF + h_FM is kept with probability β in training and is scaled by β in evaluation.
    A part that is off, or for which there are no pairs (one field; no field of two features), has no parameters; without
    both, x has no interaction columns. Features of no field are in the plain inputs alone.
    """

    def __init__(
        self,
        context: Context,
        *,
        missing: str = "fill",
        missing_flags: bool = False,
        fields: Mapping[str, Sequence[str]] | None = None,
        linear: bool = True,
        mf: bool = True,
        fm: bool = True,
        dice: float = 1.0,
    ):
        super().__init__()
        spec = context.spec
        groups = list(fields.values()) if fields else [[name] for name in spec.pooled]
        names = [name for group in groups for name in group]
        widths = {name: spec.pooled[name] for name in names}
        if problem := width_problem(widths):
            raise ConfigError(problem)
        d = widths[names[0]]
        self.plain = ConcatInput(context, missing=missing, missing_flags=missing_flags)
        self._pick = None if names == list(spec.pooled) else Pick(spec, names)
        self._shape = (len(names), d)
        self.linear = nn.Linear(len(names) * d, 1) if linear else None
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        self.interaction = FieldInteraction([len(group) for group in groups], mf, fm)
        self._interacts = bool(list(self.interaction.parameters()))
        self._dice = dice
        own = int(linear) + (d if self._interacts else 0)
        self.width = own + self.plain.width
        self.columns = [None] * own + self.plain.columns

    def forward(self, inputs: ModelInput) -> Tensor:
        parts = [self.plain(inputs)]
        with full_precision(inputs.pooled):
            v = (inputs.pooled if self._pick is None else self._pick(inputs)).float()
            if self._interacts:
                parts.insert(0, self._diced(self.interaction(v.unflatten(1, self._shape))))
            if self.linear is not None:
                parts.insert(0, self.linear(v))
        return torch.cat(parts, 1)

    def _diced(self, h: Tensor) -> Tensor:
        if self._dice == 1:
            return h
        return h * (torch.rand_like(h) < self._dice) if self.training else h * self._dice


class FieldInteraction(nn.Module):
    """h_MF + h_FM of features that lie field by field: v [B, F, D] in fp32 -> [B, D]."""

    def __init__(self, sizes: Sequence[int], mf: bool, fm: bool):
        """The number of features of every field, and which of the two modules are on."""
        super().__init__()
        n = len(sizes)
        self._sizes = list(sizes)
        self._several = [m for m, size in enumerate(sizes) if size > 1]
        self.between = nn.Parameter(torch.ones(n * (n - 1) // 2)) if mf and n > 1 else None
        """r_mm' of the pairs (0, 1), (0, 2), … (1, 2), …"""
        self.within = nn.Parameter(torch.ones(len(self._several))) if fm and self._several else None
        """r_mm of the fields with more than one feature; in the others there is no pair."""
        first, second = torch.triu_indices(n, n, 1)
        self.register_buffer("_pairs", first * n + second, persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        fields = v.split(self._sizes, 1)
        # A view where a field has one feature; only the others cost a kernel.
        sums = [field.sum(1) if field.shape[1] > 1 else field.squeeze(1) for field in fields]
        h = v.new_zeros(v.shape[0], v.shape[2])
        if self.between is not None:
            n = len(self._sizes)
            e = (torch.stack(sums, 1) if self._several else v).transpose(1, 2).contiguous()  # [B, D, M]: one GEMM
            r = self.between.new_zeros(n * n).scatter(0, self._pairs, self.between).view(n, n)  # upper triangle
            h = h + (e * F.linear(e, r)).sum(2)
        if self.within is not None:
            squares = torch.stack([fields[m].square().sum(1) for m in self._several], 1)
            # The difference cancels in long fields: fp32, whatever the precision of the rest.
            pairs = 0.5 * (torch.stack([sums[m] for m in self._several], 1).square() - squares)
            h = h + (pairs * self.within.unsqueeze(1)).sum(1)
        return h
