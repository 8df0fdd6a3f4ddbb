"""A million IDs through a `map` table of 100,000 rows over five days: what is handed on, what it costs, what is written.

    python -m tests.benchmarks.data.map_days > tests/benchmarks/data/map_days.json

Each day 200,000 IDs come for the first time and some of the days before come again. They are counted by the reading tasks of Ray
Data as in the daily job and admitted, the rows of new owners start anew in a sharded table, and the version is written whole and
as a delta. Every hand-over of a row is checked: its weights must be those of the start and its optimizer state zero, and all
others as they were.
"""

import argparse
import datetime as dt
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raymtl.config.load import config_from_dict
from raymtl.data.count_ids import count_ids
from raymtl.data.ids.admission import admit
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.ids.id_map import IdMap
from raymtl.data.units import plan_input
from raymtl.embeddings.initialisation import drawn_rows
from raymtl.embeddings.rows import reset_rows, table_rows
from raymtl.model_store import store as versions
from raymtl.model_store.row_ids import changed_map_rows, evicted_ids, reassigned_rows
from raymtl.model_store.writer import Delta, Draft, write_version
from raymtl.storage.object_store import Store
from raymtl.training.build import build
from raymtl.training.cluster import connect
from tests.benchmarks.training import stages

ROWS, DAYS, NEW = 100_000, 5, 200_000
BLOCK = 65_536


