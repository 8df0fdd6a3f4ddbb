"""Write a data set: parquet files that appear atomically, table sizes, and a configuration in readable YAML."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymtl.config.load import config_from_dict
from raymtl.config.yamltext import dump_yaml
from raymtl.data.ids.hashing import hash_rows, to_int64
from raymtl.errors import StorageError
from raymtl.storage.atomic import move
from raymtl.storage.folder import Folder
from raymtl.storage.paths import absolute
from raymtl.storage.retry import advice, reason


class OutputFolder(Folder):
    """An output folder; a file in it appears completely or not at all. Its path is absolute: each Ray worker has its own folder.

    Raises StorageError if the folder cannot be created, read or written.
    """

    @classmethod
    def open(cls, path: str) -> Self:
        folder = super().open(absolute(path).rstrip("/") or "/")
        folder.make()
        return folder

    def error(self, doing: str, name: str, error: OSError) -> StorageError:
        return StorageError(
            f"cannot {doing} `{self.path_of(name)}`: {reason(error)}; {advice(error)}, or choose another folder, then rerun "
            "the same command"
        )

    def temp_path(self, name: str) -> str:
        """Readers of a data set ignore it."""
        head, _, tail = name.rpartition("/")
        return self.inside(f"{head}/_{tail}" if head else f"_{tail}")

    def make(self, name: str = "") -> None:
        """Create a folder below this one, with its parents."""
        with self.errors("create the folder", name):
            self.filesystem.create_dir(self.inside(name), recursive=True)

    def open_parquet(self, name: str, schema: pa.Schema, plain: Sequence[str] = ()) -> "ParquetFile":
        """A parquet file to write row group by row group; columns in `plain` (few equal values) get no dictionary."""
        return ParquetFile(self, name, schema, plain)


class ParquetFile:
    """A parquet file being written; it gets its name when closed, so a reader never sees it incomplete."""

    def __init__(self, folder: OutputFolder, name: str, schema: pa.Schema, plain: Sequence[str]):
        self._folder, self._name = folder, name
        self.rows = 0
        with folder.errors("write", name):
            self._writer = pq.ParquetWriter(
                folder.temp_path(name),
                schema,
                filesystem=folder.filesystem,
                compression="zstd",
                compression_level=1,  # files a third smaller than snappy's, at its speed
                use_dictionary=[name for name in _leaves(schema) if not {*name.split(".")} & {*plain}],
                # dictionary-encoded Arrow columns are only a fast way to write strings: readers must see strings
                store_schema=False,
            )

    def write(self, table: pa.Table) -> None:
        """Append `table` as one row group."""
        with self._folder.errors("write", self._name):
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def close(self) -> int:
        """Finish the file; returns its bytes."""
        folder, path = self._folder, self._folder.inside(self._name)
        with folder.errors("write", self._name):
            self._writer.close()
            move(folder.filesystem, folder.temp_path(self._name), path)
            return int(folder.filesystem.get_file_info(path).size)


def _leaves(fields: Iterable[pa.Field], above: str = "") -> list[str]:
    """Parquet's names of the columns: those of lists end in `.list.element`, those of structs in their fields."""
    leaves = []
    for field in fields:
        name, kind = f"{above}{field.name}", field.type
        while pa.types.is_list(kind):
            name, kind = f"{name}.list.element", kind.value_type
        leaves += _leaves(kind, f"{name}.") if pa.types.is_struct(kind) else [name]
    return leaves


def write_split(table: pa.Table, folder: OutputFolder, split: str, day: str, files: int) -> None:
    """Write `table` to `<split>/ds=<day>` in `files` files of nearly equal size, replacing earlier ones.

    Without rows it writes one empty file: the reader requires every day of a range.
    """
    partition = f"{split}/ds={day}"
    folder.make(partition)
    for old in folder.files(partition):
        if re.fullmatch(r"_?part-\d+\.parquet", old.rpartition("/")[2]):  # of an earlier conversion; the rest stays
            folder.remove(f"{partition}/{old}")
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
    folder.write("config.yaml", comments + body)
    return folder.path_of("config.yaml")
