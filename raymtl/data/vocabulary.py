"""The IDs of `map` tables in files: parquet with a column of IDs, or text with an ID per line."""

import hashlib
from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.features import Table
from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.data.foreign import TEXT_FILE, other_content
from raymtl.data.id_files import IdFile, check_type, files_at, open_id_file, vectors_file
from raymtl.data.ids.hashing import to_int64
from raymtl.errors import ConfigError, DataError
from raymtl.storage.filesystem import open_to_read

_TEXT = ".txt"
_DIGITS = r"^-?\d+$"


def vocabulary_ids(name: str, table: Table, held: Collection[str]) -> np.ndarray:
    """All IDs of a table's vocabulary, distinct and ascending, [N] int64; `held`: what the logs hold, as `id_words` says.

    Raises DataError if a file is missing or malformed, or holds another type than the logs, and ConfigError if the table has
    fewer rows than the vocabulary has IDs.
    """
    key, path, column = _given(name, table)
    if is_text(path, key):
        parts = [to_int64(_lines(at, content, held, key)) for at, content in _contents(path, key)]
        ids = np.unique(np.concatenate([np.empty(0, np.int64), *map(rules.int64_values, parts)]))
    else:
        file = _parquet(key, path, column)
        check_type(file, held)
        ids = file.ids()
    if len(ids) > table.rows - 1:
        raise no_room(name, table, len(ids) - table.rows + 1, len(ids))
    return ids


def check_id_files(config: Config, held: Mapping[str, Collection[str]]) -> None:
    """Open the files of vectors and vocabularies of all tables; `held`: by table, what the logs hold.

    Raises DataError if one is missing or malformed, or holds another type than the logs (vectors themselves are not read), and
    ConfigError if a table has fewer rows than its vocabulary has IDs.
    """
    for name, table in config.tables.items():
        if table.vectors is not None:
            check_type(vectors_file(name, table), held.get(name, ()))
        if table.vocabulary is not None:
            vocabulary_ids(name, table, held.get(name, ()))


def vocabulary_identity(name: str, table: Table) -> list[str]:
    """What changes with the IDs of a table's vocabulary, and with how they are read."""
    key, path, column = _given(name, table)
    if is_text(path, key):
        return [hashlib.sha256(content).hexdigest()[:16] for _, content in _contents(path, key)]
    return [_parquet(key, path, column).identity, column]


def no_room(name: str, table: Table, lacking: int, ids: int) -> ConfigError:
    """The error for a vocabulary of so many IDs, of which some have no row."""
    return ConfigError(
        f"tables.{name}.rows is {table.rows}, which has no room for {lacking:,} of the {ids:,} IDs of its vocabulary "
        f"`{_given(name, table)[1]}`; set it to {table.rows + lacking} or more"
    )


def is_text(path: str, key: str) -> bool:
    """Whether the files at a path are text. Raises DataError if only some are."""
    names = [at.rpartition("/")[2] for at in files_at(key, path)[1]]
    texts = [name for name in names if name.lower().endswith(_TEXT)]
    if texts and len(texts) < len(names):
        other = next(name for name in names if name not in texts)
        raise DataError(
            f"{key}.path is `{path}`, which has `{texts[0]}` and `{other}`; leave only `{_TEXT}` files or only parquet files "
            "there (names that begin with `_` or `.` are skipped)"
        )
    return bool(texts)


def _given(name: str, table: Table) -> tuple[str, str, str]:
    assert table.vocabulary is not None
    return f"tables.{name}.vocabulary", table.vocabulary.path, table.vocabulary.id


def _parquet(key: str, path: str, column: str) -> IdFile:
    try:
        return open_id_file(key, path, column)
    except DataError:
        folder, paths = files_at(key, path)
        for at in paths:
            with folder.errors("read"), open_to_read(folder.filesystem, at) as stream:
                content = other_content(stream, at)
            if content == TEXT_FILE:
                raise DataError(
                    f"{at} ({key}): it is text, but its name does not end in `{_TEXT}`; rename it and write an ID per line, or "
                    "write parquet"
                ) from None
        raise


def _contents(path: str, key: str) -> list[tuple[str, bytes]]:
    """Path and content of each file."""
    folder, paths = files_at(key, path)
    found = [(at, folder.read(at.removeprefix(folder.root).lstrip("/"))) for at in sorted(paths)]
    if gone := [at for at, content in found if content is None]:
        raise DataError(f"{gone[0]}: the file was removed while it was read; restore it")
    return [(at, content) for at, content in found if content is not None]


def _lines(path: str, content: bytes, held: Collection[str], key: str) -> pa.Array:
    """The IDs of a file, one a line, in the type of the logs: integers or strings."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: it is not UTF-8; write an ID per line as UTF-8, or parquet ({key})"
        ) from error
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError(f"{path}: the file has no IDs; write one per line")
    ids = pa.array(lines, pa.large_string())
    _refuse(path, ids, pc.equal(ids, ""), "it is empty; write an ID per line")
    _refuse(path, ids, pc.not_equal(pc.utf8_trim_whitespace(ids), ids), "{id!r} begins or ends with a blank; remove it")
    if "UUID" in held:
        raise DataError(f"{path}: the logs hold UUIDs (16 bytes), which text is not; write them as parquet ({key})")
    digits = pc.match_substring_regex(ids, _DIGITS)
    if not held:  # no ID in the logs says what they are
        held = {"integer"} if pc.all(digits).as_py() else {"string"}
    if len(held) > 1:
        raise DataError(
            f"{path}: the logs hold {' and '.join(sorted(held))} IDs for this table; write all with one type"
        )
    if "string" in held:
        return ids
    _refuse(path, ids, pc.invert(digits), "{id!r} is no integer, but the logs hold integers; write the IDs of the logs")
    try:
        return ids.cast(pa.int64())
    except pa.ArrowInvalid as error:
        long = next(n for n, line in enumerate(lines) if not -(2**63) <= int(line) < 2**63)
        raise DataError(
            f"{path}, line {long + 1}: {lines[long]} is no integer of 64 bits; write the IDs of the logs"
        ) from error


def _refuse(path: str, ids: pa.Array, wrong: pa.Array, words: str) -> None:
    """Raise DataError for the first of some wrong lines."""
    if pc.any(wrong).as_py():
        at = pc.index(wrong, True).as_py()
        raise DataError(f"{path}, line {at + 1}: {words.format(id=ids[at].as_py())}")
