"""The rows of the tables that a run has looked up, which a delta must hold.

The loader's thread marks them batch by batch, at a cost that depends on the batch alone; each worker needs one byte per row of
the tables. Checkpoints hold the marks, so a resumed run has them. There may be too many marks (of a batch that a killed worker
had loaded but not trained on), never too few.
"""

import fnmatch
import io
from pathlib import Path

import numpy as np

from raymtl.config.root import Config
from raymtl.data.batch import Batch
from raymtl.storage.folder import Folder

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
                table = self._config.table_of(feature)
                if self._config.tables[table].trainable:  # the others do not change
                    self._marks[table][values[ends[n] : ends[n + 1]]] = True

    def rows(self) -> dict[str, np.ndarray]:
        """The marked rows, ascending [N] int64, by table."""
        return {name: np.flatnonzero(marks) for name, marks in self._marks.items()}

    def save(self, folder: str, rank: int) -> None:
        """Write the marks into the folder of a checkpoint."""
        # with a prefix: a table may be named `file`, which is an argument of savez
        rows = {f"{_PREFIX}{name}": numbers for name, numbers in self.rows().items()}
        np.savez(Path(folder, _FILE.format(rank=rank)), **rows)  # type: ignore[arg-type]

    def load(self, folder: Folder) -> None:
        """Add the marks of all workers that wrote a checkpoint."""
        for name in fnmatch.filter(folder.names(), _FILE.format(rank="*")):
            with np.load(io.BytesIO(folder.read(name) or b""), allow_pickle=False) as saved:
                for key in saved.files:
                    self._marks[key.removeprefix(_PREFIX)][saved[key]] = True
