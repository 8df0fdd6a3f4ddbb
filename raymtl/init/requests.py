"""The requests of the logs: a column whose rows stand together, or rows that each hold a list of impressions."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymtl.data.column_types import plain_type
from raymtl.data.requests import are_scattered
from raymtl.data.units import Footer, read_footers, with_rows
from raymtl.errors import DataError
from raymtl.init import words
from raymtl.init.profile import Profile
from raymtl.init.roles import Guess
from raymtl.storage.filesystem import open_to_read
from raymtl.storage.folder import Folder
from raymtl.storage.retry import retry, to_user_error

_LEAST_ROWS = 2
"""Rows of a request on average; with fewer, sharing the user's side saves too little."""
_FILES = 8
"""Files whose first rows tell which lists have one length."""
_ROWS = 4096
_PAST = words.HISTORY | (words.SEQUENCES - words.EVENTS)
"""In the name of a list that is no field of impressions, whatever it holds."""
_FEATURES = ("id", "ids", "sequence", "dense", "vector", "scenario", "group")


@dataclass(frozen=True)
class Nested:
    """Logs whose rows are requests."""

    columns: tuple[str, ...]
    """The list of a request's impressions, or a list per field of them."""
    fields: frozenset[str]
    """The columns of an impression."""
    labels: frozenset[str]
    """Those of them that look like labels."""


def find_nested(
    path: str, footers: Sequence[Footer], labels: Collection[str], ignored: Collection[str]
) -> Nested | None:
    """The list of structs of which a field looks like a label, or is one of `labels`; None: a row is an impression.

    Without `labels`, a list that is named like a history is none.

    Raises DataError if there are several, or the list has a field of the name of another column.
    """
    fields: dict[str, dict[str, pa.DataType]] = {}
    columns = set()
    for schema in {id(f.schema): f.schema for f in footers}.values():
        columns |= set(schema.names)
        for column in schema:
            kind = plain_type(column.type)
            if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type):
                fields.setdefault(column.name, {}).update({f.name: f.type for f in kind.value_type})
    found = []
    for column, of_impression in fields.items():
        own = {n for n, kind in of_impression.items() if (n in labels if labels else _looks_like_label(n, kind))}
        past = not labels and (_PAST | words.SEQUENCES) & set(words.words(column))
        if own and column not in ignored and not past:
            found.append(Nested((column,), frozenset(of_impression), frozenset(own)))
    if len(found) > 1:
        names = ", ".join(f"`{nested.columns[0]}`" for nested in found)
        raise DataError(
            f"`{path}` has several columns that may hold the impressions of a request: {names}; leave out all but one with "
            "--ignore COLUMN"
        )
    if found and (both := sorted(found[0].fields & columns)):
        raise DataError(
            f"`{path}` has a column `{both[0]}` beside `{found[0].columns[0]}`, whose fields include that name; "
            "rename one of them"
        )
    return found[0] if found else None


def find_lists(
    folder: Folder, footers: Sequence[Footer], labels: Collection[str], ignored: Collection[str]
) -> Nested | None:
    """The lists of one length per row, one of which is one of `labels`, or holds 0 and 1 and looks like a label; None: a row is
    an impression, as it is if, without `labels`, a column that is no list looks like a label.

    The first rows of a few files tell the lengths. A list that is named like a history belongs to the request, unless it is that
    label: `clicked` may hold the items that were clicked, or 0 and 1.
    """
    elements: dict[str, pa.DataType] = {}
    for schema in {id(f.schema): f.schema for f in footers}.values():
        for column in schema:
            kind = plain_type(column.type)
            if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
                if not labels and column.name not in ignored and _may_be_label(column.name, kind):
                    return None
            elif not pa.types.is_struct(kind.value_type):
                elements[column.name] = kind.value_type
    able = [n for n in elements if n not in ignored and (n in labels or not _PAST & set(words.words(n)))]
    named = [n for n in able if (n in labels if labels else _looks_like_label(n, elements[n]))]
    if not named or len(able) < 2:
        return None
    chosen = [footers[n] for n in np.unique(np.linspace(0, len(footers) - 1, _FILES).astype(int))]
    with ThreadPoolExecutor(_FILES) as pool:
        parts = [*pool.map(lambda footer: _first_rows(folder, footer, able), chosen)]
    own = [n for n in named if n in labels or all(_holds_events(part[n]) for part in parts if n in part)]
    able = [n for n in able if n in own or not words.SEQUENCES & set(words.words(n))]
    lengths = [
        {n: pc.list_value_length(lists).fill_null(0).cast(pa.int64()) for n, lists in part.items()} for part in parts
    ]
    for label in own:
        same = tuple(n for n in able if all(n in rows and rows[n].equals(rows.get(label)) for rows in lengths))
        if len(same) > 1 and any(pc.max(rows[label]).as_py() > 1 for rows in lengths):
            return Nested(same, frozenset(same), frozenset(named) & frozenset(same))
    return None


