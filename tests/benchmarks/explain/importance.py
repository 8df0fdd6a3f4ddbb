"""Whether importances separate columns that matter from those that do not, and how long they take.

    python -m tests.benchmarks.explain.importance [--seeds 3] [--rows 200000] [--more 13]

A version per seed is trained on three days with five columns that matter, a user that matters a little, a copy of one of the
five, and ten columns without any meaning; `--more` adds numbers of that kind. A line per seed, and the sums.
"""

import argparse
import datetime as dt
import json
import tempfile
from pathlib import Path

import raymtl
from tests.benchmarks.explain.world import (
    FEATURES,
    START,
    STRONG,
    USELESS,
    columns_of_day,
    train_here,
    world_config,
    write_day,
)

TRAINED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--more", type=int, default=0)
    options = parser.parse_args()
    separated = inside = intervals = 0
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="raymtl-importance-") as folder:
            root = Path(folder)
            for day in range(TRAINED + 1):
                write_day(root / "logs", day, columns_of_day(seed, day, options.rows, options.more))
            more = [f"more_{n}" for n in range(options.more)]
            features = FEATURES | {name: {"kind": "dense"} for name in more}
            store = train_here(world_config(root, TRAINED, features), root)
            day = START + dt.timedelta(days=TRAINED)
            result = raymtl.explain(store, days=str(day), rows=options.rows, progress=False)
        columns, useless = result["columns"], [*USELESS, *more]
        lowest = {task: min(columns[n]["importance"][task]["value"] for n in STRONG) for task in result["metrics"]}
        highest = {task: max(columns[n]["importance"][task]["value"] for n in useless) for task in result["metrics"]}
        entries = [columns[n]["importance"][task] for n in useless for task in result["metrics"]]
        held = sum(entry["low"] <= 0 <= entry["high"] for entry in entries)
        separated += all(lowest[task] > highest[task] for task in lowest)
        inside += held
        intervals += len(entries)
        line = {"seed": seed, "lowest of those that matter": lowest, "highest of the others": highest}
        line |= {"intervals with 0": f"{held} of {len(entries)}", "proposal": result["proposal"]["redundant"]}
        line |= {"useless": sum(columns[n]["verdict"] == "useless" for n in useless), "columns": len(columns)}
        print(json.dumps({**line, "rows": result["rows"], "seconds": result["seconds"]}), flush=True)
    print(
        f"separated on {separated} of {options.seeds} seeds; {inside} of {intervals} intervals of columns without meaning have 0"
    )


if __name__ == "__main__":
    main()
