"""The rows of the tables that a run has looked up, which a delta must hold.

The loader's thread marks them batch by batch, at a cost that depends on the batch alone; each worker needs one byte per row of
the tables. Checkpoints hold the marks, so a resumed run has them. There may be too many marks (of a batch that a killed worker
had loaded but not trained on), never too few.
"""

import io
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np

from raymtl.config.root import Config
from raymtl.data.batch import Batch
from raymtl.storage.filesystem import list_folder, open_filesystem, read_all
from raymtl.storage.retry import retry

_FILE = "touched-{rank}.npz"
_PREFIX = "table "


class TouchedRowTracker:
    """Marks of one worker, by table."""

    def __init__(self, config: Config):
        self._config = config
        self._marks = {name: np.zeros(table.rows, bool) for name, table in config.tables.items()}

    def add(self, batch: Batch) -> None:
        """Mark the rows of a batch in host memory."""
        for jagged in (batch.ids, batch.sequences):
            ends = jagged.offset_per_key()
            values = jagged.values().numpy()
            for n, feature in enumerate(jagged.keys()):
                self._marks[self._config.table_of(feature)][values[ends[n] : ends[n + 1]]] = True

    def rows(self) -> dict[str, np.ndarray]:
        """The marked rows, ascending [N] int64, by table."""
        return {name: np.flatnonzero(marks) for name, marks in self._marks.items()}

    def save(self, folder: str, rank: int) -> None:
        """Write the marks into the folder of a checkpoint."""
        # with a prefix: a table may be named `file`, which is an argument of savez
        rows = {f"{_PREFIX}{name}": numbers for name, numbers in self.rows().items()}
        np.savez(Path(folder, _FILE.format(rank=rank)), **rows)  # type: ignore[arg-type]

    def load(self, folder: str) -> None:
        """Add the marks of all workers that wrote a checkpoint."""
        filesystem, inner = open_filesystem(folder)
        for entry in retry(lambda: list_folder(filesystem, inner, recursive=False, allow_not_found=True)):
            if not fnmatch(entry.base_name, _FILE.format(rank="*")):
                continue
            content = retry(partial(read_all, filesystem, entry.path))
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                for name in saved.files:
                    self._marks[name.removeprefix(_PREFIX)][saved[name]] = True
