"""The plan of a run's input: the row groups of each unit, and the order of the units.

A **unit** is the smallest amount of input that a checkpoint counts as read. The plan depends on the files and on `data.unit_rows`
alone, never on the number of workers, so that a run resumes with the same units on another cluster.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raymtl.config.base import did_you_mean
from raymtl.config.root import Config
from raymtl.data.contract import held_ids, mixed_problems, required_columns, schema_faults
from raymtl.data.foreign import other_content
from raymtl.data.found import File
from raymtl.data.lakehouse.snapshot import SETTING
from raymtl.data.lakehouse.tables import with_snapshots
from raymtl.data.nested import count_places, flat_schema
from raymtl.data.partitions import Layout, Values, with_columns
from raymtl.data.roots import Roots
from raymtl.data.source import evaluated_training_files
from raymtl.errors import DataError
from raymtl.storage.filesystem import open_to_read
from raymtl.storage.retry import is_of_storage, retry, to_user_error
from raymtl.words import some_of

_FOOTER_THREADS = 16
_MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Fragment:
    """Row groups of one file."""

    path: str
    row_groups: tuple[int, ...]
    first_row: int
    """Row of the file at which the first row group starts, for error messages."""
    rows: int
    # Not part of the text that identifies a replay
    day: dt.date = field(default=dt.date.min, repr=False)
    """The day of its partition."""
    values: Values = field(default=(), repr=False)
    """The columns that its folders stand for."""
    impressions: tuple[str, ...] = field(default=(), repr=False)
    """The columns that hold the impressions of nested rows: then `first_row` and `rows` count their places (`data/nested.py`)."""


@dataclass(frozen=True)
class Counted:
    """The tasks whose labels count in some rows; labels of the others are not observed."""

    final: tuple[str, ...] | None = None
    """Those whose labels are final; None: all tasks."""
    early: tuple[str, ...] = ()
    """Those with `early_labels` that train on what has arrived."""
    held_out_of_own_day: bool = False
    """Whether the users held out are those of the rows' own day, on which they were trained on early, and not of the job's."""

    def __contains__(self, task: str) -> bool:
        return self.final is None or task in self.final or task in self.early

    @property
    def key(self) -> object:
        """What the identity of a plan has of it: days without early labels keep theirs."""
        return self if self.early or self.held_out_of_own_day else self.final

    @property
    def none(self) -> bool:
        """Whether no task counts."""
        return self.final == () and not self.early


@dataclass(frozen=True)
class Unit:
    """Fragments that are read as one unit."""

    fragments: tuple[Fragment, ...]
    counted: Counted = Counted()
    """The tasks whose labels count in these rows."""

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.fragments)


@dataclass(frozen=True)
class Plan:
    """All units of a data set, in file order."""

    root: str
    """The data set as the configuration names it; of several roots the first, which opens the storage of all."""
    units: tuple[Unit, ...]
    identity: str
    """Hash of the files (paths below their roots), their sizes and the units: equal plans read the same rows under the same
    unit numbers."""
    days: tuple[str, str]
    """First and last day."""
    notes: tuple[str, ...] = ()
    """What is there and is not read, one sentence each."""
    snapshot: int | None = None
    """The snapshot, if the data set is a table."""
    held: Mapping[str, frozenset[str]] = field(default_factory=dict, compare=False, repr=False)
    """By table, what the logs hold of its IDs (`contract.held_ids`)."""

    @property
    def rows(self) -> int:
        return sum(u.rows for u in self.units)

    def order(self, seed: int | None, epoch: int) -> list[int]:
        """Numbers of the units in the order in which epoch `epoch` reads them; `seed` None: file order."""
        if seed is None:
            return list(range(len(self.units)))
        return np.random.default_rng([seed, epoch]).permutation(len(self.units)).tolist()


@dataclass(frozen=True)
class Footer:
    """The footer of a parquet file."""

    file: File
    schema: pa.Schema
    """Its columns, and those that its folders stand for."""
    row_group_rows: tuple[int, ...]
    """Of nested rows the places of their impressions."""

    @property
    def rows(self) -> int:
        return sum(self.row_group_rows)


class _BrokenError(Exception):
    """The file is broken or not parquet, as its text says, and not the storage."""


def read_footers(filesystem: pafs.FileSystem, files: Sequence[File]) -> list[Footer]:
    """Schema and row counts of every file; DataError names a file whose footer cannot be read."""
    footers, problems = find_footers(filesystem, files)
    if problems:
        raise DataError(problems[0])
    return footers


def find_footers(filesystem: pafs.FileSystem, files: Sequence[File]) -> tuple[list[Footer], list[str]]:
    """Schema and row counts of the readable files, read in threads, and the faults of the others.

    Files of the same schema share one schema object. Raises StorageError if the storage keeps failing: then the files may be
    intact.
    """

    def footer(file: File) -> tuple[pq.FileMetaData, pa.Schema]:
        with open_to_read(filesystem, file.path) as stream:
            try:
                metadata = pq.read_metadata(stream)
                schema = metadata.schema.to_arrow_schema().remove_metadata()
                _ = schema.names
                return metadata, schema
            except UnicodeDecodeError as error:
                raise _BrokenError(
                    f"the name of a column is not UTF-8 ({error.object!r}); write the file again with another name"
                ) from error
            except (pa.ArrowException, OSError) as error:
                if is_of_storage(error):
                    raise
                stream.seek(0)
                raise _BrokenError(_fault(str(error), other_content(stream, file.path))) from error  # not retried

    def read(file: File) -> Footer | str:
        if file.size == 0:
            return f"{file.path}: the file is empty (0 bytes); write it again or remove it"
        try:
            metadata, schema = retry(lambda: footer(file))
        except FileNotFoundError as error:
            if file.snapshot is None:
                raise to_user_error(f"read `{file.path}`", error) from error
            return (
                f"{file.path}: the file of {file.snapshot} no longer exists, as after VACUUM; set {SETTING} to a newer one, "
                "or to null"
            )
        except OSError as error:
            raise to_user_error(f"read `{file.path}`", error) from error
        except _BrokenError as broken:
            return f"{file.path}: {broken}"
        if file.columns is not None and (fault := _renamed(schema, file.columns)):
            return f"{file.path}: {fault}"
        try:
            if file.impressions:
                schema = flat_schema(schema, file.impressions)
            rows = tuple(group_rows(metadata, file.impressions))
        except DataError as error:
            return f"{file.path}: {error}"
        there = {*schema.names, *dict(file.values)}
        absent = tuple((name, None) for name in file.optional if name not in there)
        file = replace(file, values=file.values + absent)
        return Footer(file, with_columns(schema, file.values), rows)

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        read_all = list(pool.map(read, files))
    schemas: dict[pa.Schema, pa.Schema] = {}
    footers = [replace(f, schema=schemas.setdefault(f.schema, f.schema)) for f in read_all if isinstance(f, Footer)]
    return footers, [f for f in read_all if isinstance(f, str)]


def group_rows(metadata: pq.FileMetaData, impressions: Sequence[str]) -> list[int]:
    """The rows of each row group, of nested rows their places."""
    if impressions:
        return count_places(metadata, impressions)
    return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]


def _renamed(schema: pa.Schema, columns: Mapping[str, int]) -> str | None:
    """Why the names of a file's columns are not those of its table, whose columns have IDs that parquet files hold too."""
    names = {number: name for name, number in columns.items()}
    for column in schema:
        number = (column.metadata or {}).get(b"PARQUET:field_id")
        if number is None:  # such a file's columns are known by name
            continue
        if (name := names.get(int(number), column.name)) != column.name:
            return f"column `{column.name}` was renamed to `{name}` after the file was written; rewrite the table's data files"
        if columns.get(column.name, int(number)) != int(number):
            return (
                f"column `{column.name}` is another one than the table's of that name; rewrite the table's data files"
            )
    return None


