"""Blocks that all trials of a search share: read and checked once, then kept in Ray's object store.

Each trial reads them zero-copy from its node's object store, and shuffles them in the order of a separate run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_requests
from raymtl.data.read import Input, Schedule, measured_row_bytes
from raymtl.data.requests import shuffled
from raymtl.data.units import Counted, Fragment
from raymtl.errors import find_user_error

SHARE = 0.5
"""Largest share of the cluster's object store that the blocks may use."""


@dataclass(frozen=True)
class SharedInput:
    """One input, unit by unit and fragment by fragment, in file order."""

    units: tuple[tuple[ray.ObjectRef, ...], ...]
    """By unit, its fragments, each a list of blocks."""

    def stream(self, schedule: Schedule, seed: int | None) -> Iterator[pa.Table]:
        """The blocks in the order of `schedule`; with the seed of a shuffle the rows of each in the order that
        `data.read.stream` gives a single worker."""
        for place, (epoch, number) in enumerate(schedule):
            for n, reference in enumerate(self.units[number]):
                random = None if seed is None else np.random.default_rng([seed, epoch, number, n])
                for block in ray.get(reference):
                    if random is not None:
                        block = block.take(pa.array(shuffled(block, random)))
                    unit = pa.array(np.full(len(block), place, np.int32))
                    yield block.set_column(block.column_names.index("unit"), "unit", unit)


def fits(config: Config, inputs: Mapping[str, Input]) -> bool:
    """Whether the blocks of all inputs fit into the object store."""
    needed = sum(
        source.plan.rows * measured_row_bytes(source.plan, BlockMaker(config, source.evaluation, source.maps))
        for source in inputs.values()
    )
    return needed <= SHARE * ray.cluster_resources().get("object_store_memory", 0)


def read_shared(config: Config, inputs: Mapping[str, Input]) -> dict[str, SharedInput]:
    """Read every input, a task per fragment. Raises DataError and StorageError as `read` does."""
    found, counts = {}, []
    for name, source in inputs.items():
        maker = ray.put(BlockMaker(config, source.evaluation, source.maps))
        units = []
        for unit in source.plan.units:
            pairs = [
                _read.remote(source.plan.root, f, maker, config.data.block_rows, unit.counted) for f in unit.fragments
            ]
            units.append(tuple(blocks for blocks, _ in pairs))
            counts += [rows for _, rows in pairs]
        found[name] = SharedInput(tuple(units))
    try:
        ray.get(counts)
    except ray.exceptions.RayError as error:
        if (cause := find_user_error(error)) is not None:
            raise cause from None
        raise
    return found


@ray.remote(max_retries=2, num_returns=2)
def _read(
    root: str, fragment: Fragment, maker: BlockMaker, block_rows: int, counted: Counted
) -> tuple[list[pa.Table], int]:
    """The blocks, and their rows: a small result that shows whether the read succeeded."""
    raw = read_requests(root, fragment, maker.raw_columns(), block_rows)
    blocks = [maker(table, Place(fragment.path, first_row, fragment.day), 0, counted) for table, first_row in raw]
    return blocks, sum(len(block) for block in blocks)
