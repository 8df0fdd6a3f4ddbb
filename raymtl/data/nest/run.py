"""The driver: day by day, Ray deals rows out by request and requests by user, through temporary files of gathered requests."""

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data.context import DataContext, ShuffleStrategy

from raymtl.data.column_types import plain_type
from raymtl.data.local_ray_data import leave_out_cluster_actors
from raymtl.data.nest.tasks import (
    BUCKET,
    IMPRESSIONS,
    ORDER,
    Gathered,
    Keys,
    ReadGathered,
    ReadRows,
    gather,
    write,
)
from raymtl.data.partitions import Layout
from raymtl.data.scan import Body, Tasks
from raymtl.data.units import Footer, make_units, with_rows
from raymtl.data.writing import OutputFolder
from raymtl.errors import DataError, user_errors
from raymtl.storage.folder import Folder

TEMPORARY = "_nest"
"""The folder of gathered requests, which readers ignore."""
_BLOCK_BYTES = 128 << 20
"""Rows, or gathered requests, that a task holds, in memory; it needs about four times that."""
_FILE_ROWS = 1_000_000
_SAMPLES, _SAMPLE_ROWS = 8, 2_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Logs:
    """Flat logs with folders of days."""

    folder: Folder
    layout: Layout
    footers: Sequence[Footer]
    """Of all files, those without rows too."""
    out: str = ""
    """The folder below the output."""

    @property
    def days(self) -> list[dt.date]:
        return sorted({footer.file.day for footer in self.footers})

    def of_day(self, day: dt.date) -> list[Footer]:
        """The files of a day with rows."""
        return with_rows(footer for footer in self.footers if footer.file.day == day)


@dataclass(frozen=True)
class Nested:
    """What was written."""

    rows: int
    requests: int
    files: int
    bytes: int
    largest: int
    """Rows of the largest request."""
    of_requests: tuple[str, ...]
    """The columns that have a value per request."""
    of_impressions: tuple[str, ...]
    keys: Keys
    """Without the user, if it varies within requests."""


def nest(
    parts: Sequence[Logs],
    keys: Keys,
    forced: Sequence[str],
    target: OutputFolder,
    read_tasks: int,
    on_read: Progress,
    on_written: Progress,
    *,
    user_given: bool = False,
) -> Nested:
    """Write the rows of some logs as nested ones with one schema; `forced` columns are those of impressions whatever they hold.

    `user_given`: it is an error if the user varies within a request; otherwise requests then stand in any order.
    Raises DataError if the logs cannot be nested like that.
    """
    schema = common_schema(with_rows(footer for part in parts for footer in part.footers))
    total = sum(footer.rows for part in parts for footer in part.footers)
    gathered: dict[tuple[int, dt.date], list[Gathered]] = {}
    done = 0
    for number, part in enumerate(parts):
        for day in part.days:
            found = gathered[number, day] = []
            for file in _gathered(part, day, f"{TEMPORARY}/{number}/{day}", schema, keys, forced, target, read_tasks):
                found.append(file)
                done += file.rows
                on_read(done, total)
    files = [file for found in gathered.values() for file in found]
    if done != total:
        raise DataError(f"only {done:,} of {total:,} rows were read: the files changed meanwhile; rerun the command")
    varying = frozenset(name for file in files for name in file.varying)
    requests = sum(file.requests for file in files)
    _check(keys, varying, total, requests)
    if keys.user in varying:
        if user_given:
            raise DataError(
                f"--user: column `{keys.user}` varies within the requests of `{keys.request}`; name another column, or leave "
                "--user out"
            )
        keys = replace(keys, user=None)
    done, written = 0, []
    for number, part in enumerate(parts):
        for day in part.days:
            folder = "/".join(filter(None, (part.out, part.layout.name(day))))
            target.make(folder)
            for file in _written(gathered[number, day], folder, schema, varying, keys, target, read_tasks):
                written.append(file)
                done += file.rows
                on_written(done, total)
    assert done == total, f"{done} of {total} rows were written"
    names = schema.names
    return Nested(
        total,
        requests,
        len(written),
        sum(file.bytes for file in written),
        max(file.largest for file in written),
        tuple(name for name in names if name not in varying),
        tuple(name for name in names if name in varying),
        keys,
    )


def common_schema(footers: Sequence[Footer]) -> pa.Schema:
    """The columns of all files, each in a type that holds the values of all. DataError names a column that has none."""
    fields: dict[str, tuple[pa.Field, str]] = {}
    for schema, path in {id(f.schema): (f.schema, f.file.path) for f in footers}.values():
        for field in schema:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            own = pa.field(field.name, plain_type(kind))
            before, first = fields.get(field.name, (own, path))
            try:
                merged = pa.unify_schemas([pa.schema([before]), pa.schema([own])], promote_options="permissive")
            except pa.ArrowException:
                raise DataError(
                    f"column `{field.name}` has type {before.type} in {first} and {own.type} in {path}; write one type"
                ) from None
            fields[field.name] = merged.field(0), first
    return pa.schema([field for field, _ in fields.values()])


