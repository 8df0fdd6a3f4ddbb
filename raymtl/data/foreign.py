"""What lies beside the parquet files of a day: files without rows, tables that other tools manage, files of other formats."""

import os
import re
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from raymtl.storage.folder import Folder
from raymtl.storage.retry import retry

_NO_DATA = (".crc", ".md", "_$folder$", ".tmp", "._COPYING_")
"""Ends of names of files without rows, and of files that are still being written; Hadoop writes `_$folder$` for a folder."""
_MARKERS = re.compile(r"_SUCCESS|_metadata|_common_metadata|_committed_\d+|_started_\d+|.*\.(crc|md)")
"""Names that writers give to files without rows."""
_PARQUET_NAME = re.compile(r"\.(parquet|parq|pq)(\W|$)", re.IGNORECASE)
_ACID = re.compile(r"(base|(delete_)?delta)_\d+(_\d+)*(_v\d+)?")
DELTA = "Delta Lake"
ICEBERG = "Apache Iceberg"
HUDI = "Apache Hudi"
_TABLES = {"_delta_log": DELTA, ".hoodie": HUDI, "metadata": ICEBERG}
"""Folders with the list of a table's files, by name."""
HUDI_PARTITION = ".hoodie_partition_metadata"
"""Begin of the name of a file that Hudi writes into every partition."""
_SETTINGS = (".yaml", ".yml")
_MAGIC = (
    (b"PARE", "an encrypted parquet file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"ARROW1", "an Arrow file"),
    (b"FEA1", "a Feather file"),
    (b"SEQ", "a Hadoop sequence file"),
    (b"\x1f\x8b", "a file compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "a file compressed with zstd"),
    (b"\xff\x06\x00\x00sNaPpY", "a file compressed with snappy"),
    (b"BZh", "a file compressed with bzip2"),
    (b"\x04\x22\x4d\x18", "a file compressed with lz4"),
    (b"PK\x03\x04", "a zip archive"),
)
_HEAD_BYTES = 256
TEXT_FILE = "a text file"
"""What `other_content` says of text."""


def is_skipped(below: str, size: int, marker: str | None) -> bool:
    """Whether a file is no data, by its path below the folder of its day: a name (or that of a folder) that begins with `_` or
    `.`, the marker of a complete day, a known kind of file without rows, or an empty file that does not claim to be parquet."""
    names = below.split("/")
    return (
        any(name.startswith(("_", ".")) for name in names)
        or below == marker
        or names[-1].endswith(_NO_DATA)
        or names[-1].startswith("README")
        or (size == 0 and not is_named_parquet(names[-1]))
    )


def is_skipped_beside(name: str, size: int | None) -> bool:
    """Whether a file or folder (`size` None) next to the folders of days is skipped without a word, as the `config.yaml` that
    `raymtl synth` writes."""
    return name.startswith(("_", ".")) or (
        size is not None and (is_skipped(name, size, None) or name.endswith(_SETTINGS))
    )


def may_hold_rows(below: str, size: int, marker: str | None) -> bool:
    """Whether a skipped file is worth a word: it has content and is not one of the markers that every writer makes."""
    name = below.rpartition("/")[2]
    return size > 0 and below != marker and not _MARKERS.fullmatch(name)


def is_named_parquet(name: str) -> bool:
    """Whether a name such as `a.parquet`, `a.PQ` or `a.parquet.snappy` claims to be parquet."""
    return bool(_PARQUET_NAME.search(name))


def transaction_folder(below: str) -> str | None:
    """The folder on the path of a file in which Hive keeps a transaction (`base_7`, `delta_3_3`), or None."""
    return next((name for name in below.split("/")[:-1] if _ACID.fullmatch(name)), None)


def table_format(folder: Folder, names: Collection[str]) -> tuple[str, str] | None:
    """The tool that manages the files of a folder with these subfolders, and the folder of its table, which may be one above;
    None: no known tool."""
    markers = [f"{folder.root}/{name}" for name in _TABLES if name in names]
    for above in _folders_above(folder):
        markers += [e.path for e in _looked_up(folder, [f"{above}/{name}" for name in _TABLES])]
    for path in markers:
        root, _, name = path.rpartition("/")
        tool = _TABLES[name]
        if tool != ICEBERG or any(
            e.path.endswith(".metadata.json") for e in _looked_up(folder, pafs.FileSelector(path))
        ):
            return tool, root
    return None


def _folders_above(folder: Folder) -> Iterator[str]:
    """The folders above that may be the table of a folder: one level, and one more for each folder `key=value` on the way; also
    those above the target of a local link."""
    for path in sorted({folder.root, os.path.realpath(folder.root) if folder.is_local else folder.root}):
        while True:
            path, _, name = path.rstrip("/").rpartition("/")
            if path:
                yield path
            if not path or "=" not in name:
                break


def _looked_up(folder: Folder, where: list[str] | pafs.FileSelector) -> list[pafs.FileInfo]:
    """What exists there; nothing where this user may not look, as above the data set."""
    try:
        found = retry(lambda: folder.filesystem.get_file_info(where))
    except OSError:
        return []
    return [entry for entry in found if entry.type != pafs.FileType.NotFound]


def other_content(stream: pa.NativeFile, name: str) -> str | None:
    """What a file is that is not parquet, by its first and last bytes; None: a damaged parquet file."""
    head, size = stream.read(_HEAD_BYTES), stream.size()
    stream.seek(max(0, size - 4))
    if stream.read(4) == b"PARE":
        return "an encrypted parquet file"
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return words
    if head.startswith(b"PAR1") or is_named_parquet(name):
        return None
    return TEXT_FILE if _is_text(head) else "a file of an unknown format"


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r" for byte in head)
