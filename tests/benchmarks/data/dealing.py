"""Share of the steps' slots that hold rows, by number of workers: the product's dealing and packing, without reading a file.

python -m tests.benchmarks.data.dealing
"""

import numpy as np

from raymtl.config.load import config_from_dict
from raymtl.data.dealing import Deal, owners

DEFAULTS = config_from_dict(
    {
        "data": {"path": "/nowhere", "train": {"start": "2026-01-01", "end": "2026-01-01"}},
        "features": {"user": {"kind": "id"}},
        "tables": {"user": {"rows": 10}},
        "tasks": {"click": {}},
        "model": {"preset": "shared_bottom"},
    }
)
UNIT_ROWS, BLOCK_ROWS, EVERY = (
    DEFAULTS.data.unit_rows,
    DEFAULTS.data.block_rows,
    DEFAULTS.train.checkpoint.every_units,
)
DAYS = {
    "census, 8 units of 24,940 rows": [24_940] * 8,
    "a day of 50,000 rows": [50_000],
    "default settings, 20 million rows": [UNIT_ROWS] * 20,
}


def simulate(unit_rows: list[int], every: int, workers: int, batch_size: int) -> tuple[int, float, int]:
    """Steps, share of their slots with rows, and blocks that the busiest dealing process hands out."""
    meetings = range(every, len(unit_rows), every)
    deal = Deal(unit_rows, meetings, batch_size=batch_size, workers=workers, block_rows=BLOCK_ROWS)
    span_of = [n for n, (begin, end) in enumerate(deal.spans) for _ in range(begin, end)]
    rows = np.zeros((len(deal.spans), workers), np.int64)
    slices = []
    for group, ranks in enumerate(deal.groups):
        slices.append(0)
        for part in deal.ranges(group):
            for start in range(part.start, part.stop, BLOCK_ROWS):
                size = min(BLOCK_ROWS, part.stop - start)
                position = part.rows_before + start - part.start
                owner = owners(position, size, deal.local_rows(ranks), len(ranks))
                rows[span_of[part.place], ranks.start : ranks.stop] += np.bincount(owner, minlength=len(ranks))
                slices[-1] += len(ranks)
    local = np.array([len(range(rank, batch_size, workers)) for rank in range(workers)])
    steps = int((-(-rows // local)).max(1).sum())  # a span ends when no worker has rows
    assert rows.sum() == sum(unit_rows)
    assert steps == deal.steps
    return steps, sum(unit_rows) / (steps * batch_size), max(slices)


def main() -> None:
    print(f"{'':36} {'workers':>7} {'batch':>8} {'steps':>7} {'full':>6} {'groups':>6} {'slices':>7}")
    for name, unit_rows in DAYS.items():
        every = EVERY if name.startswith("default") else len(unit_rows)
        for workers in (1, 2, 8, 64, 512):
            for batch_size in sorted({2048, 1024 * workers}):
                if batch_size > sum(unit_rows):
                    continue
                steps, full, slices = simulate(unit_rows, every, workers, batch_size)
                count = -(-workers // max(1, BLOCK_ROWS // 4096))
                print(f"{name:36} {workers:7} {batch_size:8} {steps:7} {full:6.3f} {count:6} {slices:7}")


if __name__ == "__main__":
    main()
