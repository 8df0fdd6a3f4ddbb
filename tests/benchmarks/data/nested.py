"""Bytes on disk and CPU seconds of reading, for logs with a row per impression and for nested ones of the same rows.

The rows of flat logs stand together by request, so that zstd finds what repeats, or mixed, as a join by impression leaves them.

    python -m tests.benchmarks.data.nested [--rows 400000] [--folder DIR]

One process reads the second day of synthetic logs with six histories of up to 50 steps, which are full by then, as training does:
it decodes, checks, converts and hashes every column of the configuration.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment, read_requests
from raymtl.data.units import plan_input
from raymtl.data.writing import OutputFolder
from raymtl.synth import SynthSpec, write_logs
from raymtl.synth.columns import PLAIN, TRUTH

_ROWS_PER_REQUEST = (1, 10, 50)
_ROUNDS = 3
_GROUP_ROWS = 100_000


class Measured(NamedTuple):
    """Of one layout."""

    bytes: float
    """Per row."""
    logged_bytes: float
    """Without the true probabilities, which no real logs have."""
    cpu_s: float
    """Per million rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--folder", help="keep the logs there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.folder or temporary)
        print(f"{'rows per':>8}  {'':<18} {'':>9} {'':>5} {'without':>7} {'':>5} {'CPU s per':>9}")
        print(f"{'request':>8}  {'layout':<18} {'bytes/row':>9} {'×':>5} {'truths':>7} {'×':>5} {'M rows':>9} {'×':>5}")
        for width in _ROWS_PER_REQUEST:
            flat = None
            for layout, measured in _measure(root, width, options.rows):
                flat = flat or measured
                (size, logged, cpu), (size_0, logged_0, cpu_0) = measured, flat
                print(
                    f"{width:>8}  {layout:<18} {size:>9.1f} {size_0 / size:>5.1f} {logged:>7.1f} {logged_0 / logged:>5.1f} "
                    f"{cpu:>9.2f} {cpu_0 / cpu:>5.1f}",
                    flush=True,
                )


def _measure(root: Path, width: int, rows: int) -> Iterator[tuple[str, Measured]]:
    configs = {}
    for layout in ("flat", "nested"):
        spec = SynthSpec(
            days=2,
            rows_per_day=rows,
            users=max(1, rows // 400),
            history=50,
            behaviours=True,
            request_rows=width,
            layout=layout,
            row_group_rows=_GROUP_ROWS,
        )
        configs[layout] = load_config(write_logs(spec, str(root / f"{layout}-{width}")).config)
    with_request = load_config(f"{configs['flat'].data.path}/config.yaml", ["data.request=request_id"])
    mixed = _mix(configs["flat"], root / f"mixed-{width}")
    cases = {
        "flat": configs["flat"],
        "flat, mixed": mixed,
        "flat, data.request": with_request,
        "nested": configs["nested"],
    }
    cpu_s = dict.fromkeys(cases, float("inf"))
    for _ in range(_ROUNDS):
        for name, config in cases.items():
            cpu_s[name] = min(cpu_s[name], _read(config))
    for name, config in cases.items():
        total = logged = 0
        for path in Path(config.data.path).glob("ds=2026-01-02/*.parquet"):
            total += path.stat().st_size
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                columns = (metadata.row_group(group).column(n) for n in range(metadata.num_columns))
                logged += sum(
                    c.total_compressed_size for c in columns if c.path_in_schema.rpartition(".")[2] not in TRUTH
                )
        yield name, Measured(total / rows, logged / rows, cpu_s[name] / rows * 1e6)


def _mix(config: Config, out: Path) -> Config:
    """The second day with its rows in random order."""
    day = "ds=2026-01-02"
    table = pq.read_table(Path(config.data.path) / day, partitioning=None)
    table = table.take(np.random.default_rng(0).permutation(len(table)))
    folder = OutputFolder.open(str(out))
    folder.make(day)
    file = folder.open_parquet(f"{day}/part-0.parquet", table.schema, PLAIN)
    for start in range(0, len(table), _GROUP_ROWS):
        file.write(table.slice(start, _GROUP_ROWS))
    file.close()
    return load_config(f"{config.data.path}/config.yaml", [f"data.path={out}"])


def _read(config: Config) -> float:
    """CPU seconds of all blocks of the second day."""
    plan, maker = plan_input(config, "eval"), BlockMaker(config, evaluation=False)
    read = read_requests if config.data.by_request else read_fragment
    rows, began = 0, time.process_time()
    for unit in plan.units:
        for fragment in unit.fragments:
            for raw, row in read(plan.root, fragment, maker.raw_columns(), config.data.block_rows):
                rows += len(maker(raw, Place(fragment.path, row), 0))
    assert rows == plan.rows
    return time.process_time() - began


if __name__ == "__main__":
    main()
