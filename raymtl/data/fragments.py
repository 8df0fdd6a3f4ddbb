"""Raw tables of the rows of a fragment, read again where storage fails, flat or by their requests."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raymtl.data.column_types import plain_type
from raymtl.data.nested import flat_schema, stored_columns, unnested
from raymtl.data.partitions import with_values
from raymtl.data.requests import Requests
from raymtl.data.rules import whole
from raymtl.data.units import Fragment, group_rows
from raymtl.errors import DataError
from raymtl.storage.filesystem import open_filesystem, open_to_read
from raymtl.storage.retry import PAUSES_S, is_of_storage, is_transient, to_user_error

_TOO_LONG = "Nested data conversions not implemented for chunked array outputs"
"""pyarrow's words for lists whose strings take more than 2 GiB in one batch."""


def read_fragment(
    root: str, fragment: Fragment, columns: list[str], rows: int, within: slice = slice(None)
) -> Iterator[tuple[pa.Table, int]]:
    """Raw tables of at most `rows` rows with the given columns, each with the row of the file where it starts; with `within`
    only these rows of the fragment. The rows of nested files are their impressions, with the columns of their request.

    Failed reads are retried, and no row is yielded twice. Raises StorageError if the storage keeps failing, and DataError if the
    file is damaged or has changed since the plan was made.
    """
    for raw, row in read_requests(root, fragment, columns, rows, within):
        yield raw.per_row(columns) if isinstance(raw, Requests) else raw, row


def read_requests(
    root: str, fragment: Fragment, columns: list[str], rows: int, within: slice = slice(None)
) -> Iterator[tuple[pa.Table | Requests, int]]:
    """As `read_fragment`, but the rows of nested files by their requests."""
    filesystem, _ = open_filesystem(root)
    start, stop, _ = within.indices(fragment.rows)
    done = fragment.first_row + start
    pauses = iter(PAUSES_S)
    while True:
        row = fragment.first_row + start
        try:
            for part in _tables(filesystem, fragment, columns, rows, start, stop):
                if row + part.size > done:
                    if len(found := part.after(done - row)):  # places of requests without impressions have no rows
                        yield found, done
                    done = row + part.size
                row += part.size
        except FileNotFoundError as error:
            raise DataError(_changed(fragment)) from error
        except (pa.ArrowException, OSError) as error:
            if rows > 1 and _TOO_LONG in str(error):
                rows //= 2
                continue
            if isinstance(error, OSError) and is_of_storage(error):
                if is_transient(error):
                    if (pause := next(pauses, None)) is not None:
                        time.sleep(pause)
                        continue
                    error.add_note(f"tried {len(PAUSES_S) + 1} times")
                raise to_user_error(f"read `{fragment.path}` from row {done} on", error) from error
            raise DataError(
                f"{fragment.path}: cannot be read from row {done} on ({str(error).splitlines()[0]}); write the file again"
                + (", in another encoding" if "ot yet implemented" in str(error) else "")
            ) from error
        if (
            done != fragment.first_row + stop
        ):  # pyarrow stops at a page without values, as writers with tiny pages leave them
            raise DataError(
                f"{fragment.path}: cannot be read from row {done} on (its pages end before the {fragment.first_row + stop} rows "
                "of its footer); write the file again, with larger pages"
            )
        return


@dataclass(frozen=True)
class _Part:
    """Consecutive rows of a fragment."""

    raw: pa.Table | Requests
    size: int
    """Their number, of nested rows that of their places."""
    places: np.ndarray | None = None
    """The place of each nested row, counted from the first of the part."""

    def after(self, done: int) -> pa.Table | Requests:
        """The rows that follow the first `done`."""
        if isinstance(self.raw, Requests):
            assert self.places is not None
            return self.raw.slice(int(np.searchsorted(self.places, done)), len(self.raw)) if done else self.raw
        return self.raw.slice(done)


