"""Recalibration in a training job: which users it is fitted on, the counts of all workers, and what it changes.

Shapes: B rows of a batch, O outputs, U calibrated outputs, S scenarios.
"""

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from raymtl.config.root import Config
from raymtl.data.batch import Batch
from raymtl.data.ids.hashing import mix64
from raymtl.models.ranker import Ranker
from raymtl.objectives.calibration.calibrator import Calibrator, output_labels
from raymtl.objectives.calibration.counts import ScoreCounts
from raymtl.objectives.calibration.report import report_calibration
from raymtl.training.build import TrainState

_SALT = int.from_bytes(b"calibrat", "little") >> 1
"""Makes the choice of users independent of those that the daily job holds out."""


def recalibration_of(config: Config, train_state: TrainState, device: torch.device) -> "Recalibration | None":
    """None without `calibration`."""
    if config.calibration is None:
        return None
    return Recalibration(config, train_state.model.module.head.ranker, device)


class Recalibration:
    """Fits the calibrator of a worker's model, and judges it on other users."""

    def __init__(self, config: Config, ranker: Ranker, device: torch.device):
        assert config.calibration is not None
        assert ranker.calibrator is not None
        self._ranker, self._calibrator, self._device = ranker, ranker.calibrator, device
        self._limit = int(config.calibration.share * 2.0**64)
        self._scenarios = config.data.scenario.names if config.data.scenario else []

    def fitted(self, batch: Batch) -> Batch:
        """The batch with only the rows of users that the calibrator is fitted on; the others count nowhere."""
        return self._of_users(batch, for_fit=True)

    def judged(self, batch: Batch) -> Batch:
        """The batch with only the rows of the other users."""
        return self._of_users(batch, for_fit=False)

    def new_counts(self) -> "OutputCounts":
        """Counters for `fit`."""
        return OutputCounts(self._ranker, self._calibrator.columns, self._calibrator, self._device)

    def fit(self, counts: "OutputCounts", group: dist.ProcessGroup) -> None:
        """Fit the maps on the rows of all workers, called by all together."""
        self._calibrator.fit(counts.summed(group))

    def new_judgement(self) -> "Judgement":
        """Counters for what the calibrator changes."""
        return Judgement(self._ranker, self._calibrator, self._scenarios, self._device)

    def _of_users(self, batch: Batch, for_fit: bool) -> Batch:
        salted = (batch.group.numpy() ^ _SALT).astype("int64", copy=False)
        chosen = torch.from_numpy(mix64(salted) < self._limit)
        return dataclasses.replace(batch, valid=batch.valid & (chosen if for_fit else ~chosen))


class OutputCounts:
    """Score histograms of some outputs, from the model's own logits."""

    def __init__(self, ranker: Ranker, columns: list[int], calibrator: Calibrator, device: torch.device):
        self._ranker = ranker
        self._columns = torch.tensor(columns, dtype=torch.int64, device=device)
        self._counts = ScoreCounts(len(columns), calibrator.scenarios, device)

    def update(self, batch: Batch, logits: Tensor) -> None:
        """Add a batch with its logits [B, O]."""
        labels, observed = output_labels(
            batch.labels, batch.observed, [*self._ranker.tasks], self._ranker.outputs.derived
        )
        pick = self._columns
        weight = batch.weight * batch.valid
        self._counts.update(logits[:, pick], labels[:, pick], observed[:, pick], weight, batch.scenario)

    def summed(self, group: dist.ProcessGroup) -> ScoreCounts:
        """The counts of all workers, called by all together."""
        if dist.get_world_size(group) > 1:
            for tensor in self._counts.tensors():
                dist.all_reduce(tensor, group=group)
        return self._counts


class Judgement(OutputCounts):
    """The calibration of the model's own predictions, beside which the metrics of the calibrated ones are reported."""

    def __init__(self, ranker: Ranker, calibrator: Calibrator, scenarios: list[str], device: torch.device):
        super().__init__(ranker, list(calibrator.outputs.values()), calibrator, device)
        self._outputs, self._scenarios = list(calibrator.outputs), scenarios

    def report(self, metrics: dict[str, Any], group: dist.ProcessGroup) -> dict[str, Any]:
        """What the calibrator changes, by output; `metrics` are those of the calibrated predictions on the same rows."""
        return report_calibration(self.summed(group), self._outputs, self._scenarios, metrics)
