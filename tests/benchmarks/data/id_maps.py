"""What a `map` table costs where the logs are read, and between two runs (docs/data.md).

    python -m tests.benchmarks.data.id_maps > tests/benchmarks/data/id_maps.json

Per million IDs, in blocks of 65,536 as the reading tasks have them: `hash_rows` against the lookup in maps of 100,000, 1,000,000
and 10,000,000 IDs, with IDs that are known, unknown, and half of each. Then saving, loading, the copy that the host shares, and
an admission: 1,000,000 distinct IDs of one day into a full map of 100,000 rows, half of whose IDs it evicts.
"""

import argparse
import datetime as dt
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from raymtl.data.count_ids import Tally
from raymtl.data.ids import id_map_lookup
from raymtl.data.ids.admission import admit
from raymtl.data.ids.counts import IdCounts
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.ids.id_map import IdMap, find_map, save_map
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.storage.folder import Folder
from tests.benchmarks.training import stages

BLOCK, IDS = 65_536, 1_000_000
DAYS = [dt.date(1970, 1, 1) + dt.timedelta(n) for n in range(3)]


def best_ms(work: Callable[[], Any], repeats: int) -> float:
    """Least milliseconds of several runs: the machine may be shared."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(min(times) * 1e3, 2)


def in_blocks(rows: Callable[[np.ndarray], np.ndarray], ids: np.ndarray) -> None:
    for start in range(0, len(ids), BLOCK):
        rows(ids[start : start + BLOCK])


def map_of(count: int, random: np.random.Generator) -> IdMap:
    ids = np.unique(random.integers(-(2**63), 2**63 - 1, count))
    rows = random.permutation(len(ids)) + 1
    return IdMap.of(len(ids) + 1, ids, rows, np.ones(len(ids), np.int64), np.zeros(len(ids), np.int32))


def lookups(count: int, repeats: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    id_map = map_of(count, random)
    known, unknown = random.choice(id_map.ids, IDS), random.integers(-(2**63), 2**63 - 1, IDS)
    mixed = random.permutation(np.concatenate([known[::2], unknown[::2]]))
    build_ms = best_ms(lambda: IdLookup.build(id_map.ids, id_map.rows), 2)
    found: dict[str, Any] = {
        "entries": len(id_map),
        "bytes_per_entry": round(id_map.lookup.words.nbytes / len(id_map), 1),
    }
    found["hash_ms_per_million"] = best_ms(
        lambda: in_blocks(lambda ids: hash_rows(ids, id_map.capacity), mixed), repeats
    )
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        id_map_lookup._FOLDERS = (memory,)
        start = time.perf_counter()
        file = save_map(id_map, Folder.open(folder), "map.parquet")
        save_ms, size = (time.perf_counter() - start) * 1e3, os.path.getsize(file.path)
        load_ms = best_ms(file.load, 1)
        found_file = find_map(file.folder, file.name)
        assert found_file is not None
        first_ms, again_ms = best_ms(found_file.shared, 1), best_ms(found_file.shared, 3)
        lookup = found_file.shared()
    for name, ids in (("known", known), ("unknown", unknown), ("mixed", mixed)):
        found[f"{name}_ms_per_million"] = best_ms(lambda ids=ids: in_blocks(lookup.rows, ids), repeats)  # type: ignore[misc]
    return found | {
        "build_ms": build_ms,
        "save_ms": round(save_ms),
        "file_bytes_per_entry": round(size / len(id_map), 1),
        "load_ms": round(load_ms),
        "first_of_the_host_ms": round(first_ms),
        "every_other_process_ms": again_ms,
    }


def admission(repeats: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    everyone = np.unique(random.integers(-(2**63), 2**63 - 1, IDS))
    # Half of the map is in the pass, the other half is evicted
    before = np.concatenate([everyone[::18], random.integers(-(2**63), 2**63 - 1, 60_000)])
    full, _ = admit(IdMap.empty(100_000), IdCounts.of(before, 0), DAYS[0], 1, None, 0, 100_000)
    seen = np.concatenate([everyone, random.choice(everyone, 2 * IDS)])
    counting_ms = best_ms(lambda: IdCounts.of(seen, 2), repeats)
    counts = IdCounts.of(seen, 2)
    parts = [IdCounts.of(part, 2) for part in np.array_split(seen, 16)]

    def merge() -> None:
        tally = Tally()
        for part in parts:
            tally.add(part)
        assert len(tally.total()) == len(counts)

    admit_ms = best_ms(lambda: admit(full, counts, DAYS[2], 2, 1, 0, 100_000), repeats)
    _, changes = admit(full, counts, DAYS[2], 2, 1, 0, 100_000)
    return {
        "distinct_ids": len(counts),
        "lookups": len(seen),
        "rows": full.capacity,
        "count_3_million_lookups_ms": counting_ms,
        "merge_16_parts_ms": best_ms(merge, repeats),
        "admit_ms": admit_ms,
        "known": changes.known.ids,
        "admitted": changes.admitted.ids,
        "evicted": len(changes.evicted_ids),
        "no_room": changes.no_room.ids,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, nargs="*", default=[10**5, 10**6, 10**7])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    answer = {
        **stages.machine(),
        "lookup": [lookups(count, options.repeats) for count in options.entries],
        "admission": admission(options.repeats),
    }
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
