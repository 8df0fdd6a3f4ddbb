"""The towers of most models: one MLP per task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.inputs import ModelInput
from raymtl.models.layers import Activation, GroupedMLP
from raymtl.models.precomputed import X, materialize
from raymtl.models.registry import register
from raymtl.models.slots import Context, TowersSlot


@register("towers", "mlp")
class MLPTowers(TowersSlot):
    """T MLPs: [B, d], read by all, or [B, T, d] -> [B, T, width]. Without layers the trunk's own output.

    `per_task` gives some tasks other widths or another dropout. Towers of the same widths are computed together: `mlps` are those
    of the section's widths, `others` hold one group for every other list of widths. All end at the same width.
    """

    supports_precomputed = True

    def __init__(
        self,
        context: Context,
        *,
        hidden: Sequence[int],
        activation: Activation = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        per_task: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        own = per_task or {}
        if own and context.heads != len(context.tasks):
            raise ConfigError(
                f"model.towers.per_task needs one tower per task, but model.coupler has {context.heads} towers for "
                f"{len(context.tasks)} tasks; remove it"
            )
        names = [*context.tasks, *[""] * (context.heads - len(context.tasks))]
        widths: dict[tuple[int, ...], list[int]] = {tuple(hidden): []}
        rates = []
        for place, name in enumerate(names):
            section = own.get(name, {})
            found, rate = section.get("hidden"), section.get("dropout")
            widths.setdefault(tuple(hidden if found is None else found), []).append(place)
            rates.append(dropout if rate is None else rate)

        def group(layers: Sequence[int], places: Sequence[int]) -> GroupedMLP:
            of_group = [rates[place] for place in places]
            return GroupedMLP(len(places), context.width, layers, of_group, activation, norm == "layer")

        same = widths.pop(tuple(hidden))
        self.mlps = group(hidden, same) if hidden and same else None
        self.others = nn.ModuleList(group(layers, places) for layers, places in widths.items())
        self.width = hidden[-1] if hidden else context.width
        self._heads = context.heads
        self._places = [same, *widths.values()] if same else [*widths.values()]
        order = [place for places in self._places for place in places]
        self._back = [order.index(place) for place in range(context.heads)]

    def forward(self, h: X, inputs: ModelInput) -> Tensor:
        if self.others:
            return self._mixed(h)
        if self.mlps is None:
            h = materialize(h)
            return h if h.dim() == 3 else h.unsqueeze(1).expand(-1, self._heads, -1)
        return self.mlps(h.transpose(0, 1) if h.dim() == 3 else h).transpose(0, 1)

    def _mixed(self, h: X) -> Tensor:
        """The towers of several lists of widths."""
        mlps = [*([] if self.mlps is None else [self.mlps]), *self.others]
        if h.dim() == 3:
            own = h.unbind(1)
            found = [mlp(torch.stack([own[t] for t in places])) for mlp, places in zip(mlps, self._places, strict=True)]
        else:
            found = [mlp(h) for mlp in mlps]
        towers = [tower for group in found for tower in group.unbind(0)]
        return torch.stack([towers[place] for place in self._back], 1)
