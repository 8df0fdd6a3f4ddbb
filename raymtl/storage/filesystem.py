"""Opens any pyarrow or fsspec file system, and calls it where pyarrow's own calls do not do.

pyarrow asks an fsspec file system with `isfile`, `isdir` and `exists`, and those take any error for a no: a store whose network
fails for a moment would be an empty store. It also lists out of fsspec's cache, and so never sees what other processes write. The
functions here call fsspec themselves: what is missing is a FileNotFoundError, and any other error is that error.
"""

import os
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.fs as pafs

from raymtl.errors import ConfigError, DataError
from raymtl.storage.retry import is_of_storage, retry, to_user_error


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether the operating system's own file calls reach it."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def fsspec_of(filesystem: pafs.FileSystem) -> Any:
    """The fsspec file system behind it, or None."""
    handler = getattr(filesystem, "handler", None)
    return handler.fs if isinstance(handler, pafs.FSSpecHandler) else None


def read_whole(filesystem: pafs.FileSystem, path: str) -> bytes:
    """Content of a file."""
    if (remote := fsspec_of(filesystem)) is not None:
        return remote.cat_file(path)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read()


def open_to_read(filesystem: pafs.FileSystem, path: str) -> pa.NativeFile:
    """A file to read from any place."""
    if (remote := fsspec_of(filesystem)) is not None:
        return pa.PythonFile(remote.open(path, mode="rb"), mode="r")
    return filesystem.open_input_file(path)


def list_folder(
    filesystem: pafs.FileSystem, folder: str, *, recursive: bool, allow_not_found: bool = False
) -> list[pafs.FileInfo]:
    """Files and folders below a folder, with paths as the file system writes them.

    FileNotFoundError where there is none, unless that is allowed; a folder below it that is removed meanwhile is no error then.
    """
    remote = fsspec_of(filesystem)
    if remote is None:
        selector = pafs.FileSelector(folder, recursive=recursive, allow_not_found=allow_not_found)
        try:
            return filesystem.get_file_info(selector)
        except FileNotFoundError:
            # Arrow lists a local folder, and only where that fails does it look whether the folder is missing: another process
            # made it in between
            return filesystem.get_file_info(selector)
    remote.invalidate_cache(folder)
    found, waiting = [], [folder]
    while waiting:
        below = waiting.pop()
        try:
            entries = remote.ls(below, detail=True)
        except FileNotFoundError:
            if not allow_not_found:
                raise
            continue
        for entry in entries:
            path, is_folder = entry["name"], entry["type"] == "directory"
            if path.strip("/") == below.strip("/"):
                if below is folder and entry["size"] and not is_folder:
                    raise NotADirectoryError(folder)
                continue  # the empty object that some tools make for a folder
            kind = pafs.FileType.Directory if is_folder else pafs.FileType.File
            found.append(pafs.FileInfo(path, kind, size=None if is_folder else entry["size"]))
            if is_folder and recursive:
                waiting.append(path)
    return found


def put(filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    """Write a file of that content in one go; on object storage it is there whole or as it was before."""
    if (remote := fsspec_of(filesystem)) is not None:
        try:
            # A stream of fsspec's that is closed after a failed write uploads what it has
            remote.pipe_file(path, data)
            return
        except NotImplementedError:
            pass
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(data)


def delete_file(filesystem: pafs.FileSystem, path: str) -> None:
    """Remove a file."""
    if (remote := fsspec_of(filesystem)) is not None:
        remote.rm_file(path)
    else:
        filesystem.delete_file(path)


def make_folder_of(filesystem: pafs.FileSystem, path: str) -> None:
    """Make the folder of a file, and those above it."""
    if filesystem.type_name not in ("s3", "gcs"):  # objects need no folder
        filesystem.create_dir(path.rpartition("/")[0] or "/", recursive=True)


_HADOOP = {"s3a": "s3", "s3n": "s3", "wasb": "abfs", "wasbs": "abfss"}


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path on it, for a local path or a URL of pyarrow's or fsspec's schemes.

    A local path comes back absolute, since Ray's processes run in folders of their own; `~` is the home folder. Raises
    ConfigError where nothing reads such URLs.
    """
    if not urlparse(path).scheme:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    try:
        filesystem, inner = retry(lambda: pafs.FileSystem.from_uri(path))  # S3 asks for the region of the bucket
        return filesystem, inner.rstrip("/") or "/"
    except (ValueError, OSError, NotImplementedError, ImportError) as native:
        import fsspec

        try:
            filesystem, inner = fsspec.core.url_to_fs(path)
        except (ValueError, ImportError, OSError) as error:
            if isinstance(native, OSError) and is_of_storage(native):
                raise to_user_error(f"open `{path}`", native) from native
            if (unknown := _unknown_scheme(path, error)) is not None:
                raise unknown from error
            raise DataError(
                f"cannot open `{path}`: {native}; fsspec says: {error}. Check the scheme and the credentials, "
                f"and install the fsspec package of that storage"
            ) from error
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), inner.rstrip("/") or "/"


def _unknown_scheme(path: str, error: Exception) -> ConfigError | None:
    """The sentence for a URL that nothing here can read, whatever its credentials."""
    scheme = urlparse(path).scheme
    rest = path.partition(":")[2]
    if scheme in _HADOOP and isinstance(error, ImportError | ValueError):
        return ConfigError(f"`{path}` is how Hadoop names it; write {_HADOOP[scheme]}:{rest}")
    if "Protocol not known" in str(error):
        return ConfigError(
            f"`{path}`: no storage is known by `{scheme}:`; write a local path, or a URL that begins with s3://, gs://, "
            "abfss://, hdfs:// or a name that fsspec knows"
        )
    if isinstance(error, ImportError):
        return ConfigError(f"`{path}` needs a package that is not installed: {error}; install it on every node")
    return None
