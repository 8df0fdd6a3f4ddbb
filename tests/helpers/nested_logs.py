"""Flat logs as nested ones, by pyarrow alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def nested(flat: pa.Table, request: str, impressions: Sequence[str], lists: bool = False) -> pa.Table:
    """A row per run of equal values of `request`: the columns `impressions` as a list of structs of that name, or with `lists` as
    parallel lists; all others with the value of the first row."""
    flat = flat.combine_chunks().unify_dictionaries()
    values = flat.column(request).to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    offsets = pa.array(np.append(starts, len(flat)).astype(np.int32))
    users = flat.drop_columns(list(impressions)).take(pa.array(starts))
    columns = [_plain(flat.column(name)) for name in impressions]
    if lists:
        for name, column in zip(impressions, columns, strict=True):
            users = users.append_column(name, pa.ListArray.from_arrays(offsets, column))
        return users
    structs = pa.StructArray.from_arrays(columns, names=list(impressions))
    return users.append_column("impressions", pa.ListArray.from_arrays(offsets, structs))


def nest_folder(source: str, target: str, request: str, impressions: Sequence[str], row_group_rows: int = 37) -> str:
    """All files of a folder of logs, nested, at the same places below `target`."""
    for path in Path(source).rglob("*.parquet"):
        place = Path(target, path.relative_to(source))
        place.parent.mkdir(parents=True, exist_ok=True)
        flat = pq.ParquetFile(path).read()
        pq.write_table(nested(flat, request, impressions), place, row_group_size=row_group_rows)
    return target


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    array = array if isinstance(array, pa.Array) else array.chunk(0)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
