"""Read a checkpoint directly from its storage: each worker reads only what it needs, and nothing in it can run code.

torch.distributed.checkpoint reads local files, and its index (`.metadata`) and small values are pickles, which can call any
function. Here the index may only name the classes of such an index, and values may only be what `torch.load(weights_only=True)`
accepts.
"""

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from raymtl.storage.filesystem import open_filesystem, read_all
from raymtl.storage.retry import retry
from raymtl.storage.retrying_file import RetryingFile

INDEX = ".metadata"
_ONE_READ_BYTES = 8 << 20
"""A smaller tensor is read in one request instead of one per chunk."""

_INDEX_CLASSES = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},  # the path of the writer
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}


class Reader(dcp.FileSystemReader):
    """Reads the checkpoint at a path or URL of any file system."""

    def __init__(self, folder: str):
        super().__init__(folder)
        self._folder = folder
        filesystem, self.path = open_filesystem(folder)  # type: ignore[assignment]
        self.fs = _Files(filesystem)  # type: ignore[assignment]

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = read_index(self._folder)
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def _slice_file(self, file: IO[bytes], sinfo: Any) -> IO[bytes]:
        if sinfo.length > _ONE_READ_BYTES:
            return super()._slice_file(file, sinfo)
        file.seek(sinfo.offset)
        return io.BytesIO(file.read(sinfo.length))


def read_index(folder: str) -> Metadata:
    """The index of a checkpoint; UnpicklingError or EOFError if it is truncated or names other classes."""
    filesystem, inner = open_filesystem(folder)
    data = retry(lambda: read_all(filesystem, f"{inner}/{INDEX}"))
    try:
        index = _Index(io.BytesIO(data)).load()
    except (ValueError, LookupError, AttributeError, TypeError, ImportError) as error:  # errors of a damaged pickle
        raise pickle.UnpicklingError(f"the index is damaged: {error}") from error
    if not isinstance(index, Metadata):
        raise pickle.UnpicklingError("the index is damaged")
    return index


class Planner(DefaultLoadPlanner):
    """The load planner, which accepts only plain data."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Load a value; UnpicklingError unless it consists of numbers, strings and containers."""
        place = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, place, torch.load(value, weights_only=True))


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "pathlib._local":
            module = "pathlib"  # the name in newer Pythons
        if name in _INDEX_CLASSES.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the index names `{module}.{name}`, which no raymtl checkpoint holds")


class _Files:
    """The file system interface of `FileSystemReader`, implemented with an Arrow file system."""

    def __init__(self, filesystem: pa.fs.FileSystem):
        self.filesystem = filesystem

    def concat_path(self, folder: str, name: str) -> str:
        if "/" in name or name == "..":
            raise pickle.UnpicklingError(f"the index names the file `{name}`, which is not in the checkpoint's folder")
        return f"{folder}/{name}"

    @contextmanager
    def create_stream(self, path: str, mode: str) -> Iterator[IO[bytes]]:
        with io.BufferedReader(RetryingFile(self.filesystem, path), 1 << 20) as file:
            yield file