def _fault(error: str, content: str | None) -> str:
    """Why a file has no readable footer; `content`: what it is, if it is not parquet."""
    if content is None:
        return (
            f"not a readable parquet file ({error.splitlines()[0]}); it may be truncated or still being written: write it again "
            "or remove it"
        )
    return (
        f"{content}, which raymtl does not read; write it as plain parquet, or move it out of the partition (a name that begins "
        "with `_` is skipped)"
    )


def with_rows(footers: Iterable[Footer]) -> list[Footer]:
    """The files whose schemas count: writers give columns of an empty file any type (pandas: double)."""
    return [footer for footer in footers if footer.rows]


def plan_input(config: Config, part: str) -> Plan:
    """The plan of `part` (`train` or `eval`) of a configuration; reads footers only.

    Raises DataError if a partition or file is missing or damaged, a schema does not fit, or there are no rows at all.
    """
    return plan_inputs(config, [part])[part]


def plan_inputs(config: Config, parts: Sequence[str]) -> dict[str, Plan]:
    """The plans of several parts, as `plan_input` makes them; their ID columns must hold the same in all of them."""
    plans, footers = {}, {}
    config = with_snapshots(config)
    for part in parts:
        plans[part], footers[part] = _plan(config, part)
    if len(footers) > 1 and (
        same := evaluated_training_files(*([f.file for f in footers[part]] for part in ("train", "eval")))
    ):
        raise DataError(same[0])
    filled = with_rows(f for part in parts for f in footers[part])
    shared = [c for c in required_columns(config) if c.training]
    if problems := mixed_problems([(f.file.path, f.schema) for f in filled], shared):
        raise DataError("\n".join(problems[:_MOST_PROBLEMS]))
    return plans