def write_days(root: Path, lookups: int) -> None:
    random = np.random.default_rng(0)
    for day in range(DAYS):
        new = np.arange(day * NEW, (day + 1) * NEW)
        again = random.integers(0, (day + 1) * NEW, max(0, lookups - NEW) // 2)
        # frequent ones come again and again, so that some IDs are worth a row
        often = (day * NEW + random.zipf(1.3, lookups - NEW - len(again)) % NEW).astype(np.int64)
        ids = random.permutation(np.concatenate([new, again, often]))
        folder = root / f"ds={dt.date(2026, 1, 1 + day)}"
        folder.mkdir(parents=True)
        for part, some in enumerate(np.array_split(ids, 4)):
            click = random.random(len(some)) < 0.1
            pq.write_table(pa.table({"user": some, "click": click.astype(np.int8)}), folder / f"part-{part}.parquet")


def config_of(root: Path, day: int) -> Any:
    date = str(dt.date(2026, 1, 1 + day))
    return config_from_dict(
        {
            "data": {"path": str(root), "train": {"start": date, "end": date}},
            "features": {"user": {"kind": "id"}},
            "tables": {"user": {"rows": ROWS, "id_space": "map", "admit_count": 2, "evict_after_days": 1}},
            "table_defaults": {"dim": 16},
            "tasks": {"click": {}},
            "model": {"preset": "shared_bottom"},
            "train": {"batch_size": 2048},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lookups", type=int, default=500_000, help="rows of each day")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymtl-map-") as scratch, stages.alone() as group:
        root, store = Path(scratch, "logs"), Store.open(f"{scratch}/store")
        write_days(root, options.lookups)
        config = config_of(root, 0)
        connect(config, "local")
        count_ids(config, plan_input(config, "train"), 2)  # Ray starts its tasks
        built = build(config, {"click": 0.1}, 10, torch.device("cpu"), group)
        shard = table_rows(built.model, group)["user"].local[0]
        spec = config.tables["user"]
        id_map, handed, holders = IdMap.empty(ROWS), 0, {}
        found = []
        for day in range(DAYS):
            config = config_of(root, day)
            start = time.perf_counter()
            counts = count_ids(config, plan_input(config, "train"), 2)["user"]
            counted = time.perf_counter()
            after, changes = admit(id_map, counts, dt.date(2026, 1, 1 + day), 2, 1, 0, ROWS)
            admitted = time.perf_counter()
            # training: every known row moves
            known = torch.from_numpy(id_map.rows)
            shard.weight[known] += 1.0
            shard.state["momentum1"][known] += 1.0
            before_weight, before_state = shard.weight.clone(), shard.state["momentum1"].clone()
            owners = reassigned_rows(id_map, after)
            reset = time.perf_counter()
            reset_rows(table_rows(built.model, group)["user"], owners, spec.init, config.train.seed)
            anew_s = time.perf_counter() - reset
            fresh = torch.zeros(ROWS, dtype=torch.bool)
            fresh[torch.from_numpy(owners)] = True
            drawn = drawn_rows(torch.from_numpy(owners), spec.init, seed=0, table="user", columns=(0, 16), dim=16)
            assert torch.equal(shard.weight[fresh], drawn)
            assert not shard.state["momentum1"][fresh].any()
            assert torch.equal(shard.weight[~fresh], before_weight[~fresh])
            assert torch.equal(shard.state["momentum1"][~fresh], before_state[~fresh])
            for ident, row in zip(after.ids.tolist(), after.rows.tolist(), strict=True):
                if holders.get(row, ident) != ident:
                    handed += 1
                    assert fresh[row], f"row {row} went from {holders[row]} to {ident} without a new start"
                holders[row] = ident
            parts = (changes.known, changes.admitted, changes.below, changes.outdated, changes.no_room)
            assert sum(p.lookups for p in parts) == options.lookups
            assert sum(p.ids for p in parts) == len(counts.ids)
            assert len(after) == len(id_map) - len(changes.evicted_ids) + changes.admitted.ids
            sizes = {}
            for kind in ("full", "delta") if day else ("full",):
                delta = None
                if kind == "delta":
                    rows = {"user": changed_map_rows(id_map, after)}
                    delta = Delta(f"day-{day - 1}", rows, {"user": evicted_ids(id_map, after)})
                name = f"day-{day}" if kind == "full" else f"day-{day}-delta"
                draft = Draft(name, config, {"train": [str(dt.date(2026, 1, 1 + day))] * 2})
                began = time.perf_counter()
                manifest = write_version(built, store, draft, group, maps={"user": after}, delta=delta)
                sizes[kind] = {
                    "seconds": round(time.perf_counter() - began, 3),
                    "bytes": manifest.total_bytes,
                    "rows": sum(f.rows or 0 for f in manifest.tables["user"].files),
                }
            versions.publish(store, f"day-{day}")  # the whole one; the delta was for its size
            ids = np.concatenate([counts.ids, counts.ids])[: options.lookups]
            lookup = {}
            for kind, rows_of in (("hash", lambda x: hash_rows(x, ROWS)), ("map", after.lookup.rows)):
                began = time.perf_counter()
                for first in range(0, len(ids), BLOCK):
                    rows_of(ids[first : first + BLOCK])
                lookup[f"{kind}_ms_per_million"] = round((time.perf_counter() - began) / len(ids) * 1e9, 1)
            found.append(
                {
                    "day": day,
                    "distinct": len(counts.ids),
                    **{name: vars(getattr(changes, name)) for name in ("known", "admitted", "below", "no_room")},
                    "evicted": len(changes.evicted_ids),
                    "count_s": round(counted - start, 3),
                    "admit_s": round(admitted - counted, 3),
                    "start_anew_s": round(anew_s, 3),
                    "lookup": lookup,
                    "publish": sizes,
                }
            )
            id_map = after
        one_percent = np.sort(np.random.default_rng(1).choice(ROWS, ROWS // 100, replace=False))
        draft = Draft("one-percent", config, {"train": [str(dt.date(2026, 1, 1 + DAYS))] * 2})
        small = write_version(
            built, store, draft, group, maps={"user": id_map}, delta=Delta(f"day-{DAYS - 1}", {"user": one_percent})
        )
        table_bytes = {
            kind: sum(f.bytes for f in manifest.tables["user"].files)
            for kind, manifest in (("full", versions.show(store, f"day-{DAYS - 1}")), ("one_percent", small))
        }
        summary = {"rows": ROWS, "distinct_ids": DAYS * NEW, "handed_on": handed, "table_bytes": table_bytes}
        print(json.dumps({**summary, "days": found}, indent=1))


if __name__ == "__main__":
    main()
