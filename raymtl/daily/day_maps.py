"""The ID maps of a day: those of the previous version, and those after the day's IDs were counted, admitted and evicted."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raymtl.config.root import Config
from raymtl.data.build_id_maps import count_and_admit, source_of
from raymtl.data.ids.id_map import IdMap, MapFile, find_map, save_map
from raymtl.data.units import Plan
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.row_ids import read_map
from raymtl.storage.object_store import Store

Notify = Callable[[str], None]


@dataclass(frozen=True)
class DayMaps:
    """By `map` table; the same tables in all three."""

    before: dict[str, MapFile]
    """Maps of the version that the day starts from; empty ones for a first version."""
    after: dict[str, MapFile]
    """Maps that the day trains with and publishes."""
    stats: dict[str, dict[str, Any]]
    """The result of admission and eviction: counts of IDs and lookups."""


def version_maps(store: Store, chain: list[Manifest], config: Config, folder: str, name: str) -> dict[str, MapFile]:
    """The maps of a version, saved as `<folder>/<name>-<table>.parquet` below the store; for the tables that it has."""
    files = {}
    for table in config.map_tables():
        file = f"{folder}/{name}-{table}.parquet"
        found = find_map(store, file)
        if found is not None and found.notes.get("version") == chain[-1].id:
            files[table] = found
        elif table in chain[-1].tables:
            files[table] = save_map(read_map(store, chain, table), store, file, {"version": chain[-1].id})
    return files


def make_day_maps(
    config: Config, store: Store, folder: str, chain: list[Manifest], plan: Plan, read_tasks: int, notify: Notify
) -> DayMaps:
    """Count the IDs of `plan`, and admit and evict by them, starting from the maps at the end of `chain` (empty: no version).

    Everything is saved below `folder` of the store; maps of the same day and version that exist are reused.
    """
    tables = config.map_tables()
    assert config.daily is not None
    base = chain[-1].id if chain else ""
    before = version_maps(store, chain, config, folder, "before") if chain else {}
    for table in tables:
        if table not in before:  # a table that the version lacks
            empty = IdMap.empty(config.tables[table].rows)
            before[table] = save_map(empty, store, f"{folder}/before-{table}.parquet", {"version": base})
    names = {table: f"{folder}/after-{table}.parquet" for table in tables}
    sources = {table: _digest(base, source_of(config, plan, table), config.daily.min_count) for table in tables}
    after = count_and_admit(
        config,
        plan,
        lambda table: before[table].load(),
        store,
        names,
        sources,
        config.daily.min_count,
        read_tasks,
        notify,
    )
    stats = {
        table: {k: v for k, v in file.notes.items() if k not in ("source", "day")} for table, file in after.items()
    }
    return DayMaps(before, after, stats)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
