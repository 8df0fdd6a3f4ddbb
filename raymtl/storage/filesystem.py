"""Open any pyarrow or fsspec file system, and call fsspec directly where pyarrow's own calls are wrong.

pyarrow calls fsspec's `isfile`, `isdir` and `exists`, which treat any error as "no": a store whose network fails for a moment
would look empty. It also lists from fsspec's cache, and so never sees what other processes write. The functions here call fsspec
directly: a missing file raises FileNotFoundError, and any other error is raised as it is.
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


def read_all(filesystem: pafs.FileSystem, path: str) -> bytes:
    """Content of a file."""
    if (remote := fsspec_of(filesystem)) is not None:
        return remote.cat_file(path)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read()


def open_to_read(filesystem: pafs.FileSystem, path: str) -> pa.NativeFile:
    """Open a file for random access."""
    if (remote := fsspec_of(filesystem)) is not None:
        return pa.PythonFile(remote.open(path, mode="rb"), mode="r")
    return filesystem.open_input_file(path)


def list_folder(
    filesystem: pafs.FileSystem, folder: str, *, recursive: bool, allow_not_found: bool = False
) -> list[pafs.FileInfo]:
    """Files and folders in a folder, with paths as the file system writes them.

    FileNotFoundError if it does not exist, unless that is allowed; then a subfolder removed meanwhile is no error either.
    """
    remote = fsspec_of(filesystem)
    if remote is None:
        selector = pafs.FileSelector(folder, recursive=recursive, allow_not_found=allow_not_found)
        try:
            return filesystem.get_file_info(selector)
        except FileNotFoundError:
            # Arrow checks whether a local folder is missing only after listing it failed; another process may have created it
            # in between
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
    """Write a file in one call; on object storage a reader sees either the complete new file or the old one."""
    if (remote := fsspec_of(filesystem)) is not None:
        try:
            # An fsspec stream that is closed after a failed write uploads what it has
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
    """Create the folder of a file, and its parents."""
    if filesystem.type_name not in ("s3", "gcs"):  # objects need no folder
        filesystem.create_dir(path.rpartition("/")[0] or "/", recursive=True)


_HADOOP = {"s3a": "s3", "s3n": "s3", "wasb": "abfs", "wasbs": "abfss"}


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path on it, for a local path or a URL of pyarrow's or fsspec's schemes.

    A local path becomes absolute, since each Ray process runs in its own folder; `~` is the home folder. Raises
    ConfigError if no package reads such URLs.
    """
    if not urlparse(path).scheme:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    try:
        filesystem, inner = retry(lambda: pafs.FileSystem.from_uri(path))  # S3 looks up the bucket's region
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
                f"cannot open `{path}`: {native}; fsspec: {error}. Check the scheme and the credentials, "
                f"and install the fsspec package for that storage"
            ) from error
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), inner.rstrip("/") or "/"


def _unknown_scheme(path: str, error: Exception) -> ConfigError | None:
    """The error for a URL that no installed package can read, whatever its credentials."""
    scheme = urlparse(path).scheme
    rest = path.partition(":")[2]
    if scheme in _HADOOP and isinstance(error, ImportError | ValueError):
        return ConfigError(f"`{path}` has the scheme that only Hadoop uses; write {_HADOOP[scheme]}:{rest}")
    if "Protocol not known" in str(error):
        return ConfigError(
            f"`{path}`: unknown scheme `{scheme}:`; write a local path, or a URL that begins with s3://, gs://, "
            "abfss://, hdfs:// or another scheme that fsspec supports"
        )
    if isinstance(error, ImportError):
        return ConfigError(f"`{path}` needs a package that is not installed: {error}; install it on every node")
    return None
