"""Parquet files beside the logs with an ID per row: the initial vectors of tables, and the vocabularies of `map` tables."""

import datetime as dt
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from raymtl.config.features import Table
from raymtl.data import rules
from raymtl.data.column_types import fits, id_word
from raymtl.data.found import File
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import to_int64
from raymtl.data.units import Footer, Fragment, read_footers
from raymtl.errors import DataError
from raymtl.storage.folder import Folder

CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class IdFile:
    """The files at a path: one, or all of a folder."""

    key: str
    """The section of the configuration that names them."""
    path: str
    column: str
    """The column of IDs."""
    footers: Sequence[Footer]

    @property
    def rows(self) -> int:
        return sum(footer.rows for footer in self.footers)

    @property
    def identity(self) -> str:
        """Hash of the files' paths, sizes and rows."""
        found = [(footer.file.path, footer.file.size, footer.row_group_rows) for footer in self.footers]
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16]

    def chunks(self, *columns: str, rows: int = CHUNK_ROWS) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """The IDs [N] int64 of rows whose ID is not null, and these rows of `columns`, a row group at a time."""
        for footer in self.footers:
            first = 0
            for number, size in enumerate(footer.row_group_rows):
                fragment = Fragment(footer.file.path, (number,), first, size)
                for raw, row in read_fragment(self.path, fragment, list(dict.fromkeys([self.column, *columns])), rows):
                    ids = rules.one_array(raw, self.column, "id")
                    if (wrong := rules.not_whole(ids)) is not None:
                        at, rule = int(wrong.argmax()), rules.whole_rule(ids.type)
                        raise DataError(
                            f"{footer.file.path}: column `{self.column}`, row {row + at}: the {rule.noun} is {ids[at].as_py()}, "
                            f"expected {rule.expected}; {rule.remedy}"
                        )
                    there = ids.is_valid()
                    yield rules.int64_values(to_int64(ids.filter(there))), raw.filter(there)
                first += size

    def vectors(self, column: str, width: int, rows: int = CHUNK_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """IDs [N] int64 and their vectors [N, width] float32; rows without either are left out."""
        for ids, raw in self.chunks(column, rows=rows):
            lists = rules.one_array(raw, column, "vector")
            values, wrong, lengths = rules.vectors(lists, width)
            if wrong.any():
                at = int(wrong.argmax())
                raise DataError(
                    f"{self.path}: a vector has {lengths[at].as_py()} numbers, but the dim of the table is {width}; "
                    f"{_width_remedy(self.key, lengths[at].as_py())}"
                )
            wrong, shown = rules.broken_elements(values)
            if wrong.any():
                at = int(wrong.argmax())
                raise DataError(
                    f"{self.path}: a vector holds {shown[at].as_py()}, expected finite numbers; write null instead of the "
                    "vector"
                )
            there = lists.is_valid().to_numpy(zero_copy_only=False)
            yield ids[there], values[there]

    def ids(self) -> np.ndarray:
        """All IDs, distinct and ascending, [N] int64."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in self.chunks())]))


def files_at(key: str, path: str) -> tuple[Folder, dict[str, int]]:
    """The file at a path, or the files of the folder there, each with its bytes. Raises DataError if there is none."""
    folder = Folder.open(path)
    there = folder.retried("read", "", lambda: folder.filesystem.get_file_info(folder.root))
    kinds = "a parquet file, a `.txt` file with an ID per line" if key.endswith(".vocabulary") else "a parquet file"
    if there.type == pafs.FileType.NotFound:
        raise DataError(f"{key}.path is `{path}`, which does not exist; name {kinds}, or a folder of them")
    if there.type != pafs.FileType.Directory:
        return folder, {folder.root: int(there.size or 0)}
    names = {n: size for n, size in folder.files().items() if not any(p[0] in "._" for p in n.split("/"))}
    if not names:
        raise DataError(f"{key}.path is `{path}`, a folder without files; name {kinds}, or a folder of them")
    return folder, {folder.inside(name): size for name, size in names.items()}


def check_type(file: IdFile, held: Collection[str]) -> None:
    """Raise DataError if the logs hold IDs of another type than the file: none of its IDs would match one of theirs.

    `held`: what the logs hold, as `id_words` says; nothing if no ID says it.
    """
    for footer in file.footers:
        kind = footer.schema.field(file.column).type
        if held and footer.rows and not pa.types.is_null(kind) and (word := id_word(kind)) not in held:
            raise DataError(
                f"{footer.file.path} ({file.key}): column `{file.column}` holds {word}s, but the logs hold "
                f"{' and '.join(f'{each}s' for each in sorted(held))}, so that no ID would match; "
                "write it with the type of the logs"
            )


def open_id_file(key: str, path: str, column: str, vector: str | None = None, width: int = 0) -> IdFile:
    """The files, by their footers. Raises DataError if there are none, or a column is missing or has a wrong type."""
    folder, paths = files_at(key, path)
    footers = read_footers(folder.filesystem, [File(at, dt.date.min, size) for at, size in paths.items()])
    for footer in footers:
        for name, part, use in ((column, "id", "id"), *(((vector, "vector", "vector"),) if vector else ())):
            if name not in footer.schema.names:
                raise DataError(
                    f"{footer.file.path}: the column `{name}` is missing; set {key}.{part} to one of its columns: "
                    f"{', '.join(footer.schema.names)}"
                )
            found = footer.schema.field(name).type
            if not fits(found, use):
                expected = "a list of numbers" if use == "vector" else "an integer or a string"
                raise DataError(
                    f"{footer.file.path}: column `{name}` has type {found}, expected {expected}; set {key}.{part}"
                )
            if use == "vector" and pa.types.is_fixed_size_list(found) and found.list_size != width:
                raise DataError(
                    f"{footer.file.path}: column `{name}` holds vectors of {found.list_size} numbers, but the dim of the table "
                    f"is {width}; {_width_remedy(key, found.list_size)}"
                )
    return IdFile(key, path, column, footers)


def _width_remedy(key: str, width: int) -> str:
    """What to do about vectors of another width than their table's."""
    table = key.rpartition(".")[0]
    if width and width % 4 == 0:
        return f"set {table}.dim to {width}, or write vectors of that dim"
    filled = max(4, -(-width // 4) * 4)
    return (
        f"a dim is a multiple of 4: fill the vectors with zeros up to {filled} numbers, and set {table}.dim to {filled}"
    )


def vectors_file(name: str, table: Table) -> IdFile:
    """The file of a table's initial vectors."""
    given = table.vectors
    assert given is not None
    return open_id_file(f"tables.{name}.vectors", given.path, given.id, given.vector, table.dim)
