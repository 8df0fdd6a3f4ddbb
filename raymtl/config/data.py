"""Location of the logs, days to read, and row order."""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from raymtl.config.base import ExpectedText, Section, Seed
from raymtl.config.roles import Role
from raymtl.config.sampling import Sampling
from raymtl.storage.paths import absolute


def _day(value: object) -> object:
    """Accept only days as text or dates; pydantic alone would read a number as seconds since 1970."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        return value
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    raise ValueError("a day is written YYYY-MM-DD")


Day = Annotated[dt.date, BeforeValidator(_day)]
Location = Annotated[str, Field(min_length=1), Role.PATH]
Locations = Annotated[
    str | list[str], Field(min_length=1), ExpectedText("a folder or a URL, not empty, or a list of them"), Role.PATH
]


def as_roots(path: str | Sequence[str]) -> tuple[str, ...]:
    """The roots of a data set that is one folder or a list of them."""
    return (path,) if isinstance(path, str) else tuple(path)


def yesterday() -> dt.date:
    """The last day that has ended (UTC)."""
    return (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).date()


class DayRange(Section):
    """A closed range of days, `start` and `end` included."""

    start: Day
    """First day, `YYYY-MM-DD`."""
    end: Day
    """Last day, `YYYY-MM-DD`, not before `start`."""

    @model_validator(mode="after")
    def _ordered(self) -> "DayRange":
        if self.end < self.start:
            raise ValueError(f"end ({self.end}) is before start ({self.start}); swap them")
        return self

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"

    def days(self) -> list[dt.date]:
        """Every day of the range, in order."""
        return [self.start + dt.timedelta(days=n) for n in range((self.end - self.start).days + 1)]


class Partition(Section):
    """How the folders of days are named. A folder `name=value` below one is a column of all rows in it."""

    key: Annotated[
        str, Field(pattern=r"^[^=/]+$"), ExpectedText("a name without `=` and `/`"), Role.EXECUTION | Role.READ
    ] = "ds"
    """Name before the `=`, such as `dt`."""
    format: Annotated[str, Role.EXECUTION | Role.READ] = "%Y-%m-%d"
    """The day after the `=` in the directives of Python's `strftime`; `%Y%m%d` stands for 20260131."""

    @field_validator("format")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        for moment in (dt.datetime(2026, 1, 31, 13, 45, 59), dt.datetime(2027, 12, 5, 0, 1)):
            midnight = dt.datetime.combine(moment, dt.time())
            text = moment.strftime(value)
            try:
                exact = dt.datetime.strptime(text, value) == midnight and midnight.strftime(value) == text
            except ValueError:
                exact = False
            if not exact:
                raise ValueError(
                    f"`{value}` does not determine a day, and nothing but a day; use %Y, %m and %d, as in %Y-%m-%d"
                )
        return value


class Scenario(Section):
    """The column that holds the scenario (such as search, feed, live); metrics are also reported for each of its values."""

    column: Annotated[str, Role.LEARNING | Role.READ]
    """Column of kind string or integer."""
    values: Annotated[list[str | int], Field(min_length=1), Role.LEARNING | Role.READ]
    """The values to distinguish, in the order of reports. Any other value, and null, counts as `other`."""

    @property
    def names(self) -> list[str]:
        """The names of the scenarios in reports, `other` last."""
        return [*(str(value) for value in self.values), "other"]

    @model_validator(mode="after")
    def _distinct(self) -> "Scenario":
        names = [str(v) for v in self.values]
        for name in names:
            if name in ("all", "other"):
                raise ValueError(f"values has `{name}`, a reserved name; remove it")
            if names.count(name) > 1:
                raise ValueError(f"values has `{name}` {names.count(name)} times; list it once")
        return self


class Shuffle(Section):
    """How the order of training rows is mixed. Evaluation always reads in file order."""

    mode: Annotated[Literal["none", "units", "rows"], Role.LEARNING] = "rows"
    """`none`: file order. `units`: the order of units is drawn again for each epoch. `rows`: the same, and the rows of each
    block of `data.block_rows` rows are permuted in the reading task."""
    seed: Annotated[Seed, Role.LEARNING] = 0
    """Seed of both permutations; the same seed, data and config give the same order on any number of workers."""