def _check(keys: Keys, varying: frozenset[str], rows: int, requests: int) -> None:
    if rows == requests:
        raise DataError(
            f"no two rows of a day have the same `{keys.request}`, so there is nothing to nest; name the column that the rows of "
            "a request share with --request"
        )
    if not varying:
        raise DataError(
            f"no column varies within the requests of `{keys.request}`; name those of the impressions with --impression"
        )


def _gathered(
    part: Logs,
    day: dt.date,
    folder: str,
    schema: pa.Schema,
    keys: Keys,
    forced: Sequence[str],
    target: OutputFolder,
    read_tasks: int,
) -> Iterator[Gathered]:
    """Deal out the rows of a day by request, and gather those of each."""
    footers = part.of_day(day)
    if not footers:
        return
    row_bytes = _row_bytes(part, footers, schema, keys)
    rows = sum(footer.rows for footer in footers)
    buckets = max(1, round(rows * row_bytes / _BLOCK_BYTES))
    before = dict(
        zip((f.file.path for f in footers), np.cumsum([0, *(f.rows for f in footers)]).tolist(), strict=False)
    )
    names = {f.file.path: f.schema.names for f in footers}
    units = make_units(footers, max(1, int(_BLOCK_BYTES / row_bytes)))
    bodies = [
        ReadRows(
            part.folder.path,
            [(f, names[f.path], before[f.path]) for f in unit.fragments],
            schema,
            keys.request,
            buckets,
        )
        for unit in units
    ]
    target.make(folder)
    work = partial(gather, target=target, folder=folder, keys=keys, forced=frozenset(forced))
    bounds = [*range(1, buckets)] or [1]
    yield from _shuffled("ReadRows", bodies, read_tasks, [BUCKET], bounds, work)


def _written(
    files: Sequence[Gathered],
    folder: str,
    schema: pa.Schema,
    varying: frozenset[str],
    keys: Keys,
    target: OutputFolder,
    read_tasks: int,
) -> Iterator[Gathered]:
    """Deal out the requests of a day by user, and write them."""
    tasks: list[list[Gathered]] = []
    for file in files:
        if not tasks or sum(f.bytes for f in tasks[-1]) > _BLOCK_BYTES or sum(f.rows for f in tasks[-1]) > _FILE_ROWS:
            tasks.append([])
        tasks[-1].append(file)
    bodies = [ReadGathered(target, task, schema, varying, keys) for task in tasks]
    if bodies:
        yield from _shuffled(
            "ReadRequests", bodies, read_tasks, [*ORDER], None, partial(write, target=target, folder=folder)
        )
    else:  # a range of days needs a file of each
        fields = [field for field in schema if field.name not in varying]
        struct = pa.struct([field for field in schema if field.name in varying])
        empty = pa.schema([*fields, pa.field(IMPRESSIONS, pa.list_(struct))])
        without_rows = target.open_parquet(f"{folder}/part-0.parquet", empty)
        without_rows.write(empty.empty_table())
        yield Gathered("", 0, 0, without_rows.close(), 0, ())


def _shuffled(
    name: str,
    bodies: Sequence[Body],
    read_tasks: int,
    order: list[str],
    bounds: list[int] | None,
    work: Callable[[pa.Table], pa.Table],
) -> Iterator[Gathered]:
    """Sort what the bodies read, and pass each block to `work`; blocks begin at `bounds` of the first column, or anywhere."""
    leave_out_cluster_actors()
    context = DataContext.get_current().copy()
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED  # spills to disk what exceeds the object store
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        source = Tasks(name, bodies, _BLOCK_BYTES)
        options: dict[str, Any] = {"concurrency": min(read_tasks, len(bodies)), "override_num_blocks": len(bodies)}
        dataset = ray.data.read_datasource(source, **options).sort(order, boundaries=bounds)
        dataset = dataset.map_batches(partial(_unless_empty, work), batch_size=None, batch_format="pyarrow")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        for table in user_errors(dataset.iter_batches(batch_size=None, batch_format="pyarrow")):
            for row in table.to_pylist():
                yield Gathered(**{**row, "varying": tuple(row["varying"])})


def _unless_empty(work: Callable[[pa.Table], pa.Table], rows: pa.Table) -> pa.Table:
    return work(rows) if len(rows) else pa.table({})


def _row_bytes(part: Logs, footers: Sequence[Footer], schema: pa.Schema, keys: Keys) -> float:
    """Bytes of a row in memory, measured on rows from places all over a day: histories may grow during it."""
    fragments = [(unit.fragments[0], footer.schema.names, 0) for footer in footers for unit in make_units([footer], 1)]
    chosen = [fragments[n] for n in np.linspace(0, len(fragments) - 1, _SAMPLES).round().astype(int)]
    rows = size = 0
    for table in ReadRows(part.folder.path, chosen, schema, keys.request, 1, _SAMPLE_ROWS)():
        rows, size = rows + len(table), size + table.nbytes
    return max(1.0, size / rows)
