"""The sample of complete groups (usually the rows of a user), and GAUC: AUC within each group, averaged by impressions.

GAUC, the metrics of requests and the intervals of all metrics need all rows of a group together, so counters are not sufficient.
Each worker keeps the rows it sees while they fit; after that it keeps whole groups only, those whose 64-bit hash starts with
enough zero bits (the *level*, raised by one, which halves the sample, whenever the rows outgrow the room). The hash decides
alone, so all workers and all evaluations keep the same groups. A request is the rows of one group with one request ID, so the
sample has it completely. Without a group column every request is a group, and without requests every row, with its position on
the worker as the ID.

Shapes: B rows, T binary tasks, V other tasks with m metrics of their own (`TaskKind.own`), N kept rows, G groups.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from raymtl.objectives.metrics.ranked import ordered_bits

LEVELS = 64
MISSING = 2
"""Stored in place of a binary label that does not count."""
INTERVAL_ROWS = 500_000
"""Rows from which intervals are computed, at most: the width of an interval needs fewer rows than the metric itself."""
_POWERS = tuple(1 << k for k in range(63))


def mix(group: Tensor) -> Tensor:
    """Hash int64 group ids to int64 of which all bits look random (the finaliser of SplitMix64); one to one."""
    z = group + -0x61C8864680B583EB
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


def hash_limit(level: int) -> int:
    """Largest value of the hash without its sign that a group kept at this level can have."""
    return (1 << (63 - level)) - 1


class Rows(NamedTuple):
    """Rows of some tasks."""

    logits: Tensor
    """[B, T] float32, what ranks the rows (`TaskObjective.score`)."""
    labels: Tensor
    """[B, T]; anything where it does not count."""
    counted: Tensor
    """[B, T] bool."""


class GroupedSample:
    """The rows that one worker keeps: at most `capacity` of them plus room for what arrives between two clean-ups.

    A row takes 14 + 5·T + 8·V + 4·m bytes: the mixed group id, per task the logit and the label, the metrics, weight and
    scenario; 8 more if there are requests, 4 for each score, for the weight of the row and for the gain, and 4 for each task but
    one if they have weights of their own.
    """

    def __init__(
        self,
        tasks: int,
        values: int,
        capacity: int,
        device: torch.device,
        with_requests: bool = False,
        own: int = 0,
        own_weights: bool = False,
        scores: int = 0,
    ) -> None:
        """T, V, the rows to keep, and m as `own`."""
        self.capacity = capacity
        self._with_requests = with_requests
        self.level = 0
        self.used = 0
        self._position = 0
        self._grouped_batches = 0
        self.rows: dict[str, Tensor] = {
            "group": torch.empty(0, dtype=torch.int64, device=device),
            "logits": torch.empty(0, tasks, dtype=torch.float32, device=device),
            "labels": torch.empty(0, tasks, dtype=torch.uint8, device=device),
            "value_logits": torch.empty(0, values, dtype=torch.float32, device=device),
            "value_labels": torch.empty(0, values, dtype=torch.float32, device=device),  # NaN: does not count
            "own": torch.empty(0, own, dtype=torch.float32, device=device),
            "weight": torch.empty(0, tasks + values if own_weights else 1, dtype=torch.float32, device=device),
            "scenario": torch.empty(0, dtype=torch.int16, device=device),
        }
        if with_requests:
            self.rows["request"] = torch.empty(0, dtype=torch.int64, device=device)
        if scores:
            self.rows["scores"] = torch.empty(0, scores, dtype=torch.float32, device=device)
        # On the CPU it costs nothing to look at the rows now; on a GPU it would make the host wait for the device.
        self.filter_now = device.type == "cpu"

    def update(
        self,
        binary: Rows,
        values: Rows,
        weight: Tensor,
        scenario: Tensor,
        group: Tensor | None,
        request: Tensor | None = None,
        own: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> None:
        """Keep rows of the binary and of the other tasks; weight [B, 1], or [B, T + V] if tasks have their own, scenario [B],
        group and request [B] int64, own [B, m], and scores [B, S + 2], of which the last is the gain, NaN if not known."""
        self._grouped_batches += group is not None
        group = request if group is None else group
        if group is None:
            group = torch.arange(self._position, self._position + len(weight), device=weight.device)
            self._position += len(weight)
            self.capacity = min(self.capacity, INTERVAL_ROWS)
        counted = binary.counted & binary.logits.isfinite()
        new = {
            "group": mix(group),
            "logits": binary.logits,
            "labels": (binary.labels > 0.5).to(torch.uint8).masked_fill(~counted, MISSING),
            "value_logits": values.logits,
            "value_labels": values.labels.float().masked_fill(~(values.counted & values.logits.isfinite()), torch.nan),
            "own": weight.new_empty(len(weight), 0) if own is None else own,
            "weight": weight.float(),
            "scenario": scenario.to(torch.int16),
        }
        if self._with_requests:
            assert request is not None
            new["request"] = request
        if scores is not None:
            new["scores"] = scores
        if self.filter_now:
            new = _select(new, _kept(new, self.level))
        count = len(new["group"])
        if self.used + count > self._max_rows():
            self._compact()
        self._grow(self.used + count)
        for name, column in new.items():
            self.rows[name][self.used : self.used + count] = column
        self.used += count

    def counts(self) -> dict[str, Tensor]:
        """Rows kept per level of their group and a 1 at this worker's own level, both int64 [64], and the batches with a group
        column, int64 [1]. All are additive."""
        self._compact()
        hashed = self.rows["group"][: self.used] & hash_limit(0)
        powers = torch.tensor(_POWERS, device=hashed.device)
        levels = 63 - torch.bucketize(hashed, powers, right=True)
        own = torch.zeros(LEVELS, dtype=torch.int64, device=hashed.device)
        own[self.level] = 1
        grouped = torch.tensor([self._grouped_batches], device=hashed.device)
        return {
            "rows_by_level": torch.bincount(levels, minlength=LEVELS),
            "workers_by_level": own,
            "grouped_batches": grouped,
        }

    def rows_at(self, level: int) -> dict[str, Tensor]:
        """The kept rows [N, …] whose groups are in the sample of this level, which is not below the worker's own; without the
        columns of tasks if there are none."""
        self._compact()
        now = {name: column[: self.used] for name, column in self.rows.items()}
        kept = _select(now, _kept(now, max(level, self.level)))
        return {name: column for name, column in kept.items() if column.dim() == 1 or column.shape[1]}

    def _max_rows(self) -> int:
        return self.capacity + max(self.capacity // 4, 1)

    def _grow(self, need: int) -> None:
        have = len(self.rows["group"])
        if need <= have:
            return
        size = max(need, min(2 * have, self._max_rows()), 1024)
        for name, column in self.rows.items():
            with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
                larger = torch.empty(size, *column.shape[1:], dtype=column.dtype, device=column.device)
            larger[: self.used] = column[: self.used]
            self.rows[name] = larger

    def _compact(self) -> None:
        """Drop rows that take no part, and halve the sample until it fits; the host waits for the device here, rarely."""
        now = {name: column[: self.used] for name, column in self.rows.items()}
        now = _select(now, _kept(now, self.level))
        while len(now["group"]) > self.capacity and self.level < LEVELS - 1:
            self.level += 1
            now = _select(now, _kept(now, self.level))
        self.used = len(now["group"])
        for name, column in now.items():
            self.rows[name][: self.used] = column


def common_level(rows_by_level: Tensor, workers_by_level: Tensor, capacity: int) -> int:
    """The lowest level that every worker can serve and whose rows, over all workers, are at most `capacity`."""
    level = max((i for i, workers in enumerate(workers_by_level.tolist()) if workers), default=0)
    rows = rows_by_level.tolist()
    while level < LEVELS - 1 and sum(rows[level:]) > capacity:
        level += 1
    return level


def _kept(rows: dict[str, Tensor], level: int) -> Tensor:
    """Indices of the rows with any label that takes part, or a gain, and a group in the sample of this level."""
    inside = (rows["group"] & hash_limit(0)) <= hash_limit(level)
    counted = (rows["labels"] != MISSING).any(dim=1) | ~rows["value_labels"].isnan().all(dim=1)
    if "scores" in rows:
        counted |= ~rows["scores"][:, -1].isnan()
    return (inside & counted).nonzero().squeeze(1)


def _select(rows: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: column.index_select(0, index) for name, column in rows.items()}


def grouped_auc(
    index: Tensor, groups: int, logits: Tensor, positive: Tensor, weight: Tensor
) -> tuple[float | None, int, Tensor]:
    """GAUC of rows [N] of groups `index` < G, the number of groups in it, and their effects on it (`intervals.py`), [G].

    `AUC_g` counts the pairs of a positive and a negative of group g by the product of their weights, ties one half. Groups of
    one class say nothing and are left out; the others weigh as much as all their rows together. None if all are left out.
    """
    order_key = (index << 32) + ordered_bits(logits)
    order_key, order = order_key.sort()
    index, positive, weight = index[order], positive[order], weight[order].double()
    p, n = weight * positive, weight * ~positive

    # Rows of one group with one key are a run; within a run all pairs are ties.
    run = torch.cat([order_key.new_zeros(1), (order_key[1:] != order_key[:-1]).long().cumsum(0)])[: len(index)]
    runs = int(run[-1]) + 1 if len(run) else 0
    run_p, run_n = (torch.zeros(runs, dtype=torch.float64, device=p.device).index_add_(0, run, v) for v in (p, n))
    run_group = torch.zeros(runs, dtype=torch.int64, device=p.device).index_copy_(0, run, index)
    total_p, total_n = (
        torch.zeros(groups, dtype=torch.float64, device=p.device).index_add_(0, index, v) for v in (p, n)
    )
    # Negatives below a run: those before it in the whole list, less those of the groups before its own.
    below = run_n.cumsum(0) - 0.5 * run_n - (total_n.cumsum(0) - total_n)[run_group]
    wins = torch.zeros_like(total_p).index_add_(0, run_group, run_p * below)

    both = (total_p > 0) & (total_n > 0)
    area = wins / (total_p * total_n).masked_fill(~both, 1.0)
    share = (total_p + total_n).masked_fill(~both, 0.0)
    share = share / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
    counted, gauc = int(both.sum()), (share * area).sum()
    return (float(gauc) if counted else None), counted, share * (area - gauc)