def _first_rows(folder: Folder, footer: Footer, columns: Collection[str]) -> dict[str, pa.Array]:
    """The lists in the first rows of a file."""

    def read() -> dict[str, pa.Array]:
        there = [name for name in columns if name in footer.schema.names]
        with open_to_read(folder.filesystem, footer.file.path) as stream:
            batch = next(pq.ParquetFile(stream).iter_batches(_ROWS, columns=there), None)
        return {} if batch is None else {name: batch.column(name) for name in there}

    try:
        return retry(read)
    except OSError as error:
        raise to_user_error(f"read `{footer.file.path}`", error) from error


def _holds_events(lists: pa.Array) -> bool:
    """Whether the lists hold nothing but 0 and 1, or true and false."""
    values = pc.unique(pc.list_flatten(lists)).drop_null()
    return {float(value) for value in values.to_pylist()} <= {0, 1}


def _looks_like_label(name: str, kind: pa.DataType) -> bool:
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return False
    return words.is_event(name) or words.is_amount(name, surely=True)


def _may_be_label(name: str, kind: pa.DataType) -> bool:
    """The same for a column that is no list; it may also be text, such as `yes` and `no`."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return _looks_like_label(name, kind) or (is_text and words.is_event(name))


def nested_footers(folder: Folder, footers: Sequence[Footer], nested: Nested) -> list[Footer]:
    """The footers with the impressions as rows."""
    files = [replace(footer.file, impressions=nested.columns) for footer in footers]
    return with_rows(read_footers(folder.filesystem, files))


def find_request(profile: Profile, found: dict[str, Guess], ignored: Collection[str]) -> dict[str, Guess]:
    """The guesses, with a column of requests if their rows stand together and share features."""
    group = next((name for name, guess in found.items() if guess.role == "group"), None)
    likely = []
    for name, guess in found.items():
        column = profile.columns[name]
        if guess.role != "ignore" or name in ignored or not column.runs or group in column.varying:
            continue
        together = column.rows >= _LEAST_ROWS * column.runs and not are_scattered(column.runs, column.distinct)
        shared = sum(g.role in _FEATURES and n not in column.varying for n, g in found.items())
        if together and shared and column.distinct > 1:
            likely.append((words.request_rank(name), -shared, column.runs, name))
    if not likely:
        return found
    _, shared, runs, name = min(likely)
    each = profile.columns[name].rows / runs
    why = f"{each:.1f} rows each, next to each other, with the same values in {-shared} of the features"
    return {**found, name: Guess(name, "request", why)}


def shared_columns(profile: Profile, guesses: Mapping[str, Guess], nested: Nested | None) -> frozenset[str] | None:
    """The columns with one value per request; None: the logs have no requests."""
    if nested is not None:
        return frozenset(profile.columns) - nested.fields
    request = next((name for name, guess in guesses.items() if guess.role == "request"), None)
    return None if request is None else frozenset(profile.columns) - profile.columns[request].varying
