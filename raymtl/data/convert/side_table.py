"""Features from a second file, looked up by an integer key."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raymtl.data.convert.text_table import Lines, TextTable


class SideTable:
    """All rows of a file, in memory, in the order of their keys."""

    def __init__(self, file: TextTable, key: str, columns: Callable[[Lines], dict[str, pa.Array]]):
        """Read `file`; `columns` makes the columns to keep. Raises DataError, also if a key occurs twice."""
        keys, parts = [], []
        for lines in file.batches():
            keys.append(lines.integers(key).to_numpy())
            parts.append(pa.table(columns(lines)))
        if not keys:
            raise file.error("has no rows")
        found = np.concatenate(keys)
        order = np.argsort(found)
        self._keys = found[order]
        twice = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(twice):
            raise file.error(f"has {key} {self._keys[twice[0]]} twice")
        table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
        self._columns = table.take(pa.array(order)).combine_chunks()

    def columns_of(self, keys: pa.Array) -> dict[str, pa.Array]:
        """The columns for each of these keys; null where the file lacks a key."""
        wanted = keys.to_numpy()
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        rows = pa.array(places, mask=self._keys[places] != wanted)
        return {name: self._columns[name].chunk(0).take(rows) for name in self._columns.column_names}
