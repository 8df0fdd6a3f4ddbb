"""NDCG and MRR: how well the rows of each request are ranked, averaged over the requests (`docs/metrics.md`).

NDCG is that of Järvelin & Kekäläinen, ACM TOIS 20 (2002), with the label as the gain and the discount 1 / log2(1 + rank). Rows of
equal scores have no order, so every value is the mean over all orders of them (McSherry & Najork, ECIR 2008).

Shapes: N rows, Q requests, R runs; a run is the rows of one request with one score.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CUTOFFS: dict[str, int | None] = {"ndcg_10": 10, "ndcg": None}
"""The first ranks that each NDCG looks at; None: all."""
_ALL_BITS = (1 << 32) - 1


@dataclass(frozen=True)
class RankedRequests:
    """The metrics of Q requests whose order matters: their labels are not all the same."""

    values: dict[str, Tensor]
    """[Q] float64, by metric."""
    weight: Tensor
    """[Q] float64, the mean weight of the rows."""
    row: Tensor
    """[Q] int64, one row of each request."""
    left_out: int
    """Requests whose labels are all the same."""

    @property
    def count(self) -> int:
        """Q."""
        return len(self.weight)

    def mean(self, metric: str) -> float:
        """The mean over the requests."""
        return float((self.weight * self.values[metric]).sum() / self.weight.sum())

    def effects(self, metric: str, group: Tensor, groups: int) -> Tensor:
        """The effects [G] of groups on the mean (`intervals.py`); `group` [N] is that of each row."""
        moved = self.weight * (self.values[metric] - self.mean(metric)) / self.weight.sum()
        return moved.new_zeros(groups).index_add_(0, group[self.row], moved)


@dataclass(frozen=True)
class _Ranking:
    """Rows in the order of their requests, and of their scores within them, the highest first."""

    request: Tensor
    """[N] int64 in [0, Q)."""
    gain: Tensor
    """[N] float64, the label."""
    start: Tensor
    """[Q] the first row of each request."""
    run: Tensor
    """[N] int64 in [0, R)."""
    first: Tensor
    """[R] the first row of each run."""

    @property
    def rank(self) -> Tensor:
        """[N] the place of each row in its request, from 0 on."""
        return torch.arange(len(self.request), device=self.request.device) - self.start[self.request]

    @property
    def size(self) -> Tensor:
        """[R] the rows of each run."""
        return self.first.diff(append=self.first.new_tensor([len(self.request)]))

    @property
    def run_gain(self) -> Tensor:
        """[R] the sum of the gains of each run."""
        return self.gain.new_zeros(len(self.first)).index_add_(0, self.run, self.gain)

    def sum_by_request(self, owner: Tensor, values: Tensor) -> Tensor:
        """[Q] sums of values of the requests `owner`."""
        return self.gain.new_zeros(len(self.start)).index_add_(0, owner, values)


def rank_requests(
    request: Tensor, requests: int, logits: Tensor, labels: Tensor, weight: Tensor, binary: bool
) -> RankedRequests:
    """The metrics of rows [N] of the requests `request` < `requests`; no label is below 0, and binary ones are 0 or 1."""
    gain = labels.double()
    some = request.new_zeros(requests).scatter_(0, request, torch.arange(len(request), device=request.device))
    other = (labels != labels[some][request]).nonzero().squeeze(1)
    differs = torch.zeros_like(some, dtype=torch.bool).index_fill_(0, request[other], True)
    kept = differs[request].nonzero().squeeze(1)  # often few: the others need no sorting
    count = int(differs.sum())
    number = (differs.cumsum(0) - 1)[request[kept]]
    ranking, row = _ranking(number, count, logits[kept], gain[kept])
    rows = gain.new_zeros(count).index_add_(0, number, torch.ones_like(gain[kept]))
    mean_weight = gain.new_zeros(count).index_add_(0, number, weight[kept].double()) / rows
    values = _ndcg(ranking, binary) | ({"mrr": _reciprocal_rank(ranking)} if binary else {})
    return RankedRequests(values, mean_weight, kept[row], requests - count)


def _ranking(request: Tensor, requests: int, logits: Tensor, gain: Tensor) -> tuple[_Ranking, Tensor]:
    """The ranking of rows, and the row of the best score of each request."""
    order = ((request << 32) + (_ALL_BITS - ordered_bits(logits))).argsort()
    request, logits = request[order], logits[order]
    length = torch.bincount(request, minlength=requests)
    start = length.cumsum(0) - length
    opens = torch.ones_like(request, dtype=torch.bool)
    opens[1:] = (request[1:] != request[:-1]) | (logits[1:] != logits[:-1])
    run, first = opens.cumsum(0) - 1, opens.nonzero().squeeze(1)
    return _Ranking(request, gain[order], start, run, first), order[start]


def _ndcg(ranking: _Ranking, binary: bool) -> dict[str, Tensor]:
    """NDCG [Q] with each cutoff: a run shares the discounts of its ranks equally."""
    rank, size, run_gain = ranking.rank, ranking.size, ranking.run_gain
    run_request, above = ranking.request[ranking.first], rank[ranking.first]
    longest = int(rank.max()) + 1 if len(rank) else 0
    places = torch.arange(longest + 1, device=rank.device)
    discounts = (1 / torch.log2(places[1:].double() + 1)).cumsum(0)
    totals = torch.cat([discounts.new_zeros(1), discounts])  # of the first ranks
    best = None
    if not binary:
        best = ranking.gain[((ranking.request << 32) + (_ALL_BITS - ordered_bits(ranking.gain.float()))).argsort()]
    found = {}
    for name, cutoff in CUTOFFS.items():
        total = totals if cutoff is None else totals[places.clamp(max=cutoff)]
        dcg = ranking.sum_by_request(run_request, run_gain / size * (total[above + size] - total[above]))
        if best is None:
            ideal = total[ranking.sum_by_request(ranking.request, ranking.gain).long()]
        else:
            ideal = ranking.sum_by_request(ranking.request, best * (total[rank + 1] - total[rank]))
        found[name] = dcg / ideal
    return found


def top_shares(request: Tensor, requests: int, scores: Tensor, at: int) -> Tensor:
    """The chance [N] float64 of each row to be among the first `at` of its request, over all orders of equal scores."""
    return placed(request, requests, scores, lambda places: places.clamp(max=at).double())


def discount_shares(request: Tensor, requests: int, scores: Tensor, at: int) -> Tensor:
    """The discount [N] float64 of each row's rank, 1 / log2(1 + rank) for the first `at` and else 0, over all orders of equal
    scores."""

    def totals(places: Tensor) -> Tensor:
        discounts = 1 / torch.log2(places[1:].double() + 1)
        discounts[at:] = 0
        return torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])

    return placed(request, requests, scores, totals)


def placed(request: Tensor, requests: int, scores: Tensor, totals: Callable[[Tensor], Tensor]) -> Tensor:
    """What each row's place is worth, [N] float64; rows of equal scores share their places equally.

    `totals` gives the worth of the first 0, 1, … places together. `scores` are finite, and `request` [N] is in [0, requests).
    """
    order = ((request << 32) + (_ALL_BITS - ordered_bits(scores))).argsort()
    request, scores = request[order], scores[order]
    length = torch.bincount(request, minlength=requests)
    start = length.cumsum(0) - length
    opens = torch.ones_like(request, dtype=torch.bool)
    opens[1:] = (request[1:] != request[:-1]) | (scores[1:] != scores[:-1])
    first = opens.nonzero().squeeze(1)
    size = first.diff(append=first.new_tensor([len(request)]))
    above = first - start[request[first]]
    longest = int(length.max()) if requests else 0
    total = totals(torch.arange(longest + 1, device=request.device))
    each = (total[above + size] - total[above]) / size
    return torch.empty(len(order), dtype=torch.float64, device=order.device).index_copy_(
        0, order, each[opens.cumsum(0) - 1]
    )


def _reciprocal_rank(ranking: _Ranking) -> Tensor:
    """1 / rank of the first positive, [Q]. If it ties with others, its place among m rows with p positives is j with the
    probability C(m − j, p − 1) / C(m, p)."""
    run_request = ranking.request[ranking.first]
    having = (ranking.run_gain > 0).nonzero().squeeze(1)
    leads = torch.ones_like(having, dtype=torch.bool)
    leads[1:] = run_request[having[1:]] != run_request[having[:-1]]
    is_best = torch.zeros_like(ranking.first, dtype=torch.bool).index_fill_(0, having[leads], True)
    rows = is_best[ranking.run].nonzero().squeeze(1)
    run = ranking.run[rows]
    m, p = ranking.size[run].double(), ranking.run_gain[run]
    j = (rows - ranking.first[run] + 1).double()
    others = m - j - p + 1  # negatives that may follow
    chance = (_log_choose(m - j, p - 1) - _log_choose(m, p)).exp().masked_fill(others < 0, 0.0)
    return ranking.sum_by_request(ranking.request[rows], chance / (ranking.rank[rows] + 1))


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """The logarithm of the binomial coefficient; anything where k > n."""
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp(min=0) + 1)


def ordered_bits(values: Tensor) -> Tensor:
    """Map finite float32 values to int64 in [0, 2^32) in the same order, equal values to equal numbers."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() + (1 << 31)
