"""The loss of the conversion rate on the rows of its condition, weighted by the inverse propensity: ESCM²-IPS.

Shapes: B rows of this worker, T tasks, E edges of the funnel, W workers.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raymtl.config.slots.penalties import ConversionLoss
from raymtl.config.tasks import Task


class ConversionRisk(nn.Module):
    """λ · Σ over edges (parent s, child t) of the estimated mean, over all rows, of the loss of P(t | s).

        Σ_i w_i o_i δ_i / max(P_i(s), clip) / N_t

    o_i is 1 where the parent happened, δ_i the cross entropy of the head of P(t | s), and P_i(s) the model's own propensity,
    without gradient (Wang et al., SIGIR 2022, section 4.2.1). N_t is the normaliser of the child in `TaskLosses`;
    rows whose child or parent is not observed count nowhere. With clip 1 all rows of the parent count the same.
    """

    def __init__(self, tasks: Mapping[str, Task], edges: Sequence[tuple[str, str]], loss: ConversionLoss):
        """`edges` are (child, parent) in the order of the derived outputs."""
        super().__init__()
        names = list(tasks)
        self._tasks, self._weight, self._clip = len(names), loss.weight, loss.min_propensity
        for name, values in (
            ("_children", [names.index(child) for child, _ in edges]),
            ("_parents", [names.index(parent) for _, parent in edges]),
            ("_floors", [tasks[child].normalizer_floor for child, _ in edges]),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        observed: Tensor,
        weight: Tensor,
        valid: Tensor,
        normalizer: Tensor,
        workers: int = 1,
    ) -> Tensor:
        """The risk [] of one batch, this worker's share times W, from logits [B, T + E].

        The other arguments are those of `TaskLosses.forward`.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        known = observed[:, self._children] & observed[:, self._parents] & valid.unsqueeze(1)
        # Outside, logit 0 and label 0, whose loss is finite: 0 · NaN would be NaN.
        happened = known & (torch.where(known, labels[:, self._parents], 0.0) > 0)
        own = torch.where(happened, logits[:, self._tasks : self._tasks + len(self._children)], 0.0)
        y = torch.where(happened, labels[:, self._children], 0.0).to(own.dtype)
        propensity = torch.where(happened, logits[:, self._parents].detach(), 0.0).sigmoid().clamp(min=self._clip)
        weight = weight.unsqueeze(1) if weight.dim() == 1 else weight[:, self._children]
        share = torch.where(happened, weight.to(own.dtype), 0.0) / propensity
        rows = F.binary_cross_entropy_with_logits(own, y, reduction="none") * share
        n = torch.maximum(normalizer[self._children].to(own.dtype), self._floors)
        n = torch.where(n > 0, n, 1.0)  # floor 0 and no label: 0 / 1, not 0 / 0
        return self._weight * workers * (rows.sum(0) / n).sum()
