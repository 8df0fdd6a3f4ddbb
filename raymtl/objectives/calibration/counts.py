"""Score histograms of positives and negatives by scenario: all that a fit and a judgement of calibration need.

The bins are those of level 0 of `metrics/bins.py`: 2^-10 wide where |logit| < 16. Taking the middle of a bin for its logits moves
a probability by less than 0.05 % of itself.

Shapes: B rows, U calibrated outputs, S scenarios (1 without), M bins.
"""

import torch
from torch import Tensor

from raymtl.objectives.metrics import bins

NEGATIVE, POSITIVE = 0, 1


class ScoreCounts:
    """Sums of weights [U, S, 2, M] and of their squares [U, S, 2], float64, additive over workers; 0.6 MB per output and
    scenario."""

    def __init__(self, outputs: int, scenarios: int, device: torch.device | str = "cpu"):
        make = {"dtype": torch.float64, "device": device}
        self.weights = torch.zeros(outputs, scenarios, 2, bins.COARSE, **make)
        self.squares = torch.zeros(outputs, scenarios, 2, **make)
        self._cells = torch.arange(outputs, device=device) * scenarios
        self._sides = torch.arange(2, device=device)
        self._scenarios = scenarios

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, counted: Tensor, weight: Tensor, scenario: Tensor) -> None:
        """Add rows: logits, labels from 0 to 1 and counted (the label counts) [B, U], weight [B] ≥ 0, scenario [B] int64.

        A label between 0 and 1 counts for both sides. Rows whose logit is not finite do not count; never makes the host wait for
        the device.
        """
        logits = logits.float()
        used = counted & logits.isfinite()
        y = labels.double().masked_fill(~used, 0.0)
        shares = torch.stack([1 - y, y], -1) * used.unsqueeze(-1)  # [B, U, 2]
        w = weight.double()[:, None, None]
        cell = self._cells + scenario.clamp(0, self._scenarios - 1).unsqueeze(1)
        cells = cell.unsqueeze(-1) * 2 + self._sides
        slot = bins.slots(bins.keys(logits.masked_fill(~used, 0.0)), levels=1)[0].unsqueeze(-1)
        self.weights.view(-1).scatter_add_(0, (cells * bins.COARSE + slot).reshape(-1), (w * shares).reshape(-1))
        self.squares.view(-1).scatter_add_(0, cells.reshape(-1), (w * w * shares).reshape(-1))

    def tensors(self) -> list[Tensor]:
        """The counters, to be summed over the workers in place."""
        return [self.weights, self.squares]
