"""The statistics of `raymtl check` about some rows, which merge with those of others."""

from collections import Counter
from dataclasses import dataclass, field, fields

import numpy as np

from raymtl.data.contract import Column
from raymtl.data.rules import Rule
from raymtl.data.sketch import HyperLogLog
from raymtl.data.validation.moments import Moments
from raymtl.data.validation.requests import RequestStats

_MOST_SCENARIOS = 1000
_REST = "… all others"


@dataclass
class ColumnStats:
    """Statistics of one use of a column; fields that its kind lacks stay empty."""

    rows: int = 0
    nulls: int = 0
    nan: int = 0
    infinite: int = 0
    empty: int = 0
    """Lists without any ID, null lists among them."""
    elements: int = 0
    """IDs in all lists."""
    null_elements: int = 0
    cut: int = 0
    """Lists longer than the feature's `max_length`."""
    clipped: int = 0
    """Dense values outside `clip`."""
    off_day: int = 0
    """Timestamps more than a day outside their partition."""
    longest: int = 0
    numbers: Moments = field(default_factory=Moments)
    """Finite values as they are in the files; timestamps in microseconds since 1970."""
    scaled: Moments = field(default_factory=Moments)
    """Dense values after `clip` and `transform`, before `mean` and `std`."""
    ids: HyperLogLog | None = None
    buckets: np.ndarray | None = None
    """Rows of each bucket, [edges + 1]."""

    def add_ids(self, ids: np.ndarray) -> None:
        """Add IDs that are looked up, [N] int64."""
        if self.ids is None:
            self.ids = HyperLogLog()
        self.ids.add(ids)

    def merge(self, other: "ColumnStats") -> None:
        """Add all that `other` has seen."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if item.name == "longest":
                self.longest = max(self.longest, other.longest)
            elif isinstance(mine, int):
                setattr(self, item.name, mine + theirs)
            elif mine is None:
                setattr(self, item.name, theirs)
            elif isinstance(mine, np.ndarray):
                self.buckets = mine if theirs is None else mine + theirs
            elif theirs is not None:
                mine.merge(theirs)


@dataclass
class RuleViolation:
    """Values of one file that break one rule."""

    count: int
    row: int
    """The first such row of the file."""
    value: str


@dataclass
class Partial:
    """The statistics of some rows."""

    rows: dict[str, int] = field(default_factory=dict)
    """By day."""
    columns: dict[str, ColumnStats] = field(default_factory=dict)
    """By the key of the configuration that uses the column."""
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    """By day: [T, scenarios, 6] rows, observed labels, their sum, that of their squares, those with a weight above 0, zeros."""
    funnel: dict[str, np.ndarray] = field(default_factory=dict)
    """By child task: rows with parent and child observed, positives of the child among them, those without the parent's."""
    arrivals: dict[str, np.ndarray] = field(default_factory=dict)
    """By task with early labels: labels of 1, and those of them that came after the cutoff."""
    scenarios: Counter[str] = field(default_factory=Counter)
    broken: dict[tuple[Column, Rule], dict[str, RuleViolation]] = field(default_factory=dict)
    """Values that break a rule, by column and rule, then by file."""
    out_of_order: dict[str, dict[str, RuleViolation]] = field(default_factory=dict)
    """Positives of a child without its parent, by child task, then by file."""
    requests: RequestStats = field(default_factory=RequestStats)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Errors of files that could not be read to the end, by file."""

    def merge(self, other: "Partial") -> None:
        """Add all that `other` has seen."""
        for day, rows in other.rows.items():
            self.rows[day] = self.rows.get(day, 0) + rows
        for use, stats in other.columns.items():
            self.columns.setdefault(use, ColumnStats()).merge(stats)
        pairs = ((self.labels, other.labels), (self.funnel, other.funnel), (self.arrivals, other.arrivals))
        for mine, theirs in pairs:
            for key, counts in theirs.items():
                mine[key] = mine[key] + counts if key in mine else counts
        self.requests.merge(other.requests)
        self.scenarios.update(other.scenarios)
        if len(self.scenarios) > _MOST_SCENARIOS:
            kept = Counter(dict(self.scenarios.most_common(_MOST_SCENARIOS)))
            kept[_REST] += self.scenarios.total() - kept.total()
            self.scenarios = kept
        for rule, files in other.broken.items():
            merge_found(self.broken.setdefault(rule, {}), files)
        for child, files in other.out_of_order.items():
            merge_found(self.out_of_order.setdefault(child, {}), files)
        self.unreadable = {**other.unreadable, **self.unreadable}


def merge_found(mine: dict[str, RuleViolation], theirs: dict[str, RuleViolation]) -> None:
    """Add the violations of one rule in other rows, by file, to `mine`."""
    for path, found in theirs.items():
        if path not in mine:
            mine[path] = found
            continue
        first = min(mine[path], found, key=lambda f: f.row)
        mine[path] = RuleViolation(mine[path].count + found.count, first.row, first.value)
