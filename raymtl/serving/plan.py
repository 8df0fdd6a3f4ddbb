"""The plan of a scoring job: the input, and one output file for every unit of a day, independent of the workers."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.config.data import DayRange
from raymtl.config.features import BiasFeature, columns_of
from raymtl.config.root import Config
from raymtl.data.column_types import plain_type
from raymtl.data.contract import mixed_problems, required_columns, schema_faults
from raymtl.data.found import File
from raymtl.data.nested import count_empty
from raymtl.data.partitions import Layout
from raymtl.data.source import find_files
from raymtl.data.units import Footer, Fragment, Unit, make_units, read_footers, with_rows
from raymtl.errors import DataError
from raymtl.storage.filesystem import open_to_read
from raymtl.storage.folder import Folder
from raymtl.storage.retry import retry

_THREADS = 16
UNIT_ROWS = 1 << 18
"""Approximate rows of an output file: input row groups are gathered until they reach it, and never split."""


@dataclass(frozen=True)
class Output:
    """One output file."""

    name: str
    """Relative to the output folder."""
    unit: Unit
    """Its input rows, in order."""
    empty: int = 0
    """Places of nested rows without impressions, which have no row."""

    @property
    def rows(self) -> int:
        return self.unit.rows - self.empty


@dataclass(frozen=True)
class ScorePlan:
    """All files of a scoring job."""

    root: str
    """The data set."""
    outputs: tuple[Output, ...]
    keys: pa.Schema
    """The key columns, with their output types."""
    identity: str
    """Hash of the input files and their row groups: equal plans produce the same files from the same rows."""
    notes: tuple[str, ...] = ()
    """What is there and is not read, one sentence each."""
    snapshot: int | None = None
    """The snapshot, if the data set is a table."""

    @property
    def rows(self) -> int:
        return sum(o.rows for o in self.outputs)


def served_columns(config: Config) -> list[str]:
    """Columns of the logs that predictions need, each once."""
    return list(dict.fromkeys(c.name for c in _needed(config)))


def default_keys(config: Config) -> list[str]:
    """The user, and every column of an `id` feature: what identifies a row."""
    columns = [columns_of(name, config.features)[0] for name, f in config.features.items() if f.kind == "id"]
    return list(dict.fromkeys([*([config.data.group] if config.data.group else []), *columns]))


def plan_scoring(
    config: Config, path: str, days: DayRange | None, keys: Sequence[str], snapshot: int | None = None
) -> ScorePlan:
    """The output files for the days (None: all) of the data set at `path`, a table at a snapshot (None: the latest); reads
    footers only. Duplicate keys are one column.

    Raises DataError if a day or file is missing or damaged, or a column is missing or has a wrong type. Labels are not needed.
    """
    folder = Folder.open(path)
    found = find_files(folder, days, replace(Layout.of(config), snapshot=snapshot)).or_raise()
    if config.data.impressions:
        there = _impressions(folder, found.files[0], config)
        found.files = [replace(file, impressions=there) for file in found.files]
    footers = read_footers(folder.filesystem, found.files)
    needed = _needed(config)
    filled = with_rows(footers)
    for footer in filled:
        for _, fault in schema_faults(footer.schema, config, needed):
            raise DataError(f"{footer.file.path}: {fault}")
        if missing := [key for key in keys if key not in footer.schema.names]:
            raise DataError(
                f"{footer.file.path}: the key column `{missing[0]}` is missing; set --keys to columns of the file: "
                f"{', '.join(footer.schema.names)}"
            )
    if problems := mixed_problems([(f.file.path, f.schema) for f in filled], needed):
        raise DataError(problems[0])
    outputs = []
    for day, group in groupby(footers, key=lambda footer: footer.file.day):
        units = make_units(list(group), UNIT_ROWS)
        names = [f"ds={day}/unit-{n:05d}.parquet" for n in range(len(units))]
        outputs += [Output(*both) for both in zip(names, units, _empty(folder, units), strict=True)]
    if not outputs:
        raise DataError(
            f"`{path}` has no rows on {days}; choose other days"
            if days
            else f"`{path}` has no rows; set --data to a data set with rows"
        )
    ids = {c.name for c in required_columns(config) if c.kind in ("id", "category")}
    schema = pa.schema([_key_field(filled, key, key in ids) for key in dict.fromkeys(keys)])
    digest = hashlib.sha256()
    for footer in footers:
        name = footer.file.path.removeprefix(folder.root).lstrip("/")
        digest.update(f"{name}\0{footer.file.size}\0{footer.row_group_rows}\n".encode())
    return ScorePlan(path, tuple(outputs), schema, digest.hexdigest()[:16], tuple(found.notes), found.snapshot)


def _impressions(folder: Folder, file: File, config: Config) -> tuple[str, ...]:
    """The columns of impressions that the candidates have: not those of labels, and none if they are flat rows."""
    [footer] = read_footers(folder.filesystem, [replace(file, impressions=())])
    lists = [f.name for f in footer.schema if pa.types.is_list(f.type) or pa.types.is_large_list(f.type)]
    read = {column.name for column in _needed(config) if column.kind in ("ids", "vector")}
    if isinstance(config.data.impressions, str):
        return (config.data.impressions,) if config.data.impressions in lists else ()
    found = tuple(name for name in config.data.impression_columns if name in lists)
    # A list that the model reads as a list is one of a flat row, unless it is a list of lists
    return found if any(name not in read for name in found) else ()


def _empty(folder: Folder, units: Sequence[Unit]) -> list[int]:
    """The places of each unit without a row; of nested rows the footers do not tell."""

    def count(fragment: Fragment) -> int:
        with open_to_read(folder.filesystem, fragment.path) as stream:
            return count_empty(pq.ParquetFile(stream), fragment.row_groups, fragment.impressions)

    def of_unit(unit: Unit) -> int:
        return sum(retry(partial(count, f)) for f in unit.fragments if f.impressions)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(of_unit, units))


def _needed(config: Config) -> list:
    training_only = {f"features.{n}" for n, f in config.features.items() if isinstance(f, BiasFeature)}
    uses = [c for c in required_columns(config) if c.used_by.startswith(("features.", "data.scenario"))]
    return [c for c in uses if c.used_by not in training_only]


def _key_field(footers: Sequence[Footer], key: str, is_id: bool) -> pa.Field:
    """The output field: its type in the first file that has values, without dictionary codes.

    IDs that are floats in that file and integers in another one (`rules.whole_rule`) become integers.
    """
    found = [plain_type(footer.schema.field(key).type) for footer in footers]
    kinds = [k.value_type if pa.types.is_dictionary(k) else k for k in found if not pa.types.is_null(k)]
    kind = next(iter(kinds), pa.null())
    if is_id and pa.types.is_floating(kind):
        kind = next(filter(pa.types.is_integer, kinds), kind)
    return pa.field(key, kind)
