"""The score of a row from the outputs of the model: the one definition for evaluation, search, scoring and exported programs.

Shapes: B rows, O outputs, S formulas.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raymtl.config.score import Formula, PowerProduct, WeightedSum, unknown_output
from raymtl.errors import ConfigError

FLOOR = 1e-9
"""Least value of an output in a product or within a bucket: a probability of 0 in 32-bit floats has no logarithm."""
_CEILING = 1e9
"""Largest value of an output that orders the rows of a bucket."""
_MOST_LOG = 80.0
"""Largest logarithm of a product, and least: exp of ±88 no longer fits a 32-bit float."""
_LARGEST = 3e38
"""Largest score; a 32-bit float holds 3.4e38."""
_WITHIN = 1 - 2.0**-22
"""Largest place within a bucket; 1 would be the first of the next one."""


def fuse(formula: Formula, outputs: Mapping[str, Tensor]) -> Tensor:
    """The score [B] float32 of a formula from the outputs [B] by name; finite for all finite outputs.

    `sum`: Σ w·x. `product`: exp(Σ p·ln max(x, 1e-9)), with the sum of logarithms limited to ±80. `buckets`: 2^b·(1 + s), where b
    is the number of edges at or below x, and s in [0, 1) grows with the other output on a logarithmic scale; so every bucket has
    all 23 bits of the mantissa, which tell two outputs apart that differ by 1e-5 of their size. Computed in fp64.
    """
    if isinstance(formula, WeightedSum):
        parts = [weight * outputs[name].double() for name, weight in formula.weights.items()]
        return torch.stack(parts).sum(0).clamp(-_LARGEST, _LARGEST).float()
    if isinstance(formula, PowerProduct):
        logs = [power * outputs[name].double().clamp(min=FLOOR).log() for name, power in formula.powers.items()]
        return torch.stack(logs).sum(0).clamp(-_MOST_LOG, _MOST_LOG).exp().float()
    edges = torch.tensor(formula.edges, dtype=torch.float64, device=outputs[formula.by].device)
    bucket = (outputs[formula.by].double().unsqueeze(-1) >= edges).double().sum(-1)
    return (torch.exp2(bucket) * (1 + _place(outputs[formula.then].double()))).float()


def _place(value: Tensor) -> Tensor:
    """The place within a bucket, in [0, 1), of any number: a rising function that is fine near 0, where probabilities are.

    Numbers above 0 take the upper half on a logarithmic scale from 1e-9 to 1e9, those below 0 the lower half, mirrored.
    """
    size = (value.abs().clamp(FLOOR, _CEILING) / FLOOR).log() / math.log(_CEILING / FLOOR)
    return (0.5 + 0.5 * torch.where(value < 0, -size, size)).clamp(0.0, _WITHIN)


class Fusion(nn.Module):
    """All formulas of a configuration: predictions [B, O] -> scores [B, S]."""

    def __init__(self, formulas: Mapping[str, Formula], outputs: Sequence[str]):
        """`outputs` names the columns of the predictions. Raises ConfigError if a formula names none of them."""
        super().__init__()
        self.formulas = dict(formulas)
        self._columns = {name: column for column, name in enumerate(outputs)}
        for formula, spec in formulas.items():
            for output in spec.outputs:
                if output not in self._columns:
                    raise ConfigError(unknown_output(formula, output, outputs))

    @property
    def names(self) -> list[str]:
        """Names of the formulas."""
        return list(self.formulas)

    def forward(self, predictions: Tensor) -> Tensor:
        outputs = {name: predictions[:, column] for name, column in self._columns.items()}
        return torch.stack([fuse(formula, outputs) for formula in self.formulas.values()], 1)
