"""The ID maps of a run: built from the training days before the first worker starts, and fixed from then on."""

import datetime as dt
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from raymtl.config.root import Config
from raymtl.data.count_ids import count_ids
from raymtl.data.ids.admission import Changes, admit
from raymtl.data.ids.counts import IdCounts
from raymtl.data.ids.id_map import IdMap, MapFile, find_map, save_map
from raymtl.data.units import Plan
from raymtl.data.vocabulary import no_room, vocabulary_identity, vocabulary_ids
from raymtl.errors import CheckpointError
from raymtl.storage.folder import Folder

_LINE_EVERY_S = 10.0

Notify = Callable[[str], None]


def make_maps(
    config: Config, plan: Plan, run_dir: Folder, read_tasks: int, has_trained: bool, notify: Notify
) -> dict[str, MapFile]:
    """The map of every `map` table, saved as `<run>/maps/<table>.parquet`; maps that the run already has are kept.

    A run that `has_trained` must have them: new maps would assign its rows to other IDs. A run that was stopped before training
    rebuilds them if its training days or its tables have changed. Raises CheckpointError and DataError.
    """
    tables = config.map_tables()
    if has_trained or not tables:
        return saved_maps(config, run_dir)
    names = {table: _name(table) for table in tables}
    sources = {table: source_of(config, plan, table) for table in tables}
    before = {table: IdMap.empty(config.tables[table].rows) for table in tables}
    return count_and_admit(config, plan, before.__getitem__, run_dir, names, sources, 0, read_tasks, notify)


def count_and_admit(
    config: Config,
    plan: Plan,
    before: Callable[[str], IdMap],
    folder: Folder,
    names: dict[str, str],
    sources: dict[str, str],
    min_count: int,
    read_tasks: int,
    notify: Notify,
) -> dict[str, MapFile]:
    """Count, admit and evict the IDs of `plan`; returns the new maps, saved in `folder` under `names`, by table.

    `before` returns the previous map of a table; `sources` are hashes of all that a map depends on: an existing map with the same
    hash is kept. `min_count` as in `admit`.
    """
    found = {table: find_map(folder, name) for table, name in names.items()}
    files = {t: f for t, f in found.items() if f is not None and f.notes.get("source") == sources[t]}
    missing = [table for table in names if table not in files]
    if not missing:
        return files
    last_day = dt.date.fromisoformat(plan.days[1])
    counts = {name: _vocabulary(config, plan, name, last_day) for name in missing if config.tables[name].vocabulary}
    if len(counts) < len(missing):
        counted = [name for name in names if not config.tables[name].vocabulary]
        notify(f"counting the IDs of {plan.rows:,} rows for the tables {', '.join(counted)}")
        counts = count_ids(config, plan, read_tasks, CountProgress(notify)) | counts
    for name in missing:
        table = config.tables[name]
        least = 0 if table.vocabulary else min_count
        new_map, changes = admit(
            before(name), counts[name], last_day, table.admit_count, table.evict_after_days, least, table.rows
        )
        if table.vocabulary and changes.no_room.ids:
            raise no_room(name, table, changes.no_room.ids, len(counts[name]))
        notes = {"source": sources[name], "day": str(last_day), **facts(changes)}
        files[name] = save_map(new_map, folder, names[name], notes)
        if table.vocabulary:
            notify(f"table {name}: {len(new_map):,} IDs of its vocabulary, {changes.admitted.ids:,} of them new")
        else:
            notify(describe(name, changes, table.admit_count, table.rows))
    return files


def saved_maps(config: Config, run_dir: Folder) -> dict[str, MapFile]:
    """The maps that a run has saved. Raises CheckpointError if one is missing, or does not fit its table."""
    files = {}
    for table in config.map_tables():
        name = _name(table)
        file = find_map(run_dir, name)
        if file is None:
            raise CheckpointError(
                f"the run `{run_dir.path}` has no ID map for tables.{table} (`{run_dir.path_of(name)}` is missing); restore the "
                "file, or train again under another name"
            )
        if file.capacity != config.tables[table].rows:
            raise CheckpointError(
                f"the ID map `{file.path}` is for a table of {file.capacity} rows, and tables.{table}.rows is "
                f"{config.tables[table].rows}; use the config.yaml of its run"
            )
        files[table] = file
    return files


def facts(changes: Changes) -> dict[str, Any]:
    """The result of an admission, in plain numbers."""
    groups = ("known", "admitted", "below", "outdated", "no_room", "unknown")
    return {
        "evicted": {"ids": len(changes.evicted_ids)},
        "new_share": changes.new_share,
        **{group: asdict(getattr(changes, group)) for group in groups},
        "unknown_share": changes.unknown_share,
    }


def describe(table: str, changes: Changes, threshold: int, rows: int) -> str:
    """The result of an admission, in one line."""
    words = [
        f"table {table}: {changes.admitted.ids:,} IDs admitted",
        f"{changes.below.ids:,} below {threshold} lookups",
    ]
    if len(changes.evicted_ids):
        words.append(f"{len(changes.evicted_ids):,} evicted")
    if changes.outdated.ids:
        words.append(f"{changes.outdated.ids:,} last seen too long ago")
    if changes.no_room.ids:
        words.append(f"{changes.no_room.ids:,} without a row (rows is {rows:,})")
    return ", ".join(words) + f"; {changes.unknown_share:.2%} of the lookups are unknown IDs"


def _vocabulary(config: Config, plan: Plan, table: str, day: dt.date) -> IdCounts:
    """The IDs of a table's vocabulary, each as if looked up once on `day`."""
    ids = vocabulary_ids(table, config.tables[table], plan.held.get(table, frozenset()))
    return IdCounts.of(ids, (day - dt.date(1970, 1, 1)).days)


def _name(table: str) -> str:
    return f"maps/{table}.parquet"


def source_of(config: Config, plan: Plan, table: str) -> str:
    """Hash of everything that a first map depends on: the rows to count, and how they are looked up."""
    spec = config.tables[table]
    features = {n: f.model_dump(mode="json") for n, f in config.features.items() if config.table_of(n) == table}
    defining = [plan.identity, plan.days, features, spec.rows, spec.admit_count, spec.evict_after_days]
    if spec.vocabulary is not None:
        held = sorted(plan.held.get(table, frozenset()))
        defining = [plan.days, spec.rows, *vocabulary_identity(table, spec), *held]
    return hashlib.sha256(json.dumps(defining).encode()).hexdigest()[:16]


class CountProgress:
    """Logs the progress of the counting from time to time."""

    def __init__(self, notify: Notify):
        self._notify, self._last = notify, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._last >= _LINE_EVERY_S:
            self._last = now
            self._notify(f"counted the IDs of {done:,} of {total:,} rows")
