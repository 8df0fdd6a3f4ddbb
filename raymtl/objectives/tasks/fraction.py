"""`kind: fraction`: a share of a whole, from 0 to 1."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from raymtl.config.task_kinds import Fraction
from raymtl.objectives.tasks.binary import BinaryObjective, entropy

_LEAST_TRUTH = 1e-12


class FractionObjective(BinaryObjective):
    """Cross entropy in nats of labels from 0 to 1; predicts the mean σ(a).

    It is the quasi-likelihood of Papke & Wooldridge, Journal of Applied Econometrics 11 (1996), equation 5: least where σ(a) is
    the mean label, whatever the distribution of the labels. A label inside (0, 1) costs at least its entropy.
    """

    kind = Fraction

    def start_loss(self, base_rate: float) -> float | None:
        """None: the entropies of the labels, the lower bound, do not follow from their mean."""
        return None

    def terms(self, logit: Tensor, label: Tensor) -> Tensor:
        return self.loss(logit, label).unsqueeze(-1)

    def details(self, means: Sequence[float], mean_label: float) -> dict[str, Any]:
        return {"constant_logloss": entropy(mean_label)}

    def truth_terms(self, truth: Tensor, label: Tensor) -> Tensor:
        p = truth.clamp(_LEAST_TRUTH, 1 - _LEAST_TRUTH)
        return F.binary_cross_entropy(p, label, reduction="none").unsqueeze(-1)
