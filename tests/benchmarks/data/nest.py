"""Rows per second of `raymtl convert --nest` and memory of its processes, for a day of a quarter of the rows and of all.

    python -m tests.benchmarks.data.nest [--rows 2000000]

The synthetic rows have six histories of up to 50 steps. Memory is that of the driver and of the largest task, without
pages that processes share, such as Ray's object store.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from raymtl.synth import SynthSpec, write_logs

_EVERY_S = 0.1


def measure(rows: int) -> str:
    """One line of results for a day of that many rows."""
    with tempfile.TemporaryDirectory() as folder:
        spec = SynthSpec(
            days=1, rows_per_day=rows, users=max(1, rows // 200), history=50, behaviours=True, rows_per_file=70_001
        )
        write_logs(spec, f"{folder}/flat")
        began, largest = time.monotonic(), {"driver": 0, "task": 0}
        command = [sys.executable, "-m", "raymtl", "convert", "--nest", f"{folder}/flat", f"{folder}/nested"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
            while driver.poll() is None:
                for name, size in _private_bytes(driver.pid):
                    largest[name] = max(largest[name], size)
                time.sleep(_EVERY_S)
        seconds = time.monotonic() - began
        assert driver.returncode == 0
        before, after = (
            sum(f.stat().st_size for f in Path(folder, n).rglob("*.parquet")) >> 20 for n in ("flat", "nested")
        )
    sizes = ", ".join(f"{name} {size >> 20} MiB" for name, size in largest.items())
    return f"{rows:,} rows: {before} to {after} MiB in {seconds:.0f} s, {rows / seconds:,.0f} rows/s; {sizes}"


def _private_bytes(driver: int) -> Iterator[tuple[str, int]]:
    """Memory of the driver and of each process below it that runs tasks."""
    parents: dict[int, tuple[int, str, int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, KeyError):
            fields = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
            words = fields["RssAnon"].split()
            parents[int(entry.name)] = int(fields["PPid"]), fields["Name"].strip(), int(words[0]) << 10
    for pid, (_, name, size) in parents.items():
        above = pid
        while above != driver and above in parents:
            above = parents[above][0]
        if above == driver and (pid == driver or name.startswith("ray::")):
            yield "driver" if pid == driver else "task", size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    arguments = parser.parse_args()
    for share in (4, 1):
        print(measure(arguments.rows // share), flush=True)