def _tables(
    filesystem: pafs.FileSystem, fragment: Fragment, columns: list[str], rows: int, start: int, stop: int
) -> Iterator[_Part]:
    with open_to_read(filesystem, fragment.path) as stream:
        metadata = pq.read_metadata(stream)
        schema = metadata.schema.to_arrow_schema()
        if fragment.impressions:
            schema = flat_schema(schema, fragment.impressions)
        # Otherwise a file replaced since the plan was made would silently be read twice or incompletely
        stored = [c for c in columns if c in schema.names or c not in dict(fragment.values)]
        if max(fragment.row_groups) >= metadata.num_row_groups or not set(stored) <= set(schema.names):
            raise DataError(_changed(fragment))
        # Pages without a checksum are not verified: pyarrow writes checksums only on request, Spark always does
        file = pq.ParquetFile(
            stream,
            metadata=metadata,
            read_dictionary=_dictionary_columns(metadata, fragment, columns),
            pre_buffer=True,
            page_checksum_verification=True,
        )
        row_groups, row = _overlapping(metadata, fragment, start, stop)
        if fragment.impressions:
            yield from _nested(file, fragment, columns, row_groups, rows, row, start, stop)
            return
        for batch in file.iter_batches(rows, row_groups=row_groups, columns=stored, use_threads=False):
            outside = max(start - row, 0)
            wanted = batch.slice(outside, max(min(stop - row, len(batch)) - outside, 0))
            row += len(batch)
            if len(wanted):
                plain = pa.Table.from_batches([wanted])
                if stored:  # a table of arrays has no rows without a column
                    plain = pa.table([_plain(column) for column in wanted.columns], names=wanted.schema.names)
                yield _Part(with_values(plain, fragment.values, columns, fragment.path), len(wanted))


def _nested(
    file: pq.ParquetFile,
    fragment: Fragment,
    columns: list[str],
    row_groups: list[int],
    rows: int,
    place: int,
    start: int,
    stop: int,
) -> Iterator[_Part]:
    """The rows of nested files, in parts of at most `rows` places; `place` is the first place of the row groups."""
    impressions, path = fragment.impressions, fragment.path
    stored = stored_columns(file.metadata, impressions, columns)
    requests = sum(file.metadata.row_group(group).num_rows for group in row_groups)
    sizes = group_rows(file.metadata, impressions)
    impression_count = sum(sizes[group] for group in row_groups)
    batch_rows = max(1, rows * requests // max(impression_count, 1))
    record = sum(file.metadata.row_group(group).num_rows for group in range(row_groups[0]))
    for batch in file.iter_batches(batch_rows, row_groups=row_groups, columns=stored, use_threads=False):
        found, places, size = unnested(pa.Table.from_batches([batch]), impressions, path, record)
        users = pa.table([_plain(whole(c)) for c in found.users.columns], names=found.users.column_names)
        flat = pa.table([_plain(whole(c)) for c in found.rows.columns], names=found.rows.column_names)
        inside = tuple(pair for pair in fragment.values if pair[0] in flat.column_names)
        with_values(flat, inside, columns, path)  # compares them
        outside = tuple(pair for pair in fragment.values if pair not in inside)
        found = Requests(flat, with_values(users, outside, columns, path), found.owner, found.file_rows)
        first = max(start - place, 0)
        last = max(min(stop - place, size), first)  # none of the batch, where the range begins behind it
        ends = (
            np.linspace(first, last, 1 + -(-(last - first) // rows)).astype(int).tolist()
        )  # parts of about equal size
        for begin, end in pairwise(ends):
            here, after = np.searchsorted(places, [begin, end])
            yield _Part(found.slice(int(here), int(after)), end - begin, places[here:after] - begin)
        place += size
        record += len(batch)


def _plain(column: pa.Array) -> pa.Array:
    """The column in its plain type."""
    kind = plain_type(column.type)
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        # pyarrow's own cast of a large_list_view yields too few offsets
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        column = pa.LargeListArray.from_arrays(pa.array(offsets), column.flatten(), mask=column.is_null())
    return column if column.type == kind else column.cast(kind)


def _dictionary_columns(metadata: pq.FileMetaData, fragment: Fragment, columns: Collection[str]) -> list[str]:
    """The columns of strings that are read dictionary-encoded, so that each value is hashed once.

    pyarrow reads no dictionary out of the encodings DELTA_BYTE_ARRAY and DELTA_LENGTH_BYTE_ARRAY, which Spark and DuckDB write.
    """
    leaves = [metadata.schema.column(n) for n in range(metadata.num_columns)]
    strings = [n for n, leaf in enumerate(leaves) if leaf.physical_type == "BYTE_ARRAY" and leaf.path in columns]
    groups = [metadata.row_group(n) for n in fragment.row_groups]
    return [
        leaves[n].path
        for n in strings
        if not any(encoding.startswith("DELTA_") for group in groups for encoding in group.column(n).encodings)
    ]


def _overlapping(metadata: pq.FileMetaData, fragment: Fragment, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups of a fragment that have rows in a range, and the rows of the fragment before them."""
    sizes = group_rows(metadata, fragment.impressions)
    ends = np.cumsum([sizes[group] for group in fragment.row_groups])
    if ends[-1] != fragment.rows:
        raise DataError(_changed(fragment))
    first, last = np.searchsorted(ends, [start, stop - 1], side="right")
    return list(fragment.row_groups[first : last + 1]), int(ends[first - 1]) if first else 0


def _changed(fragment: Fragment) -> str:
    return f"{fragment.path}: the file was replaced or removed after the run started; do not change the days of a running run"
