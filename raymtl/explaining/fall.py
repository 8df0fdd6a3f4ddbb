"""Which columns explain that a metric is lower on a day than on an earlier one, for the same version of the model.

A column that is null, stuck, scaled, hashed in another way, shuffled or joined to the wrong rows loses what it tells, whatever
happens to its distribution. So the fault shows in what the column is still worth:

    before = m(B) − m(B, column of other rows of B)        on the earlier day B
    after  = m(N) − m(N, column of rows of B)              on the day N; below 0 if its values do harm
    lost   = k · before − after

Both put values of B at random places, so `lost` is also what m(N) would gain if the column were as it was on B: m(N, column of
rows of B) + before − m(N). k ≤ 1 is the ratio of `after` to `before` over all other columns together: labels that are wrong, or
rows that are harder, make all columns worth less by one factor (for AUC exactly, if labels are exchanged at random), and then no
column is to blame. For the second cause everything is measured again with values of B in place of the first one, on both days.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raymtl.explaining.importance import OnCount, permuted
from raymtl.explaining.meter import Measured, Meter, Score, of_tasks
from raymtl.explaining.model import LoadedModel
from raymtl.explaining.sample import Sample, SampleReader
from raymtl.intervals import normal_quantile

_SHARE = 0.2
"""A cause explains at least this share of a fall."""
_MOST_CAUSES = 3

Scores = dict[str, Score]
"""By task."""


@dataclass(frozen=True)
class Cause:
    """A column that explains a part of a fall."""

    column: str
    lost: float
    """By how much the metric would be better with the column as it was."""
    half: float
    """Half of the 95 % interval."""
    before: float
    """What the column was worth on the earlier day."""
    after: float


@dataclass(frozen=True)
class Fall:
    """One task on the two days."""

    task: str
    before: float
    """The metric on the earlier day, negated where lower is better; `after` likewise."""
    after: float
    half: float
    """Half of the 95 % interval of their difference, as for independent rows."""
    causes: tuple[Cause, ...]
    """The first one explains most."""

    @property
    def has_fallen(self) -> bool:
        """Whether the metric is lower beyond chance."""
        return self.before - self.after > self.half


class _Days:
    """The two days, with some columns replaced in both by values of random rows of the earlier one."""

    def __init__(self, model: LoadedModel, reader: SampleReader, before: Sample, after: Sample, seed: int):
        self._model, self._reader, self._seed = model, reader, seed
        self._samples = (before, after)
        self._meters = tuple(Meter(model.config, sample, model.outputs) for sample in (before, after))
        keys = [of_tasks(dict.fromkeys(meter.keys)) for meter in self._meters]
        self.tasks = [task for task in keys[0] if task in keys[1]]

    def measure(self, columns: Sequence[str]) -> tuple[Scores, Scores]:
        """The metrics of both days."""
        before, _ = self._samples
        found = []
        for sample, meter in zip(self._samples, self._meters, strict=True):
            values: dict[str, pa.ChunkedArray] = {}
            for column in columns:  # each by itself: a cause that is found is not moved with the next one
                if sample is before:
                    values |= permuted(before, (column,), self._seed)
                else:
                    values |= drawn(before, sample.rows, column, self._seed)
            made = self._reader.with_columns(sample, values) if values else sample.columns
            scores = of_tasks(meter.scores(self._model.logits(made)))
            found.append({task: scores[task] for task in self.tasks})
        return found[0], found[1]


def drawn(sample: Sample, rows: int, column: str, seed: int) -> dict[str, pa.ChunkedArray]:
    """`rows` values of a column, of random rows of a sample."""
    places = np.random.default_rng([seed, 5, *column.encode()]).integers(0, sample.rows, rows)
    return sample.rows_of((column,), places)


def explain_fall(
    model: LoadedModel,
    reader: SampleReader,
    before: Sample,
    after: Sample,
    columns: Sequence[str],
    seed: int,
    on_count: OnCount = lambda done, of: None,
) -> list[Fall]:
    """Every task on the two days, with the columns that explain its fall, if it has fallen."""
    days = _Days(model, reader, before, after, seed)
    base = days.measure(())
    falls = {task: _fall(task, base) for task in days.tasks}
    fallen = [task for task, fall in falls.items() if fall.has_fallen]
    causes: dict[str, list[Cause]] = {task: [] for task in fallen}
    # Tasks whose causes are the same so far share the measurements
    open_: dict[tuple[str, ...], list[str]] = {(): fallen} if fallen else {}
    for _ in range(_MOST_CAUSES):
        following: dict[tuple[str, ...], list[str]] = {}
        for known, tasks in open_.items():
            replaced = base if not known else days.measure(known)
            worth = {}
            others = [column for column in columns if column not in known]
            for n, column in enumerate(others):
                on_count(n, len(others))
                worth[column] = tuple(
                    {task: (whole[task] - less[task]).measured() for task in days.tasks}
                    for whole, less in zip(replaced, days.measure((*known, column)), strict=True)
                )
            on_count(len(others), len(others))
            for task in tasks:
                fall = falls[task]
                left = _fall(task, replaced)
                if not left.has_fallen:
                    continue
                cause = _cause(task, worth, _SHARE * (fall.before - fall.after))
                if cause is not None:
                    causes[task].append(cause)
                    following.setdefault((*known, cause.column), []).append(task)
        open_ = following
    return [
        Fall(fall.task, fall.before, fall.after, fall.half, tuple(causes.get(task, ()))) for task, fall in falls.items()
    ]


def _fall(task: str, days: tuple[Scores, Scores]) -> Fall:
    before, after = days[0][task], days[1][task]
    return Fall(task, before.value, after.value, math.hypot(before.half, after.half), ())


def _cause(task: str, worth: Mapping[str, tuple[dict[str, Measured], ...]], least: float) -> Cause | None:
    """The column that has lost most, if it is much, and beyond chance among so many columns."""
    first = {column: pair[0][task] for column, pair in worth.items()}
    now = {column: pair[1][task] for column, pair in worth.items()}
    best: Cause | None = None
    for column in worth:
        others = sum(max(score.value, 0.0) for name, score in first.items() if name != column)
        left = sum(score.value for name, score in now.items() if name != column)
        factor = min(max(left / others, 0.0), 1.0) if others > 0 else 1.0
        lost = factor * first[column].value - now[column].value
        half = math.hypot(factor * first[column].half, now[column].half)
        if best is None or lost > best.lost:
            best = Cause(column, lost, half, first[column].value, now[column].value)
    if best is None or best.lost < least or best.lost <= _reach(len(worth)) / normal_quantile(0.975) * best.half:
        return None
    return best


def _reach(columns: int) -> float:
    """Standard errors that the largest of so many columns exceeds by chance in 2.5 % of cases (Bonferroni)."""
    return normal_quantile(1 - 0.025 / columns)
