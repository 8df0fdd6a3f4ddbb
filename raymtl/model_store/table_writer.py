"""The parquet files of a table: one worker's rows, a row group per chunk, in files of bounded size."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.embeddings.rows import RowChunk, TableRows
from raymtl.errors import StorageError, UserError
from raymtl.model_store.manifest import KEY, WEIGHT, FileEntry
from raymtl.model_store.row_ids import FIELDS, RowIds
from raymtl.model_store.store import folder_of
from raymtl.storage.object_store import Output, Store

CHUNK_BYTES = 16 << 20
"""Memory of a worker for the rows it is writing, and the approximate size of a row group."""
FILE_BYTES = 512 << 20


class TableWriter:
    """Writes one worker's chunks of a table, a row group each, into files of bounded size.

    After the first error, which is kept, further chunks are dropped: the other workers may be waiting for this one's columns, so
    it must take all chunks.
    """

    def __init__(self, store: Store, version: str, table: TableRows, owners: RowIds | None, rank: int, file_bytes: int):
        """`owners`: the IDs of the rows of a `map` table."""
        self._store, self._folder, self._table, self._owners = store, folder_of(version), table, owners
        self._rank, self._file_bytes = rank, file_bytes
        self._schema = parquet_schema(table, owners is not None)
        self._files: list[FileEntry] = []
        self._open: tuple[Output, pq.ParquetWriter, str] | None = None
        self._rows, self._first, self._last = 0, 0, 0
        self.error: UserError | None = None

    def write(self, chunk: RowChunk) -> None:
        """Append a chunk."""
        if self.error is None:
            with self._kept():
                self._write(chunk)

    def close(self) -> list[FileEntry]:
        """Finish and return the files."""
        if self.error is None:
            with self._kept():
                self._finish()
        if self._open is not None:  # after an error
            with suppress(Exception):
                self._open[1].close()
            with suppress(Exception):
                self._open[0].close()
        return self._files

    def _write(self, chunk: RowChunk) -> None:
        if self._open is None:
            path = f"tables/{self._table.name}/part-{self._rank}-{len(self._files)}.parquet"
            output = Output(self._store, f"{self._folder}/{path}")
            floats = [WEIGHT, *self._table.state_dims]
            leaves = [
                f"{n}.list.element" if pa.types.is_fixed_size_list(self._schema.field(n).type) else n for n in floats
            ]
            encodings = {KEY: "DELTA_BINARY_PACKED"} | dict.fromkeys(leaves, "BYTE_STREAM_SPLIT")
            writer = pq.ParquetWriter(
                output,
                self._schema,
                compression="zstd",
                compression_level=1,
                # byte-stream-split makes embeddings 30 % smaller, at no cost in time
                use_dictionary=False,
                column_encoding=encodings,
                write_statistics=[KEY],
            )
            self._open, self._rows, self._first = (output, writer, path), 0, int(chunk.rows[0])
        output, writer, _ = self._open
        batch = self._batch(chunk)
        writer.write_batch(batch, row_group_size=batch.num_rows)
        self._rows += batch.num_rows
        self._last = int(chunk.rows[-1])
        if output.bytes >= self._file_bytes:
            self._finish()

    def _finish(self) -> None:
        if self._open is None:
            return
        (output, writer, path), self._open = self._open, None
        try:
            writer.close()
        finally:
            output.close()
        self._files.append(
            FileEntry(
                path=path, bytes=output.bytes, sha256=output.sha256, rows=self._rows, first=self._first, last=self._last
            )
        )

    def _batch(self, chunk: RowChunk) -> pa.RecordBatch:
        rows = chunk.rows
        arrays: list[pa.Array] = [pa.array(rows)]
        if self._owners is not None:
            arrays += self._owners.take(rows)
        for name in (WEIGHT, *self._table.state_dims):
            value = pa.array((chunk.weight if name == WEIGHT else chunk.state[name]).contiguous().numpy().reshape(-1))
            kind = self._schema.field(name).type
            listed = pa.types.is_fixed_size_list(kind)
            arrays.append(pa.FixedSizeListArray.from_arrays(value, type=kind) if listed else value)
        return pa.record_batch(arrays, schema=self._schema)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the first error of a block for later."""
        try:
            yield
        except UserError as error:
            self.error = error
        except (OSError, pa.ArrowException) as error:
            self.error = StorageError(
                f"store {self._store.path}: cannot write table {self._table.name} of the new version: {error}; check the storage "
                f"(space, permissions, network) and rerun the same command"
            )


def parquet_schema(table: TableRows, owned: bool) -> pa.Schema:
    """Columns of a table's files: key, the row's ID in a `map` table, embedding, optimizer state."""

    def floats(name: str, dim: int, as_list: bool) -> pa.Field:
        kind = pa.list_(pa.field("element", pa.float32(), nullable=False), dim) if as_list else pa.float32()
        return pa.field(name, kind, nullable=False)

    return pa.schema(
        [
            pa.field(KEY, pa.int64(), nullable=False),
            *(FIELDS if owned else ()),
            floats(WEIGHT, table.dim, True),
            *(floats(name, dim, dim > 1) for name, dim in table.state_dims.items()),
        ]
    )


def rows_per_chunk(table: TableRows, chunk_bytes: int) -> int:
    """Rows whose embedding and state take about `chunk_bytes`."""
    return max(1, chunk_bytes // (8 + 4 * (table.dim + sum(table.state_dims.values()))))
