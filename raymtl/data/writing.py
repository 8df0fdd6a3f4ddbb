"""Write a data set: parquet files that appear atomically, table sizes, and a configuration in readable YAML."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raymtl.config.load import config_from_dict
from raymtl.config.yamltext import dump_yaml
from raymtl.data.ids.hashing import hash_rows, to_int64
from raymtl.errors import StorageError
from raymtl.storage.atomic import atomic_write, move
from raymtl.storage.filesystem import open_filesystem, put
from raymtl.storage.paths import absolute, join_path
from raymtl.storage.retry import advice, reason


class Folder:
    """An output folder, local or a URL; a file in it appears completely or not at all.

    Raises StorageError if the folder cannot be created, read or written.
    """

    def __init__(self, path: str):
        self.path = absolute(path).rstrip("/") or "/"
        """Absolute, since each Ray worker runs in its own folder."""
        self._filesystem, self._root = open_filesystem(self.path)
        self.make("")

    def make(self, name: str) -> None:
        """Create a folder below this one, with its parents."""
        with self._storage("create the folder", name):
            self._filesystem.create_dir(self._inside(name), recursive=True)

    def files(self, name: str = "") -> list[str]:
        """Paths of all files below folder `name`, relative to this folder, in order."""
        selector = pafs.FileSelector(self._inside(name), recursive=True, allow_not_found=True)
        with self._storage("list", name):
            found = self._filesystem.get_file_info(selector)
        return sorted(f.path[len(self._root) :].lstrip("/") for f in found if f.type == pafs.FileType.File)

    def remove(self, name: str) -> None:
        """Remove one file."""
        with self._storage("remove", name):
            self._filesystem.delete_file(self._inside(name))

    def read_text(self, name: str) -> str | None:
        """Content of a text file; None if it does not exist."""
        with self._storage("read", name):
            if self._filesystem.get_file_info(self._inside(name)).type != pafs.FileType.File:
                return None
            with self._filesystem.open_input_stream(self._inside(name)) as stream:
                return stream.read().decode()

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file of that content."""
        filesystem = self._filesystem
        with self._storage("write", name):
            atomic_write(
                filesystem, self._inside(name), self._temp_path(name), lambda path: put(filesystem, path, data)
            )

    def open_parquet(self, name: str, schema: pa.Schema, plain: Sequence[str] = ()) -> "ParquetFile":
        """A parquet file to write row group by row group; columns in `plain` (few equal values) get no dictionary."""
        return ParquetFile(
            self._filesystem,
            self._temp_path(name),
            self._inside(name),
            schema,
            plain,
            lambda: self._storage("write", name),
        )

    @contextmanager
    def _storage(self, doing: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot {doing} `{self._shown(name)}`: {reason(error)}; {advice(error)}, or choose another folder, then rerun "
                "the same command"
            ) from error

    def _temp_path(self, name: str) -> str:
        """Temporary path of a file; readers of a data set ignore it."""
        head, _, tail = name.rpartition("/")
        return self._inside(f"{head}/_{tail}" if head else f"_{tail}")

    def _inside(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/") or "/"

    def _shown(self, name: str) -> str:
        return join_path(self.path, name) if name else self.path


class ParquetFile:
    """A parquet file being written; it gets its name when closed, so a reader never sees it incomplete."""

    def __init__(
        self,
        filesystem: pafs.FileSystem,
        temp_path: str,
        final: str,
        schema: pa.Schema,
        plain: Sequence[str],
        storage: Callable[[], AbstractContextManager[None]],
    ):
        """`storage()` turns the errors of the file system into one sentence."""
        self._filesystem, self._temp_path, self._final, self._storage = filesystem, temp_path, final, storage
        self.rows = 0
        with storage():
            self._writer = pq.ParquetWriter(
                temp_path,
                schema,
                filesystem=filesystem,
                compression="zstd",
                compression_level=1,  # files a third smaller than snappy's, at its speed
                use_dictionary=[name for name in _leaves(schema) if name.split(".")[0] not in plain],
                # dictionary-encoded Arrow columns are only a fast way to write strings: readers must see strings
                store_schema=False,
            )

    def write(self, table: pa.Table) -> None:
        """Append `table` as one row group."""
        with self._storage():
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def close(self) -> int:
        """Finish the file; returns its bytes."""
        with self._storage():
            self._writer.close()
            move(self._filesystem, self._temp_path, self._final)
            return int(self._filesystem.get_file_info(self._final).size)


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the columns: those of lists end in `.list.element`."""
    return [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in schema]


def write_split(table: pa.Table, folder: Folder, split: str, day: str, files: int) -> None:
    """Write `table` to `<split>/ds=<day>` in `files` files of nearly equal size, replacing earlier ones.

    Without rows it writes one empty file: the reader requires every day of a range.
    """
    partition = f"{split}/ds={day}"
    folder.make(partition)
    for old in folder.files(partition):
        if re.fullmatch(
            r"_?part-\d+\.parquet", old.rpartition("/")[2]
        ):  # an earlier conversion; nothing else is touched
            folder.remove(old)
    for n in range(files):
        start, end = table.num_rows * n // files, table.num_rows * (n + 1) // files
        if end > start or (n == 0 and table.num_rows == 0):
            file = folder.open_parquet(f"{partition}/part-{n:05d}.parquet", table.schema)
            file.write(table.slice(start, end - start))
            file.close()


def rows_without_collision(values: pa.ChunkedArray) -> int:
    """Rows of a `hash` table in which the few distinct values of a column do not collide.

    A power of two, at least 64 and 8 per value, doubled until no two values collide, up to 1024 per
    value: beyond some thousand values `hash` has single collisions.
    """
    ids = to_int64(pc.unique(values)).to_numpy(zero_copy_only=False)
    rows = max(64, 1 << (8 * len(ids) - 1).bit_length())
    most = 1024 * rows // 8
    while rows < most and len(set(hash_rows(ids, rows).tolist())) < len(ids):
        rows *= 2
    return rows


def write_config(config: dict[str, Any], folder: Folder, header: str) -> str:
    """Check `config` and write it to `config.yaml` below `header` (as comments); returns the file's path."""
    config_from_dict(config, "the new config.yaml")
    comments = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    body = re.sub(r"(?m)^(?=\w+:$)", "\n", dump_yaml(config))  # a blank line before every section
    folder.write_text("config.yaml", comments + body)
    return join_path(folder.path, "config.yaml")
