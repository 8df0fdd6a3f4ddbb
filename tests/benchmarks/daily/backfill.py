"""Days in one command against a command per day: seconds of each day, and whether the versions are the same bit for bit.

    python -m tests.benchmarks.daily.backfill --days 10 --rows 50000
    python -m tests.benchmarks.daily.backfill --days 30 --rows 20000 --memory    (one command; memory of its processes by day)

A day's seconds are those between the starts of two days; `beyond` is what they are beyond training and scoring, which count from
the first batch of each input on.
"""

import argparse
import datetime as dt
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from raymtl.daily.record import read_record
from raymtl.model_store import store as versions
from raymtl.model_store.manifest import Manifest
from raymtl.storage.object_store import Store
from tests.helpers.daily_process import command
from tests.helpers.daily_world import daily_raw, day_of, write_day

BOOTSTRAP = 2
PROCESSES = {"driver": "raymtl daily", "worker": "RayTrainWorker", "dealer": "Dealer", "events": "EventQueue"}


def configuration(root: Path, name: str, workers: int, rows: int) -> tuple[str, Store]:
    raw = daily_raw(root / "logs", root / name / "store", keep=100)
    raw["data"]["unit_rows"] = max(1000, rows // 5)
    raw["train"] |= {"workers": workers, "batch_size": 1000}
    file = root / name / "config.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(file), Store.open(raw["daily"]["store"])


def run(config: str, *arguments: str, memory: bool = False) -> tuple[list[float], list[dict[str, int]]]:
    """Run a command; when each day started, and its end; the memory at each start."""
    process = subprocess.Popen(command(config, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    started, found, lines = [], [], []
    for line in process.stdout:
        lines.append(line)
        if "starts from" in line:
            started.append(time.monotonic())
            if memory:
                found.append(private_mib(process.pid))
    assert process.wait() == 0, "".join(lines)
    return [*started, time.monotonic()], found


def private_mib(pid: int) -> dict[str, int]:
    """Private memory of the processes under a command, by kind."""
    sums: dict[str, int] = {}
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            title, held = " ".join(process.cmdline()), process.memory_full_info().uss
        except psutil.Error:
            continue
        kind = "driver" if process.pid == pid else next((k for k, word in PROCESSES.items() if word in title), "other")
        sums[kind] = sums.get(kind, 0) + (held >> 20)
    return sums


def seconds(store: Store, first: int, days: int, starts: list[float]) -> list[dict[str, Any]]:
    found = []
    for number in range(days):
        record = read_record(store, day_of(first + number))
        assert record is not None
        took = starts[number + 1] - starts[number]
        work = sum(record.work_seconds.values())
        found.append(
            {"day": str(record.date), "seconds": round(took, 1), "beyond": round(took - work, 1), **record.work_seconds}
        )
    return found


def version_of(store: Store, day: dt.date) -> Manifest:
    """The version that a day published."""
    return next(m for v in versions.list_versions(store) if (m := v.manifest) is not None and m.data_end == day)


def equal(a: Store, b: Store, day: dt.date) -> bool:
    """Whether both stores have the same version of a day, bit for bit, and the same verdict on it."""
    files = [[(file.path, file.sha256) for file in version_of(store, day).files] for store in (a, b)]
    gates = [
        r.gate.model_dump() for store in (a, b) if (r := read_record(store, day)) is not None and r.gate is not None
    ]
    return files[0] == files[1] and gates[0] == gates[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    files = (
        options.rows * 2 // 5 + 11,
        options.rows // 3 + 2,
        options.rows - options.rows * 2 // 5 - options.rows // 3 - 13,
    )
    with tempfile.TemporaryDirectory(prefix="raymtl-backfill-") as scratch:
        root = Path(scratch)
        for number in range(BOOTSTRAP + options.days - 1):
            write_day(root / "logs", number, files)
        first, last = BOOTSTRAP - 1, BOOTSTRAP + options.days - 2
        config, warm = configuration(root, "backfill", options.workers, options.rows)
        starts, memory = run(config, "--from", str(day_of(first)), "--to", str(day_of(last)), memory=options.memory)
        days = seconds(warm, first, options.days, starts)
        for number, day in enumerate(days):
            print(json.dumps({"backfill": day, **({"private_mib": memory[number]} if memory else {})}), flush=True)
        rest = days[1:]
        print(
            json.dumps(
                {"after_the_first": {k: round(statistics.mean(d[k] for d in rest), 2) for k in ("seconds", "beyond")}}
            )
        )
        if options.memory:
            return
        config, single = configuration(root, "single", options.workers, options.rows)
        began = time.monotonic()
        for number in range(first, last + 1):
            run(config, "--date", str(day_of(number)))
        print(json.dumps({"a_command_per_day_s": round((time.monotonic() - began) / options.days, 1)}))
        found = [equal(warm, single, day_of(number)) for number in range(first, last + 1)]
        print(json.dumps({"days_bit_for_bit_equal": sum(found), "of": len(found)}))
        assert all(found)


if __name__ == "__main__":
    main()