class Data(Section):
    """The data set: parquet files below `path`, in one folder `ds=YYYY-MM-DD` for each day."""

    path: Annotated[Locations, Role.EXECUTION | Role.READ]
    """Root folder or URL (`/logs`, `s3://bucket/logs`, `gs://…`, any file system that pyarrow or fsspec knows), or a list of
    roots with the same columns, which are read as one data set. A relative path starts at the current working directory."""
    train: Annotated[DayRange, Role.SINGLE_RUN | Role.READ]
    """The days to train on."""
    eval: Annotated[DayRange | None, Role.SINGLE_RUN | Role.READ] = None
    """The days to evaluate on; null: no evaluation."""
    eval_path: Annotated[Locations | None, Role.EXECUTION | Role.READ] = None
    """Root of the evaluation data, or a list of roots; null: `path`."""
    snapshot: Annotated[int | None, Field(ge=0), Role.SINGLE_RUN | Role.READ] = None
    """If `path` is a table of Delta Lake or Apache Iceberg: the version or the snapshot ID to read. Null: the latest one when the
    run starts, which a resumed run keeps."""
    eval_snapshot: Annotated[int | None, Field(ge=0), Role.SINGLE_RUN | Role.READ] = None
    """The same for `eval_path`."""
    partition: Partition = Partition()
    """Names of the folders of days."""
    scenario: Scenario | None = None
    """The scenario column, if the logs have one."""
    weight: Annotated[str | None, Role.LEARNING | Role.READ] = None
    """Column with the weight of a row, ≥ 0; a null in it counts as 0. Null: every row has weight 1."""
    sampling: Sampling | None = None
    """Negatives that were dropped from the logs at random; null: the logs are complete."""
    group: Annotated[str | None, Role.LEARNING | Role.READ] = None
    """Column that groups rows for GAUC, usually the user; kind string or integer."""
    request: Annotated[str | None, Role.LEARNING | Role.READ] = None
    """Column with the request that a row belongs to; kind string or integer. The rows of a request stand next to each other; its
    features of the side `user` are read, looked up and computed once for all its rows (`docs/requests.md`), and evaluations have
    NDCG and MRR. A null is a request of its own. Null: no requests, unless `impressions` is set."""
    impressions: Annotated[str | list[str] | None, Role.LEARNING | Role.READ] = None
    """For nested logs, in which a row is a request: the column with the list of its impressions, whose fields are columns of the
    rows; or several columns with lists of the same length. All other columns belong to the request. Null: a row is an
    impression."""
    timestamp: Annotated[str | None, Role.LEARNING | Role.READ] = None
    """Column with the time of the impression; checked, not trained on."""
    unit_rows: Annotated[PositiveInt, Role.LEARNING | Role.READ] = 1_000_000
    """Rows per unit, about: a unit is the part of the input that a checkpoint counts as read. Only the last
    step before a checkpoint or an evaluation may be partly empty, so the units between two should make many steps."""
    block_rows: Annotated[PositiveInt, Role.EXECUTION | Role.READ] = 65_536
    """Rows at most in one block, of which a reading task hands each worker an equal slice; also the window of
    `shuffle.mode: rows`. With more workers than one per 4,096 of these rows, which rows are in a step depends on the number of
    workers."""
    shuffle: Shuffle = Shuffle()
    """Order of the training rows."""
    read_tasks: Annotated[PositiveInt | None, Role.EXECUTION] = None
    """Reading tasks that run at a time, one logical CPU each. Null: half of the CPUs in the cluster that the workers leave
    free, at least one."""
    read_labels: Annotated[dict[str, str], Role.EXECUTION] = {}
    """Ray labels that a node must have to run reading tasks, as in `train.placement.labels`; empty: any node."""
    prefetch_blocks: Annotated[int, Field(ge=0), Role.EXECUTION] = 2
    """Slices of blocks that each worker fetches ahead."""

    def roots_of(self, part: str) -> tuple[str, ...]:
        """Roots of the data of `train` or `eval`."""
        return as_roots(self.eval_path if part == "eval" and self.eval_path else self.path)

    def snapshot_of(self, part: str) -> int | None:
        """The snapshot to read for `train` or `eval`."""
        return self.eval_snapshot if part == "eval" and self.eval_path else self.snapshot

    @field_validator("path", "eval_path")
    @classmethod
    def _distinct_roots(cls, value: str | list[str] | None) -> str | list[str] | None:
        roots = [absolute(root).rstrip("/") for root in as_roots(value or ())]
        if "" in as_roots(value or ()):
            raise ValueError("a root is empty; name a folder or a URL")
        if twice := next((root for root in roots if roots.count(root) > 1), None):
            raise ValueError(f"the root `{twice}` is listed twice, so its rows would be read twice; list it once")
        return value

    @field_validator("impressions")
    @classmethod
    def _names_columns(cls, value: str | list[str] | None) -> str | list[str] | None:
        names = [value] if isinstance(value, str) else value
        if names is not None and (not names or "" in names or len({*names}) < len(names)):
            raise ValueError(
                "impressions names no column, or one twice; name the column with the list, or each list once"
            )
        return value

    @property
    def by_request(self) -> bool:
        """Whether the rows of a request share its user side."""
        return self.request is not None or self.impressions is not None

    @property
    def has_complete_requests(self) -> bool:
        """Whether there are requests of which no row was dropped, so that the ranks of their rows mean something."""
        return self.by_request and self.sampling is None

    @property
    def has_weights(self) -> bool:
        """Whether rows have weights other than 1."""
        return self.weight is not None or self.sampling is not None

    @property
    def impression_columns(self) -> tuple[str, ...]:
        """The columns that hold the impressions of nested logs; empty: a row is an impression."""
        return (self.impressions,) if isinstance(self.impressions, str) else tuple(self.impressions or ())

    @model_validator(mode="after")
    def _has_table(self) -> "Data":
        if self.eval_snapshot is not None and self.eval_path is None:
            raise ValueError("eval_snapshot is set without eval_path; remove it: the evaluation reads data.snapshot")
        for part, key in (("train", "snapshot"), ("eval", "eval_snapshot")):
            if self.snapshot_of(part) is not None and len(self.roots_of(part)) > 1:
                raise ValueError(
                    f"{key} is the snapshot of one table, but the path is a list of roots; remove one of the two"
                )
        return self
