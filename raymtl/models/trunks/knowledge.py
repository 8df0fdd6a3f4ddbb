"""What M2M knows about the scenario of a row, and which rows share it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.inputs import ModelInput, Pick
from raymtl.models.layers import MLP, glorot_
from raymtl.models.slots import Context

BLOCK = 64
"""Rows of one scenario that share generated weights. More rows per block generate less and pad more; the cost is lowest near
√(B·k/S), k the width of the knowledge and S the number of scenarios."""


class RowGroups:
    """One row per group."""

    def to_groups(self, x: Tensor) -> Tensor:
        """x [T, B, ...] -> [T, N, R, ...], here N = B groups of R = 1 row."""
        return x.unsqueeze(2)

    def to_rows(self, x: Tensor) -> Tensor:
        """Back to the order of the rows: [T, N, R, ...] -> [T, B, ...]."""
        return x.squeeze(2)


class ScenarioBlocks(RowGroups):
    """Groups of at most `BLOCK` rows of one scenario, so that weights are generated per group instead of per row.

    There are B // BLOCK + S of them, enough for any split of the rows over the scenarios, so nothing is read back from the
    device. Places that no row takes hold zeros and are never returned.
    """

    def __init__(self, scenario: Tensor, scenarios: int):
        rows, device = scenario.shape[0], scenario.device
        ordered, order = scenario.sort(stable=True)
        index = torch.arange(scenarios, device=device)
        start = torch.searchsorted(ordered, index)
        count = torch.searchsorted(ordered, index, right=True) - start
        blocks_end = ((count + BLOCK - 1) // BLOCK).cumsum(0)
        first = (blocks_end - (count + BLOCK - 1) // BLOCK) * BLOCK  # where the scenario's first row goes
        place = (first - start).index_select(0, ordered) + torch.arange(rows, device=device)
        self._place = torch.empty_like(place).index_copy(0, order, place)
        self._blocks = rows // BLOCK + scenarios
        block = torch.arange(self._blocks, device=device)
        self.scenario = torch.searchsorted(blocks_end, block, right=True).clamp(max=scenarios - 1)
        """[N], scenario of every group; any for a group without rows."""

    def to_groups(self, x: Tensor) -> Tensor:
        places = x.new_zeros(x.shape[0], self._blocks, BLOCK, *x.shape[2:])
        places[:, self._place // BLOCK, self._place % BLOCK] = x
        return places

    def to_rows(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2).index_select(1, self._place)


class ScenarioKnowledge(nn.Module):
    """inputs -> knowledge S̃ = MLP(scenario's embedding ‖ features) of every group [N, width], and the groups of rows.

    Without features all rows of a scenario have the same knowledge vector and share groups. The embedding of `other`, the
    last scenario, starts at zero and stays there until a row of it is trained on: its weights come from its features and the
    biases alone, not from random numbers.
    """

    def __init__(self, context: Context, features: Sequence[str], width: int):
        super().__init__()
        self._scenarios = context.spec.scenarios
        if not self._scenarios and not features:
            raise ConfigError(
                "model.trunk is `m2m`, whose weights the scenario generates, but the data have no scenario column and "
                "model.trunk.knowledge is empty; set data.scenario, or list features in model.trunk.knowledge"
            )
        self._features = Pick(context.spec, features)
        if self._scenarios:
            self.scenario = nn.Embedding(self._scenarios, width)
            nn.init.zeros_(self.scenario.weight[-1:].data)
        self.mlp = MLP((width if self._scenarios else 0) + self._features.width, [width])
        self.out = nn.Linear(width, width)
        glorot_(self.out.weight.data)
        nn.init.zeros_(self.out.bias)

    def forward(self, inputs: ModelInput) -> tuple[Tensor, RowGroups]:
        if not self._features.width:
            assert inputs.scenario is not None
            blocks = ScenarioBlocks(inputs.scenario, self._scenarios)
            s = self.out(self.mlp(self.scenario.weight))
            return s.index_select(0, blocks.scenario), blocks
        parts = [self._features(inputs)]
        if self._scenarios:
            parts.insert(0, self.scenario(inputs.scenario))
        return self.out(self.mlp(torch.cat(parts, 1))), RowGroups()
