"""A slice: the rows of a block that belong to one worker, sent as a table of one row.

Ray Data hands each block to the worker with the fewest rows so far, and joins or splits blocks by their bytes. Tables of one row
it can only hand out in turn: slice w of each block goes to worker w, whatever the workers' pace. The row holds the slice in
Arrow's IPC format, which is read without a copy.
"""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from raymtl.data.requests import own_requests

_log = logging.getLogger("raymtl")

ONE_BYTE = 1
"""A `target_max_block_size` of one byte, so that Ray never joins slices."""


def cut(block: pa.Table, order: np.ndarray | None, owners: np.ndarray, members: int) -> Iterator[pa.Table]:
    """The slice of each member, in order: `owners` says who has the n-th row of the block in the given order (None: as it is)."""
    if members > 1:
        by_owner = np.argsort(owners, kind="stable")
        order = by_owner if order is None else order[by_owner]
    if order is not None:
        block = block.take(pa.array(order))
    start = 0
    for number, rows in enumerate(np.bincount(owners, minlength=members).tolist()):
        yield _pack(own_requests(block.slice(start, rows)), number)
        start += rows


def unpacked(slices: Iterable[pa.Table], member: int) -> Iterator[pa.Table]:
    """The rows of the slices that a member of a group gets."""
    warned = False
    for packed in slices:
        if not len(packed):  # what Ray sends for a task without a block
            continue
        if (owner := packed.column("member")[0].as_py()) != member and not warned:
            warned = True
            _log.warning(
                "got the rows of worker %d of the group on worker %d: which rows are in a step depends on chance in this run",
                owner,
                member,
            )
        yield pa.ipc.open_stream(packed.column("rows")[0].as_buffer()).read_all()


def _pack(rows: pa.Table, member: int) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    content = sink.getvalue()
    offsets = pa.py_buffer(np.array([0, content.size], np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, content])
    return pa.table({"member": pa.array([member], pa.int32()), "rows": column})
