"""Write the tables of a version as files that `mapped_tables.py` looks rows up in; no table is ever in memory as a whole."""

import hashlib
import io
from typing import Any

import numpy as np
import torch

from raymtl.data.writing import OutputFolder
from raymtl.errors import VersionError
from raymtl.model_store.manifest import KEY, WEIGHT
from raymtl.model_store.store import file_fault
from raymtl.model_store.table_reader import numbers, row_groups
from raymtl.serving.model import served_tables
from raymtl.serving.tables import Int8Table, Quantization
from raymtl.serving.version import Version

FOLDER = "tables"
FILE_BYTES = 64 << 20
"""Memory of a file's rows in fp32; reading, quantizing and writing hold a few times as much."""


def write_tables(
    version: Version, folder: OutputFolder, quantization: Quantization, file_bytes: int | None = None
) -> dict[str, Any]:
    """Write every table that predictions need, and return their entry in `model.json`. VersionError if a file is damaged."""
    return {
        name: _write_table(version, name, folder, quantization, file_bytes or FILE_BYTES)
        for name in served_tables(version.config)
    }


def _write_table(
    version: Version, name: str, folder: OutputFolder, quantization: Quantization, file_bytes: int
) -> dict[str, Any]:
    # First, since hashes are of whole files, and the rows of a file are read in several pieces
    for part in version.parts:
        for file in part.tables[name].files:
            if fault := file_fault(version.store, part.id, file):
                raise VersionError(f"{fault}; restore it from a backup, or export another version")
    newest = version.manifest.tables[name]
    per_file = max(1, file_bytes // (4 * newest.dim))
    folder.make(f"{FOLDER}/{name}")
    files = []
    for number, first in enumerate(range(0, newest.rows, per_file)):
        weights = _rows(version, name, first, min(first + per_file, newest.rows))
        path = f"{FOLDER}/{name}/{number:05d}.npy"
        data = _npy(_stored(weights, quantization))
        folder.write(path, data)
        files.append({"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return {"rows": newest.rows, "width": newest.dim, "rows_per_file": per_file, "files": files}


def _rows(version: Version, table: str, first: int, stop: int) -> np.ndarray:
    """The weights of the rows [first, stop) of a table, [stop - first, D] float32; those of a delta replace those of its base."""
    weights = np.zeros((stop - first, version.manifest.tables[table].dim), np.float32)
    for part in version.parts:
        for file in part.tables[table].files:
            for batch in row_groups(version.store, part.id, file, [KEY, WEIGHT], [(first, stop)]):
                rows = batch.column(KEY).to_numpy()
                within = slice(*np.searchsorted(rows, [first, stop]))
                weights[rows[within] - first] = numbers(batch.column(WEIGHT))[within].reshape(-1, weights.shape[1])
    return weights


def _stored(weights: np.ndarray, quantization: Quantization) -> np.ndarray:
    if quantization != "int8":
        return weights.astype(np.float16) if quantization == "fp16" else weights
    table = Int8Table(torch.from_numpy(weights))
    rows = np.empty(len(weights), [("levels", "u1", weights.shape[1:]), ("scale", "<f4"), ("offset", "<f4")])
    for name in ("levels", "scale", "offset"):
        rows[name] = table.get_buffer(name).numpy()
    return rows


def _npy(array: np.ndarray) -> bytes:
    """A numpy file, without a second copy of the array on the way."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return b"".join((header.getvalue(), array.view(np.uint8).data))
