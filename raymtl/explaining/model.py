"""A published version in this process, and the logits of rows."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from raymtl.config.features import BiasFeature
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.objectives.outputs import Outputs
from raymtl.serving.model import ServedModel, load_ranker, served_tables
from raymtl.serving.rows import Columns, tensors
from raymtl.serving.tables import FloatTable
from raymtl.serving.version import Version, read_dense, read_id_map, read_table

_BATCH_ROWS = 8192


class LoadedModel:
    """The model of a version, its tables, and its ID maps."""

    def __init__(self, version: Version):
        config = version.config
        tables = {name: FloatTable(torch.from_numpy(read_table(version, name))) for name in served_tables(config)}
        self.version, self.config = version, config
        self._model = ServedModel(config, load_ranker(config, read_dense(version), version.manifest.id), tables)
        self._features = {name: f for name, f in config.features.items() if not isinstance(f, BiasFeature)}
        self.maps: dict[str, IdLookup] = {}
        for name in served_tables(config):
            if config.tables[name].id_space == "map":
                id_map = read_id_map(version, name)
                self.maps[name] = IdLookup.build(id_map.ids, id_map.rows)

    @property
    def outputs(self) -> Outputs:
        """The columns of the logits."""
        return self._model.ranker.outputs

    def logits(self, columns: Columns) -> Tensor:
        """The logits [N, O] with the columns of `outputs`, from what `BlockMaker.features` made of N rows."""
        rows = len(next(iter(columns.values())))
        found = []
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            for start in range(0, rows, _BATCH_ROWS):
                batch = {name: column.slice(start, _BATCH_ROWS) for name, column in columns.items()}
                found.append(self._model.logits(tensors(batch, self._features)))
        return torch.cat(found).clone()


def table_bytes(version: Version, state: bool = False) -> Mapping[str, int]:
    """Bytes of every table in memory, by name; with the optimizer's `state`, as training holds it."""
    found = {}
    for name, table in version.manifest.tables.items():
        found[name] = 4 * table.rows * (table.dim + (int(np.sum(list(table.state.values()))) if state else 0))
    return found
