"""EPNet: the domain or scenario of a row scales every element of its input (PEPNet; Chang et al., KDD 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.gate_units import GateUnits
from raymtl.models.inputs import ModelInput, Pick
from raymtl.models.precomputed import X, materialize
from raymtl.models.registry import register
from raymtl.models.slots import Context, RefineSlot

SCENARIO_WIDTH = 16
"""Width of a scenario's embedding."""


@register("refine", "epnet")
class EPNet(RefineSlot):
    """x [B, d] or [B, T, d] -> δ ⊗ x, with δ = GateUnit([scenario ‖ features] ‖ ⊘x) (section 3.3 of the paper).

    The scenario's embedding is there if the data have a scenario column; that of `other`, the last one, starts at zero and stays
    there until a row of it is trained on. One gate serves all tasks.
    """

    supports_precomputed = True

    def __init__(self, context: Context, *, features: Sequence[str] = (), hidden: int):
        super().__init__()
        scenarios = context.spec.scenarios
        if not scenarios and not features:
            raise ConfigError(
                "model.refine is `epnet`, whose gate reads the scenario, but the data have no scenario column and "
                "model.refine.features is empty; set data.scenario, or list features in model.refine.features"
            )
        self._features = Pick(context.spec, features)
        self.scenario = nn.Embedding(scenarios, SCENARIO_WIDTH) if scenarios else None
        if self.scenario is not None:
            nn.init.zeros_(self.scenario.weight[-1:].data)
        given = self._features.width + (SCENARIO_WIDTH if scenarios else 0)
        self.gate = GateUnits(given, context.width, 1, hidden, [context.width])
        self.width = context.width

    def forward(self, x: X, inputs: ModelInput) -> Tensor:
        (gate,) = self.gate(self._given(inputs), x)  # before `materialize`: only the products of x itself are known
        x = materialize(x)
        return x * (gate if x.dim() == 3 else gate.squeeze(1)).to(x.dtype)

    def _given(self, inputs: ModelInput) -> Tensor:
        """What the gate knows beside x: [B, p]."""
        parts = [self._features(inputs)] if self._features.width else []
        if self.scenario is not None:
            parts.insert(0, self.scenario(inputs.scenario))
        return torch.cat(parts, 1)
