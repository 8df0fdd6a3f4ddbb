"""The report of `raymtl check`: the figures of each part of the data, and their problems, warnings and notes.

A **problem** violates the contract and makes `raymtl check` exit with 65. A **warning** is allowed, but rarely intended. A
**note** is for information.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

MOST_PLACES = 20
"""Locations of broken values that a report keeps per rule."""
_FIGURE = re.compile(r"(?<![^\s(])\d[\d,.]*%?(?=[ )])")
"""A number as a word of its own, not in a name, a path or a date."""


@dataclass
class LabelRate:
    """Labels of one task in some rows."""

    rows: int
    observed: int
    mean: float | None
    """Mean of the observed labels: the share of positives of a binary task."""
    squares: float = field(default=0.0, metadata={"hidden": True})
    """Mean of the squares, for the spread."""
    weighed: int = field(default=0, metadata={"hidden": True})
    """Observed labels of rows whose weight is above 0: without any, a task learns nothing."""
    zeros: int = field(default=0, metadata={"hidden": True})

    @property
    def observed_share(self) -> float:
        return self.observed / self.rows if self.rows else 0.0

    @property
    def std(self) -> float | None:
        """Standard deviation of the observed labels."""
        return None if self.mean is None else math.sqrt(max(0.0, self.squares - self.mean**2))


@dataclass
class TaskReport:
    kind: str
    column: str
    all: LabelRate
    by_day: dict[str, LabelRate]
    by_scenario: dict[str, LabelRate]
    """Empty without `data.scenario`."""


@dataclass
class ColumnReport:
    """One use of a column; figures that its kind lacks are None."""

    kind: str
    column: str
    rows: int
    nulls: int
    not_finite: int | None = None
    """NaN and infinities."""
    min: float | str | None = None
    mean: float | None = None
    max: float | str | None = None
    std: float | None = None
    scaled_mean: float | None = None
    """Mean of a dense feature after `clip` and `transform`, which its `mean` should be close to."""
    scaled_std: float | None = None
    """The same for `std`."""
    clipped: int | None = None
    """Values outside `clip`."""
    distinct: int | None = None
    """Distinct IDs, estimated within about 1 %."""
    table: str | None = None
    buckets: list[int] | None = None
    """Rows of each bucket."""
    empty: int | None = None
    """Empty and null lists."""
    null_elements: int | None = None
    """Nulls inside lists. Of IDs they are left out."""
    elements: int | None = None
    """Numbers inside lists, nulls included."""
    mean_length: float | None = None
    """Over the rows that have any ID."""
    longest: int | None = None
    cut: int | None = None
    """Lists longer than `max_length`."""
    off_day: int | None = None
    """Timestamps more than a day outside their partition."""

    @property
    def numbers(self) -> int:
        """Numbers of a column of them, nulls included."""
        return self.rows if self.elements is None else self.elements


@dataclass
class TableReport:
    id_space: str
    rows: int
    distinct: int
    """Distinct IDs of all features that read the table, estimated."""
    shared: float | None
    """Expected share of the IDs that share their row with another ID; None for `direct`."""


@dataclass
class FunnelReport:
    child: str
    parent: str
    rows: int
    """Rows where both are observed."""
    positives: int
    """Rows among them where the child is 1."""
    violations: int
    """Rows among those where the parent is 0."""
    first: str | None
    """`file, row n` of the first."""


@dataclass
class BrokenPlace:
    file: str
    row: int
    value: str
    count: int
    """Broken values of this rule in the file."""


@dataclass
class BrokenReport:
    """Values that break one rule."""

    column: str
    used_by: str
    noun: str
    """`value`, `label`, `weight`, `ID`."""
    expected: str
    remedy: str
    count: int
    files: int
    places: list[BrokenPlace]
    """The first place in each file, for the first files."""


@dataclass
class SchemaDifference:
    """A column that differs between files."""

    column: str
    used: bool
    types: dict[str, tuple[int, str]]
    """Number of files, and the first of them, by type."""
    missing: int
    """Files without the column."""
    first_missing: str | None


@dataclass
class ScenarioReport:
    column: str
    listed: dict[str, int]
    """Rows of each value of the configuration."""
    unlisted: dict[str, int]
    """Rows of the other values, most frequent first; they count as `other`."""
    nulls: int


@dataclass
class RequestReport:
    """The requests of a part."""

    requests: int
    rows_per_request: float
    longest: int
    distinct: int | None
    """Distinct values of `data.request`, estimated; None if a row of the files is a request."""
    user_share: float
    """Share of the user's side among the decoded bytes, if each row has it."""
    constant: list[str]
    """Features that are not of the user, but never differ within a request."""