def _plan(config: Config, part: str) -> tuple[Plan, list[Footer]]:
    data = config.data
    days = data.eval if part == "eval" else data.train
    if days is None:
        raise DataError("data.eval is not set; set data.eval.start and data.eval.end to the days to evaluate on")
    roots = Roots.open(data.roots_of(part))
    found = roots.find_files(days, Layout.of(config, part)).or_raise()
    files = found.files
    footers = read_footers(roots.filesystem, files)
    if problems := _schema_problems(with_rows(footers), config, part == "eval"):
        more = f"\n… and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise DataError("\n".join(problems[:_MOST_PROBLEMS]) + more)
    units = make_units(footers, data.unit_rows)
    if not units:
        raise DataError(
            f"{roots.words} {roots.have} no rows on {days}: the parquet files are empty; write those days again or choose others"
        )
    if empty := sorted({f.day for f in files} - {f.file.day for f in with_rows(footers)}):
        found.notes.append(
            f"{roots.words}: {some_of(map(str, empty), 'day')} of data.{part} {'has' if len(empty) == 1 else 'have'} no rows; "
            f"write {'it' if len(empty) == 1 else 'them'} again, or choose other days"
        )
    found.notes += never_there(with_rows(footers))
    of_days = (str(min(f.day for f in files)), str(max(f.day for f in files)))
    held = held_ids(config, {id(f.schema): f.schema for f in with_rows(footers)}.values())
    identity = _identity(footers, units, roots)
    plan = Plan(roots.path, units, identity, of_days, tuple(found.notes), found.snapshot, held)
    return plan, footers


def never_there(footers: Sequence[Footer]) -> list[str]:
    """A sentence for each column that files may lack, by a feature's `since`, and all of them do: it may be misspelt."""
    known = {name for footer in footers for name in footer.schema.names}
    optional = dict.fromkeys(name for footer in footers for name in footer.file.optional)
    absent = [name for name in optional if all((name, None) in footer.file.values for footer in footers)]
    return [
        f"column `{name}` is in none of the files, so its features are null in all rows: the days are before their `since`; "
        f"check its name if it should be there{did_you_mean(name, known - {name})}"
        for name in absent
    ]


def snapshots_of(plans: Mapping[str, Plan]) -> dict[str, int]:
    """The snapshots of the tables among some plans, by their names."""
    return {name: plan.snapshot for name, plan in plans.items() if plan.snapshot is not None}


def join_plans(parts: Sequence[tuple[Plan, Counted]]) -> Plan:
    """One plan that reads several plans of a data set in order, each with the tasks whose labels count there."""
    roots = {plan.root for plan, _ in parts}
    assert len(roots) == 1, f"plans of several data sets: {sorted(roots)}"
    units = tuple(replace(unit, counted=counted) for plan, counted in parts for unit in plan.units)
    identity = hashlib.sha256(repr([(plan.identity, counted.key) for plan, counted in parts]).encode()).hexdigest()[:16]
    days = [day for plan, _ in parts for day in plan.days]
    notes = tuple(dict.fromkeys(note for plan, _ in parts for note in plan.notes))
    tables = {table for plan, _ in parts for table in plan.held}
    held = {t: frozenset().union(*(plan.held.get(t, frozenset()) for plan, _ in parts)) for t in tables}
    return Plan(roots.pop(), units, identity, (min(days), max(days)), notes, parts[0][0].snapshot, held)


def _schema_problems(footers: Sequence[Footer], config: Config, evaluation: bool) -> list[str]:
    columns = [c for c in required_columns(config) if c.is_needed(evaluation)]
    faults: dict[int, list[str]] = {}  # by schema object: thousands of files have few schemas
    for footer in footers:
        if id(footer.schema) not in faults:
            faults[id(footer.schema)] = [f for _, f in schema_faults(footer.schema, config, columns)]
    problems = [f"{footer.file.path}: {fault}" for footer in footers for fault in faults[id(footer.schema)]]
    return problems or mixed_problems([(f.file.path, f.schema) for f in footers], columns)


def make_units(footers: Sequence[Footer], unit_rows: int) -> tuple[Unit, ...]:
    """Row groups in file order, gathered until a unit has at least `unit_rows` rows; a row group is never split."""
    units: list[Unit] = []
    fragments: list[Fragment] = []
    gathered = 0
    for footer in footers:
        first = 0
        for group, rows in enumerate(footer.row_group_rows):
            if rows:
                last = fragments[-1] if fragments else None
                if last is not None and last.path == footer.file.path and last.row_groups[-1] == group - 1:
                    fragments[-1] = replace(last, row_groups=(*last.row_groups, group), rows=last.rows + rows)
                else:
                    file = footer.file
                    fragments.append(
                        Fragment(file.path, (group,), first, rows, file.day, file.values, file.impressions)
                    )
                gathered += rows
            first += rows
            if gathered >= unit_rows:
                units.append(Unit(tuple(fragments)))
                fragments, gathered = [], 0
    if fragments:
        units.append(Unit(tuple(fragments)))
    return tuple(units)


def _identity(footers: Sequence[Footer], units: Sequence[Unit], roots: Roots) -> str:
    """Hash paths relative to their root, so that a data set may move or be mounted elsewhere between two starts of a run."""
    digest = hashlib.sha256()
    names = {footer.file.path: roots.name_of(footer.file) for footer in footers}
    for footer in footers:
        digest.update(f"{names[footer.file.path]}\0{footer.file.size}\0{footer.row_group_rows}\n".encode())
    for unit in units:
        digest.update(f"{[(names[f.path], f.row_groups) for f in unit.fragments]}\n".encode())
    return digest.hexdigest()[:16]
