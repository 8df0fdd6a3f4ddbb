"""Read the parquet files of a version's tables: only the row groups with the wanted rows."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.model_store.manifest import FileEntry
from raymtl.model_store.store import folder_of, missing, read_file
from raymtl.storage.object_store import Store


def row_groups(
    store: Store,
    version: str,
    file: FileEntry,
    columns: list[str],
    ranges: list[tuple[int, int]],
    checked: bool = False,
) -> Iterator[pa.RecordBatch]:
    """The row groups of a file that have rows of any of the ranges [first, last), by the statistics of the key.

    `checked`: read the file into memory once, and raise VersionError if its hash is not that of the manifest.
    """

    def needed(first: int, last: int) -> bool:
        return any(a <= last and first < b for a, b in ranges)

    if not needed(file.first or 0, file.last or 0):
        return
    name = f"{folder_of(version)}/{file.path}"
    with (
        store.errors("read", name),
        pa.BufferReader(read_file(store, version, file)) if checked else _opened(store, version, file) as opened,
    ):
        parquet = pq.ParquetFile(opened)
        for number in range(parquet.num_row_groups):
            keys = parquet.metadata.row_group(number).column(0).statistics
            if needed(keys.min, keys.max):
                yield from parquet.read_row_group(number, columns=columns).combine_chunks().to_batches()


def _opened(store: Store, version: str, file: FileEntry) -> pa.NativeFile:
    try:
        return store.open_input(f"{folder_of(version)}/{file.path}")
    except FileNotFoundError as error:
        raise missing(store, version, file.path) from error


def numbers(column: pa.Array) -> np.ndarray:
    """[N], or [N, D] of a list column."""
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return column.to_numpy(zero_copy_only=False)
