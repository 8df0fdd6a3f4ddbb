"""Rows per second and peak memory of a converter, on generated files of its format, of a quarter of the rows and of all.

python -m tests.benchmarks.data.convert aliccp [--rows 1000000]
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.helpers.aliccp_like import write_aliccp_like
from tests.helpers.aliexpress_like import write_aliexpress_like
from tests.helpers.criteo_1tb_like import write_criteo_1tb_like
from tests.helpers.criteo_attribution_like import write_criteo_attribution_like
from tests.helpers.kuairand_like import write_kuairand_like
from tests.helpers.taobao_like import write_taobao_like
from tests.helpers.tenrec_like import write_tenrec_like

_CHILD = """
import re, sys, time
from raymtl.data.convert import convert
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
libraries, start = peak(), time.monotonic()
convert(*sys.argv[1:])
print(time.monotonic() - start, libraries, peak())
"""

WRITERS: dict[str, Callable[[str, int], None]] = {
    "aliccp": lambda folder, rows: write_aliccp_like(folder, rows // 2, users=20_000, items=50_000),
    "kuairand": lambda folder, rows: write_kuairand_like(folder, rows, users=20_000, videos=50_000),
    "taobao": lambda folder, rows: write_taobao_like(folder, rows, users=10_000, items=50_000),
    "aliexpress": lambda folder, rows: write_aliexpress_like(folder, rows // 8),  # each of two splits of four countries
    "tenrec": lambda folder, rows: write_tenrec_like(folder, rows, users=20_000, items=50_000),
    "criteo_attribution": lambda folder, rows: write_criteo_attribution_like(folder, rows, users=200_000),
    "criteo_1tb": lambda folder, rows: write_criteo_1tb_like(folder, rows // 4, days=4),
}


def measure(name: str, rows: int) -> str:
    """One line of results for that many generated rows."""
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[name](f"{folder}/in", rows)
        size = sum(f.stat().st_size for f in Path(f"{folder}/in").rglob("*") if f.is_file())
        command = [sys.executable, "-c", _CHILD, name, f"{folder}/in", f"{folder}/out"]
        result = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, libraries, peak = (float(word) for word in result.split())
        written = sum(f.stat().st_size for f in Path(f"{folder}/out").rglob("*.parquet"))
    return (
        f"{name}: {rows:,} rows, {size >> 20} MiB of text to {written >> 20} MiB of parquet: {seconds:.1f} s, "
        f"{rows / seconds:,.0f} rows/s, peak {peak:.0f} MiB of which {libraries:.0f} are Python and libraries"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=WRITERS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    for rows in (arguments.rows // 4, arguments.rows):
        print(measure(arguments.name, rows), flush=True)
