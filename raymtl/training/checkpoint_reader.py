"""Reading a checkpoint where it lies: each worker reads only what it needs, and nothing in it can run code.

torch.distributed.checkpoint reads local files, and its index (`.metadata`) and its small values are pickles, which may name any
function to call. Here the index may name the classes that such an index is made of and nothing else, and values may be what
`torch.load(weights_only=True)` takes.
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

from raymtl.storage.filesystem import open_filesystem, read_whole
from raymtl.storage.retry import retry
from raymtl.storage.retrying_file import RetryingFile

INDEX = ".metadata"
_ONE_READ_BYTES = 8 << 20
"""A tensor of fewer bytes is fetched at once: its parts, read one by one, would each be a request to the storage."""

_PARTS_OF_AN_INDEX = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},  # where the writer wrote it
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
    """The index of a checkpoint; UnpicklingError or EOFError where it is cut off or holds what no index holds."""
    filesystem, inner = open_filesystem(folder)
    data = retry(lambda: read_whole(filesystem, f"{inner}/{INDEX}"))
    try:
        index = _Index(io.BytesIO(data)).load()
    except (ValueError, LookupError, AttributeError, TypeError, ImportError) as error:  # what a damaged pickle ends in
        raise pickle.UnpicklingError(f"the index is damaged: {error}") from error
    if not isinstance(index, Metadata):
        raise pickle.UnpicklingError("the index is damaged")
    return index


class Planner(DefaultLoadPlanner):
    """The planner of loading, with values that are plain data."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Take a value; UnpicklingError where it is more than numbers, texts and containers of them."""
        place = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, place, torch.load(value, weights_only=True))


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "pathlib._local":
            module = "pathlib"  # as newer Pythons call it
        if name in _PARTS_OF_AN_INDEX.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the index names `{module}.{name}`, which no checkpoint of raymtl holds")


class _Files:
    """What `FileSystemReader` asks of a file system, answered by one of Arrow's."""

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
