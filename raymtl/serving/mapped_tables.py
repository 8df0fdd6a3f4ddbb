"""Look rows up in the table files of an export, without loading a table: the operating system reads the pages that are needed.

This file needs only numpy and nothing else of raymtl, so that a server can take a copy of it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class MappedTables:
    """The tables of an export with table files, in a local folder."""

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        facts = json.loads((self._folder / "model.json").read_text())
        self._tables: dict[str, dict[str, Any]] = facts["tables"]
        self._programs: dict[str, dict[str, Any]] = facts["programs"]
        self._open: dict[str, np.ndarray] = {}

    def vectors(self, program: str, features: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inputs of a program of `model.json`: `features`, with vectors [N, D] float32 in place of the rows [N] of tables.

        `features` are the raw features and what the program of the rows made of them, as numpy arrays or tensors.
        """
        lookups = self._programs[program]["lookups"]
        arrays = {name: np.asarray(features[name]) for name in self._programs[program]["features"]}
        return {n: self.lookup(lookups[n], a) if n in lookups else a for n, a in arrays.items()}

    def lookup(self, table: str, rows: np.ndarray) -> np.ndarray:
        """The vectors [N, D] float32 of rows [N] int64. IndexError if the table has no such row."""
        facts = self._tables[table]
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < facts["rows"]:
            raise IndexError(
                f"table {table} has rows 0 to {facts['rows'] - 1}, and one of {rows.min()} to {rows.max()} is asked for"
            )
        found = np.empty((len(rows), facts["width"]), np.float32)
        shard, place = np.divmod(rows, facts["rows_per_file"])
        for number in np.unique(shard):
            there = shard == number
            found[there] = _floats(self._shard(facts["files"][number]["path"])[place[there]])
        return found

    def _shard(self, path: str) -> np.ndarray:
        if path not in self._open:
            self._open[path] = np.load(self._folder / path, mmap_mode="r", allow_pickle=False)
        return self._open[path]


def _floats(rows: np.ndarray) -> np.ndarray:
    """Rows as they are in a file -> float32; int8 rows are levels, scale and offset."""
    if rows.dtype.names is None:
        return rows.astype(np.float32)
    return rows["levels"].astype(np.float32) * rows["scale"][:, None] + rows["offset"][:, None]
