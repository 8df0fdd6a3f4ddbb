"""Three days of the daily job under SIGKILL: of the driver, of a worker, of both, at random moments.

    python -m tests.benchmarks.daily.kills --kills 30

An undisturbed run comes first. The disturbed ones begin anew, in a store of their own, until so many kills were dealt out; after
each, every version that the store shows is checked by the hashes of its files. In the end IDs, rows and trained rows must be
those of the undisturbed run, and no lease may be left.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raymtl.daily.record import read_record, recorded_days
from raymtl.model_store import store as versions
from raymtl.storage.object_store import Store
from tests.helpers.daily_process import no_lease, nothing_is_half, run_and_kill
from tests.helpers.daily_world import contents, daily_raw, day_of, write_day


def facts(store: Store) -> dict[str, Any]:
    """What must not depend on what was killed."""
    records = [read_record(store, day) for day in recorded_days(store)]
    tables = contents(store)
    return {
        "trained": {
            str(r.date): (r.trained.rows, r.trained.held_out, r.trained.steps) for r in records if r and r.trained
        },
        "rows": {name: len(columns["embedding"]) for name, columns in tables.items()},
        "ids": tables["user"]["id"].tolist(),
        "counts": tables["user"]["count"].tolist(),
        "status": [r.status for r in records if r],
    }


def published_once(store: Store) -> None:
    """No day has two versions."""
    ends = [versions.read_unpublished(store, entry.version).data_end for entry in versions.published(store)]
    assert len(ends) == len(set(ends)), ends


def metrics(store: Store) -> dict[str, float]:
    record = read_record(store, recorded_days(store)[-1])
    assert record is not None
    assert record.gate is not None
    return {
        task: found["logloss"] for task, found in record.gate.candidate["eval"].items() if found["logloss"] is not None
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--follow", action="store_true", help="run the days by `--follow` instead of catching up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymtl-kills-") as scratch:
        root = Path(scratch)
        for number in range(5):
            write_day(root / "logs", number)
        rest = ["--follow", "--to", str(day_of(4))] if options.follow else ["--date", str(day_of(4))]
        last = ["--date", str(day_of(1))], rest

        def go(name: str, kills: int, seed: int, longest_s: float) -> tuple[Store, Any]:
            folder = root / name
            raw = daily_raw(root / "logs", folder / "store")
            raw["train"]["workers"] = options.workers
            raw["train"]["max_failures"] = 100
            config = folder / "config.yaml"
            folder.mkdir()
            config.write_text(yaml.safe_dump(raw, sort_keys=False))
            store = Store.open(raw["daily"]["store"])
            first = run_and_kill(str(config), last[0], folder / "log", store, 0, 1, seed, nothing_is_half)
            rest = run_and_kill(str(config), last[1], folder / "log", store, kills, longest_s, seed, nothing_is_half)
            no_lease(store)
            published_once(store)
            return store, (first, rest)

        calm, (_, undisturbed) = go("calm", 0, 0, 1)
        print(
            json.dumps({"undisturbed_s": round(undisturbed.seconds, 1), "trained": facts(calm)["trained"]}), flush=True
        )
        longest_s = 0.6 * undisturbed.seconds
        dealt: Counter[str] = Counter()
        turn = 0
        while sum(dealt.values()) < options.kills:
            turn += 1
            wanted = options.kills - sum(dealt.values())
            store, (_, killed) = go(f"killed-{turn}", wanted, options.seed + turn, longest_s)
            dealt.update(victim for victim, _ in killed.kills)
            gap = {task: abs(value - metrics(calm)[task]) for task, value in metrics(store).items()}
            largest = max(
                float(np.abs(columns["embedding"] - contents(calm)[name]["embedding"]).max())
                for name, columns in contents(store).items()
            )
            print(
                json.dumps(
                    {
                        "turn": turn,
                        "kills": killed.kills,
                        "starts": killed.starts,
                        "seconds": round(killed.seconds, 1),
                        "same": facts(store) == facts(calm),
                        "largest_logloss_gap": max(gap.values()),
                        "largest_embedding_gap": largest,
                    }
                ),
                flush=True,
            )
            assert facts(store) == facts(calm), (facts(store), facts(calm))
        print(json.dumps({"kills": dict(dealt), "turns": turn, "all_same": True}))


if __name__ == "__main__":
    main()
