"""The steps of `raymtl init`: look, guess, write."""

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.fs as pafs
import ray

from raymtl.config.data import as_roots
from raymtl.config.root import RUN_NAME
from raymtl.data.listing import list_names
from raymtl.data.roots import Roots
from raymtl.data.units import Footer
from raymtl.errors import ConfigError, StorageError
from raymtl.init.compose import compose
from raymtl.init.days import FoundDays, choose_days, find_days_of_all
from raymtl.init.label_values import event_values
from raymtl.init.profile import Profile, footers_of, kinds_of, profile
from raymtl.init.requests import Nested, find_lists, find_nested, find_request, nested_footers
from raymtl.init.roles import Guess, find_leaks, guess_roles, with_answers
from raymtl.init.schema import profile_of_footers
from raymtl.init.split import PLACEHOLDER, choose_split, flat_footers, write_days
from raymtl.storage.filesystem import put
from raymtl.storage.folder import Folder
from raymtl.storage.paths import absolute, split_options
from raymtl.storage.retry import advice, reason, retry
from raymtl.training.cluster import join


@dataclass(frozen=True)
class Draft:
    """A configuration that is not written yet."""

    folder: Folder
    name: str
    days: FoundDays | None
    """None: the logs have no folders of days, so that writing the configuration writes the rows by day too."""
    footers: list[Footer]
    profile: Profile
    guesses: dict[str, Guess]
    """By column."""
    nested: Nested | None = None
    """Which column holds the impressions, if a row is a request."""

    def with_answers(self, answers: Mapping[str, Guess]) -> "Draft":
        """The draft with what somebody said about some columns."""
        return replace(self, guesses=with_answers(self.profile, self.guesses, answers))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        columns = {n: {"use": g.role, "why": g.why, "sure": g.sure} for n, g in self.guesses.items()}
        return {"rows": self.profile.rows, "columns": columns}


def look(
    path: str | Sequence[str],
    *,
    name: str = "first",
    labels: Collection[str] = (),
    ignored: Collection[str] = (),
    address: str | None = None,
    on_count: Callable[[int, int], None] | None = None,
    read_rows: bool = True,
) -> Draft:
    """Read the logs below `path` (or several, which are one data set) once, or, without `read_rows`, only the footers of their
    files; `labels` and `ignored` are columns of known use.

    Raises DataError if there are no logs, or if several are named in different ways, and ConfigError if a named column does not
    exist.
    """
    if not re.fullmatch(RUN_NAME, name):
        raise ConfigError(
            f"--name is `{name}`; use letters, digits, `_`, `.` and `-`, and begin with a letter or digit"
        )
    if both := sorted(set(labels) & set(ignored)):
        raise ConfigError(f"--label and --ignore both name `{both[0]}`; leave one out")
    paths = as_roots(path)
    folders = Roots.open([absolute(one) for one in paths]).folders
    for folder in folders:
        folder.check_exists("PATH", "pass the folder with the logs")
    days = find_days_of_all(folders)
    folder = folders[0] if days is None else Folder.open(as_roots(days.path)[0])
    path = ", ".join(paths)
    footers = flat_footers(folder) if days is None else footers_of(days)
    nested = find_nested(path, footers, labels, ignored)
    if nested is None and read_rows:
        nested = find_lists(folder, footers, labels, ignored)
    if nested is not None:
        footers = nested_footers(folder, footers, nested)
    there = dict.fromkeys(column for footer in footers for column in footer.schema.names)
    for column in (*labels, *ignored):
        if column not in there:
            raise ConfigError(f"`{path}` has no column `{column}`; its columns are {', '.join(there)}")
    if read_rows:
        join(address, 0)
        found = profile(folder, footers, _cpus(), on_count)
    elif days is None:
        raise ConfigError(
            f"`{path}` has no folders of days, and only the rows can tell theirs; leave out --from-schema"
        )
    else:
        found = profile_of_footers(folder, footers)
    guesses = find_leaks(found, guess_roles(found, labels, ignored))
    if nested is None or days is None:
        guesses = find_request(found, guesses, ignored)
    return Draft(folder, name, days, footers, found, guesses, nested)


def check_free(out: str) -> None:
    """Raise ConfigError if the file exists, which may have been edited, or the folder that may be written next to it, and
    StorageError if the file cannot be written, before rows are read for it."""
    folder, name = _place(out)
    if folder.kind(name) != pafs.FileType.NotFound:
        raise ConfigError(f"`{out}` exists; remove it, or choose another file with --out")
    if folder.kind(_logs_of(name)) != pafs.FileType.NotFound:
        raise ConfigError(
            f"`{folder.path_of(_logs_of(name))}` exists, where logs without days would be written by day; remove it, or choose "
            "another file with --out"
        )
    if folder.is_local and folder.kind() != pafs.FileType.Directory:
        raise ConfigError(f"--out `{out}` lies in no folder; create `{folder.path}`, or choose another file")
    probe = f".{name}.probe"
    try:
        retry(lambda: put(folder.filesystem, folder.inside(probe), b""))
    except OSError as error:
        raise StorageError(
            f"cannot write --out `{out}`: {reason(error)}; {advice(error)}, or choose another file"
        ) from error
    folder.remove(probe)


def write(draft: Draft, out: str) -> list[str]:
    """Write the configuration to a file, and the rows to a folder next to it if they have no days; returns notes.

    Raises DataError if there is no label or no feature, and ConfigError if the rows would be written among the logs.
    """
    folder, file = _place(out)
    notes: list[str] = []
    if draft.days is None:
        compose(draft.name, PLACEHOLDER, draft.profile, draft.guesses)  # raises before anything is written
        if f"{folder.root}/".startswith(f"{draft.folder.root}/"):
            raise ConfigError(
                f"--out `{out}` lies in the folder of the logs, which have no days, so that their rows are written next to it; "
                "choose a file in another folder"
            )
        time = next((n for n, g in draft.guesses.items() if g.role == "time"), None)
        folders = [entry.name for entry in list_names(draft.folder) if entry.kind != pafs.FileType.File]
        request = next((n for n, g in draft.guesses.items() if g.role == "request"), None)
        split = choose_split(time, draft.profile.columns.get(time or ""), draft.profile.sample, folders, request)
        logs = folder.path_of(_logs_of(file))
        days = write_days(draft.folder, draft.footers, kinds_of(draft.footers), split, logs, _cpus())
        notes.append(f"wrote the rows to {days.path}: {split.words}")
    else:
        rows: Counter[dt.date] = Counter()
        for footer in draft.footers:
            rows[footer.file.day] += footer.rows
        labels = [n for n, g in draft.guesses.items() if g.role == "label" and event_values(draft.profile.columns[n])]
        days = choose_days(draft.days, rows, [draft.profile.columns[n].by_day for n in labels])
    nested = None if draft.days is None else draft.nested  # rows that are written by day are flat
    folder.write(file, compose(draft.name, days, draft.profile, draft.guesses, nested))
    return [*notes, *(f"left out {note}" for note in days.notes)]


def _logs_of(file: str) -> str:
    """The folder that logs without days are written to: `a-logs` for `a.yaml`."""
    return f"{file.rpartition('.')[0] or file}-logs"


def _cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _place(file: str) -> tuple[Folder, str]:
    path, options = split_options(absolute(file))
    head, _, name = path.rpartition("/")
    return Folder.open((head or "/") + options), name