@dataclass(kw_only=True)
class Findings:
    """Sentences."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class PartReport(Findings):
    """One part of the data, `train` or `eval`."""

    path: str
    days: str
    snapshot: int | None = None
    """The snapshot that was read, if the data are a table."""
    files: int = 0
    bytes: int = 0
    row_groups: int = 0
    units: int = 0
    rows: int = 0
    """Rows according to the files' footers."""
    rows_by_day: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    """Type of each column that the configuration reads: `integer`, `string`, `number` …, or `missing`."""
    features: dict[str, ColumnReport] = field(default_factory=dict)
    others: dict[str, ColumnReport] = field(default_factory=dict)
    """Weight, group, timestamp, truths: by key of the configuration."""
    tables: dict[str, TableReport] = field(default_factory=dict)
    tasks: dict[str, TaskReport] = field(default_factory=dict)
    funnel: list[FunnelReport] = field(default_factory=list)
    late: dict[str, float] = field(default_factory=dict)
    """By task with early labels, the share of its labels of 1 that came after the cutoff."""
    scenario: ScenarioReport | None = None
    requests: RequestReport | None = None
    """None without `data.request` and `data.impressions`."""
    broken: list[BrokenReport] = field(default_factory=list)
    schema: list[SchemaDifference] = field(default_factory=list)


@dataclass
class CheckReport:
    """The result of one pass over the data."""

    parts: dict[str, PartReport]
    """`train`, `eval`."""
    across: Findings
    """Findings about the parts together."""
    seconds: float

    @property
    def problems(self) -> list[str]:
        """Violations of the contract; with any of them `raymtl check` ends with exit code 65."""
        return self._all("problems")

    @property
    def warnings(self) -> list[str]:
        return self._all("warnings")

    @property
    def notes(self) -> list[str]:
        return self._all("notes")

    @property
    def rows(self) -> int:
        return sum(p.rows for p in self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        parts = {name: _plain(part) for name, part in self.parts.items()}
        sentences = {"problems": self.problems, "warnings": self.warnings, "notes": self.notes}
        return {"ok": not self.problems, **sentences, "rows": self.rows, "seconds": self.seconds, "parts": parts}

    def _all(self, what: str) -> list[str]:
        """The sentences of the parts, those of both once, and those across the parts.

        Warnings and notes that say the same but for their figures, which precede the remedy, are also one: the first.
        """
        found: dict[str, dict[str, str]] = {}
        for name, part in self.parts.items():
            for sentence in getattr(part, what):
                same = sentence if what == "problems" else _FIGURE.sub("#", sentence.partition(";")[0])
                found.setdefault(sentence if name in found.get(same, {}) else same, {})[name] = sentence
        merged = []
        for by_part in found.values():
            first, *others = by_part.values()
            differ = any(_FIGURE.findall(other) != _FIGURE.findall(first) for other in others)
            figures = f" (figures of {next(iter(by_part))})" if differ else ""
            merged.append(f"{' and '.join(by_part)}{figures}: {first}")
        return merged + getattr(self.across, what)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        shown = [f for f in dataclasses.fields(value) if "hidden" not in f.metadata]
        pairs = {f.name: _plain(getattr(value, f.name)) for f in shown}
        return {k: v for k, v in pairs.items() if v is not None or not isinstance(value, ColumnReport)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
