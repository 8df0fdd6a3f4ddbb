"""Nested logs: a row of a file is a request, with its impressions in a list of structs or in lists of the same length.

Impressions are the rows of such logs. The footer of a file tells how many there are, but counts a request without any as one; so
each impression has a *place*, and so has a request without any, where there is no row.

Shapes: N impressions, U requests.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymtl.data.contract import IMPRESSION
from raymtl.data.requests import Requests
from raymtl.data.rules import whole
from raymtl.errors import DataError

NO_COLUMN = ""
"""Name of the column that holds the place of those of requests, if none is read from the file."""


def flat_schema(schema: pa.Schema, impressions: Sequence[str]) -> pa.Schema:
    """The columns of a file with those of its impressions as columns of rows. Raises DataError, without the file's name."""
    fields = []
    for name in impressions:
        if name not in schema.names:
            raise DataError(
                f"column `{name}` (data.impressions) is missing; set it to the column that holds the impressions"
            )
        kind = schema.field(name).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise DataError(
                f"column `{name}` (data.impressions) has type {kind}, expected a list of structs, or lists of one length; write "
                "the impressions of a request as a list"
            )
        element = kind.value_type
        fields += list(element) if pa.types.is_struct(element) else [pa.field(name, element)]
    fields = [field.with_metadata(IMPRESSION) for field in fields]
    if not fields:
        raise DataError(
            f"column `{impressions[0]}` (data.impressions) has no fields; write a field per column of an impression"
        )
    return pa.schema([*(field for field in schema if field.name not in impressions), *fields])


def count_places(metadata: pq.FileMetaData, impressions: Sequence[str]) -> list[int]:
    """The places of each row group. Raises DataError, without the file's name, if impressions hold nothing but lists."""
    place = 0
    for field in metadata.schema.to_arrow_schema():
        for leaf in range(place, place := place + _leaf_count(field.type)):
            if field.name in impressions and metadata.schema.column(leaf).max_repetition_level == 1:
                return [metadata.row_group(n).column(leaf).num_values for n in range(metadata.num_row_groups)]
    raise DataError(
        f"column `{impressions[0]}` (data.impressions) holds nothing but lists; write a field with one value per impression"
    )


def stored_columns(metadata: pq.FileMetaData, impressions: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The paths in a file of some columns, of requests or of impressions, and of one that tells the lengths of the lists."""
    # Writers name the levels of a list differently, and have one or two of them, but all write the leaves in order
    paths = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
    of_requests, of_rows = [], []
    for field in metadata.schema.to_arrow_schema():
        if field.name not in impressions:
            paths = paths[_leaf_count(field.type) :]
            of_requests += [field.name] if field.name in columns else []
            continue
        element = field.type.value_type
        chosen, own = [], paths[: _leaf_count(element)]
        for part in element if pa.types.is_struct(element) else [field]:
            leaves = _leaf_count(part.type)
            chosen += paths[:leaves] if part.name in columns else []
            paths = paths[leaves:]
        of_rows += chosen or own[:1]
    return [*of_requests, *of_rows]


def leaf_columns(schema: pa.Schema, impressions: Sequence[str] = ()) -> list[str]:
    """The column of each leaf of a file, in their order; of impressions their fields."""
    fields: list[pa.Field] = []
    for field in schema:
        inside = field.name in impressions and pa.types.is_struct(field.type.value_type)
        fields += list(field.type.value_type) if inside else [field]
    return [field.name for field in fields for _ in range(_leaf_count(field.type))]


def _leaf_count(kind: pa.DataType) -> int:
    """The parquet columns of a type."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if not pa.types.is_nested(kind):
        return 1
    return sum(_leaf_count(kind.field(n).type) for n in range(kind.num_fields))


def unnested(
    table: pa.Table, impressions: Sequence[str], path: str, first_row: int
) -> tuple[Requests, np.ndarray, int]:
    """The requests of a table of nested rows, the place of each impression, [N], counted from the table's first, and the number
    of places.

    DataError names a row of the file whose lists differ in length; `first_row` is that of the table."""
    lengths: np.ndarray | None = None
    columns: dict[str, pa.Array] = {}
    for name in impressions:
        lists = whole(table.column(name))
        own = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if lengths is None:
            lengths = own
        elif (wrong := own != lengths).any():
            row = int(wrong.argmax())
            raise DataError(
                f"{path}: column `{name}` (data.impressions), row {first_row + row}: the list has {own[row]} elements, that of "
                f"`{impressions[0]}` has {lengths[row]}; write one element per impression in each of them"
            )
        flat = lists.flatten()
        if pa.types.is_struct(flat.type):
            columns |= {field.name: pc.struct_field(flat, field.name) for field in flat.type}
        else:
            columns[name] = flat
    assert lengths is not None
    places = np.maximum(lengths, 1)
    starts = np.cumsum(places) - places
    full = np.flatnonzero(lengths)
    users = table.drop_columns(list(impressions))
    if not users.num_columns:  # without a column a table has no rows, and the folder of the file may have one
        users = pa.table({NO_COLUMN: pa.nulls(len(table))})
    size = int(places.sum())
    if len(full) < len(lengths):
        users, lengths, starts = users.take(pa.array(full)), lengths[full], starts[full]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Requests(pa.table(columns), users, owner, first_row + full), starts[owner] + within, size


def count_empty(file: pq.ParquetFile, row_groups: Sequence[int], impressions: Sequence[str]) -> int:
    """The requests of some row groups that have no impressions; reads one column."""
    (path, *_) = stored_columns(file.metadata, impressions, [])
    lists = file.read_row_groups(list(row_groups), columns=[path], use_threads=False).column(0)
    return len(lists) - int((pc.list_value_length(lists).fill_null(0).to_numpy() > 0).sum())
