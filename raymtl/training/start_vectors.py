"""Rows of tables that start from vectors in a file (`tables.<name>.vectors`)."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch.distributed as dist

from raymtl.config.features import Table
from raymtl.config.root import Config
from raymtl.data.id_files import vectors_file
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.ids.id_map import UNKNOWN_ROW, MapRows
from raymtl.embeddings.rows import TableRows, fill, table_rows
from raymtl.training.build import TrainState
from raymtl.training.distributed import all_gather_or_raise
from raymtl.words import count_of


def load_start_vectors(
    config: Config,
    train_state: TrainState,
    maps: MapRows,
    group: dist.ProcessGroup,
    only: Mapping[str, np.ndarray | None] | None = None,
) -> list[str]:
    """Fill rows of a new model; called by all workers of `group` (over gloo) together. Returns a sentence for each table.

    `only`: the tables to fill, each with its rows [N], ascending, or None for all rows; None: all tables. If several IDs of a
    file share a row, the last one counts. Raises DataError on all workers.
    """
    chosen = dict.fromkeys(config.tables) if only is None else only
    wanted = {name: rows for name, rows in chosen.items() if config.tables[name].vectors is not None}
    if not wanted:
        return []
    tables = table_rows(train_state.model, group)
    notes = []
    for name, rows in wanted.items():
        table = config.tables[name]
        found = all_gather_or_raise(group, partial(_fill, tables[name], table, maps, rows))
        filled, given = sum(count for count, _ in found), found[0][1]
        of = f"{table.rows:,}" if rows is None else f"{len(rows):,} new"
        assert table.vectors is not None
        notes.append(
            f"table {name}: {count_of(filled, 'row')} of {of} {'starts' if filled == 1 else 'start'} from the "
            f"{count_of(given, 'vector')} of {table.vectors.path}"
        )
    return notes


def _fill(rows: TableRows, table: Table, maps: MapRows, only: np.ndarray | None) -> tuple[int, int]:
    """Fill this worker's shards; returns how many rows it filled, each counted on one worker, and the vectors in the file."""
    file = vectors_file(rows.name, table)
    assert table.vectors is not None
    filled = [np.zeros(shard.place.rows, bool) for shard in rows.local]
    given = 0
    for ids, vectors in file.vectors(table.vectors.vector, table.dim):
        given += len(ids)
        places = _rows_of(ids, rows.name, table, maps)
        kept = places >= 0
        if only is not None:
            at = np.minimum(np.searchsorted(only, places), max(len(only) - 1, 0))
            kept &= only[at] == places if len(only) else False
        order = np.flatnonzero(kept)[np.argsort(places[kept], kind="stable")]
        places = places[order]
        last = np.append(places[1:] != places[:-1], True)[: len(places)]
        order, places = order[last], places[last]
        for shard, marks in zip(rows.local, filled, strict=True):
            first = shard.place.first_row
            begin, end = np.searchsorted(places, [first, first + shard.place.rows])
            fill(shard, places[begin:end], vectors[order[begin:end]], {})
            marks[places[begin:end] - first] = True
    own = slice(*rows.own) if rows.own else slice(None)  # a replicated table counts on each worker a part of its rows
    counted = zip(rows.local, filled, strict=True)
    return sum(int(marks[own].sum()) for shard, marks in counted if shard.place.first_column == 0), given


def _rows_of(ids: np.ndarray, name: str, table: Table, maps: MapRows) -> np.ndarray:
    """The row of each ID, [N] int64; -1 for one that has none."""
    if table.id_space == "hash":
        return hash_rows(ids, table.rows)
    if table.id_space == "map":
        places = maps.rows(name, ids)
        return np.where(places == UNKNOWN_ROW, -1, places)
    return np.where((ids >= 0) & (ids < table.rows), ids, -1)
