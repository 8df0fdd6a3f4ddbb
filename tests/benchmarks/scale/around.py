"""What surrounds the step: reading, the feed, the planner, checkpoints, versions, maps of IDs."""
# ruff: noqa: E501  (the page's own lines)

import json
from pathlib import Path
from typing import Any

from raymtl.data.dealing import Deal, groups
from raymtl.training.synced_loader import MOST_STEPS
from tests.benchmarks.scale.config import BAGS, DENSE, HISTORIES, HISTORY, LARGE, TAIL
from tests.benchmarks.scale.plan import BATCH, GPUS, IDS, PER_NODE
from tests.benchmarks.scale.tables import Cells, gb, million, ms, power, table

HERE = Path(__file__).parent
MEASURED: dict[str, Any] = json.loads((HERE / "measured.json").read_text())
MAPS: list[dict[str, float]] = json.loads((HERE.parent / "data" / "id_maps.json").read_text())["lookup"]

CENSUS_CPU_S, CENSUS_VALUES = 1.99, 39
"""docs/performance.md, stage (b) with `mmoe`: CPU seconds per million rows, and values of such a row."""
IDS_PER_ROW = len(LARGE) + TAIL - len(BAGS) + sum(BAGS.values()) + len(HISTORIES) * HISTORY
VALUES = IDS_PER_ROW + DENSE
BLOCK_ROWS, UNIT_ROWS, EPOCH_ROWS = 65_536, 1_000_000, 100_000_000
MEMBERS = len(groups(512, BLOCK_ROWS)[0])
READ_CPU_S = CENSUS_CPU_S * VALUES / CENSUS_VALUES
"""CPU seconds to read a million rows of ours, in proportion to the values."""
SHARED_MAP_BYTES, OWN_MAP_BYTES = 32, 28
TOUCHED = 0.01


def row_bytes(kind: str) -> float:
    """Bytes of a row in the logs, with all IDs `skewed_id` or `spread_id`."""
    each = MEASURED["logs_bytes_per_value"]
    return float(IDS_PER_ROW * each[kind] + DENSE * each["number"])


def most_blocks() -> int:
    return int(max(c["blocks_per_s"] for c in MEASURED["coordinator"]))


def around(cells: Cells) -> str:
    return "\n\n".join([_reading(cells), _saving(cells), _maps()])


def _reading(cells: Cells) -> str:
    lines = []
    for gpus in GPUS:
        rows = cells.rows_per_s(gpus, IDS[1])
        cores = rows / 1e6 * READ_CPU_S
        store = f"{rows * row_bytes('skewed_id') / 1e9:.1f} to {rows * row_bytes('spread_id') / 1e9:.1f}"
        step = cells.step(gpus, IDS[1])
        deal = Deal(
            [UNIT_ROWS] * (EPOCH_ROWS // UNIT_ROWS),
            range(EPOCH_ROWS // UNIT_ROWS),
            batch_size=gpus * BATCH,
            workers=gpus,
            block_rows=BLOCK_ROWS,
        )
        planner = [cells.plans[gpus, ids]["cpu_s"] for ids in IDS]
        lines.append(
            [
                str(gpus),
                million(rows),
                f"{cores:,.0f}",
                f"{cores / gpus * PER_NODE:,.0f}",
                store,
                f"{rows / BLOCK_ROWS / len(deal.groups) * len(deal.groups[-1]):,.0f}",
                f"{EPOCH_ROWS / deal.steps / deal.batch_size:.3f}",
                f"{ms(step.feed)} of {ms(step.seconds)}",
                f"{min(planner):,.0f} to {max(planner):,.0f}",
            ]
        )
    head = [
        "GPUs",
        "million rows/s",
        "cores to read",
        "per machine",
        "GB/s from the store",
        "slices/s of a dealing process",
        "full steps",
        "feed, ms of a step",
    ]
    head.append("one plan, CPU s")
    exchange = MEASURED["feed_exchange"]
    coordinator = ", ".join(f"{c['blocks_per_s']} with {c['readers']}" for c in MEASURED["coordinator"])
    text = f"""## Reading, feed, planner

The cells of {power(IDS[1])} IDs. A row has {VALUES} values; the {CENSUS_VALUES} of census cost {CENSUS_CPU_S} CPU s per million rows
([performance.md](performance.md)), so ours {READ_CPU_S:.1f}, or {1e6 / READ_CPU_S:,.0f} rows/s per core. Bytes from the store: {row_bytes("skewed_id"):.0f} per row if IDs are
skewed, {row_bytes("spread_id"):.0f} if they are spread over 10⁹ (both measured with zstd). Blocks of {BLOCK_ROWS:,} rows (`data.block_rows`). "Full steps" is the
share of the steps' slots that hold rows with the default settings, a checkpoint every {UNIT_ROWS:,} rows, by the code that deals them (`raymtl/data/dealing.py`)."""
    after = f"""* **The dealing processes.** A block is cut into a slice per worker of a group, and one process (`data/dealer.py`, with the coordinator of `streaming_split`) deals them. Here it deals {coordinator} readers
  (slices/s, {MEASURED["coordinator"][0]["blocks"]:,} tiny ones that lie ready): {most_blocks() * BLOCK_ROWS / MEMBERS / 1e6:.1f} million rows/s for a group of {MEMBERS} workers at {BLOCK_ROWS:,} rows a block. Each group has an
  actor of its own. One of our blocks has {BLOCK_ROWS * VALUES * 8 / 1e6:.0f} MB; twice the rows is twice the memory, not more work for the actor.
* **The feed's exchange** is gloo's all-gather, a ring: W - 1 messages one after the other, for which 25 µs between machines are assumed. In this
  machine's two cores, which all processes share, it took {", ".join(f"{e['us'] / 1e3:.1f} ms with {e['workers']}" for e in exchange)} workers: the W·(W - 1) messages of a
  ring, sent by two cores. One exchange serves {MOST_STEPS} steps (the table counts an eighth), in a thread of its own up to {MOST_STEPS} batches ahead, so it
  costs nothing until it takes as long as those steps.
* **The planner** runs once per start, with four ways of looking for a plan; other ranks wait for the first."""
    return "\n\n".join([text, table(head, lines), after])


def _saving(cells: Cells) -> str:
    writer, checkpoint = MEASURED["version_writer"], MEASURED["checkpoint_writer"]
    weight_bytes = writer["rows_per_s"] * writer["dim"] * 4
    lines = []
    for ids in IDS:
        for gpus in GPUS:
            if not cells.fits(gpus, ids):
                continue
            plan = cells.plans[gpus, ids]
            whole = plan["max_bytes"] / weight_bytes
            lines.append(
                [
                    power(ids),
                    str(gpus),
                    gb(plan["table_bytes"]),
                    gb(plan["max_bytes"]),
                    f"{plan['max_bytes'] / checkpoint['gb_per_s'] / 1e9:,.0f}",
                    f"{whole:,.0f}",
                    f"{whole * TOUCHED:,.1f}",
                    gb(plan["table_bytes"] * TOUCHED),
                    f"{plan['table_bytes'] / gpus / weight_bytes:,.0f}",
                ]
            )
    head = [
        "IDs",
        "GPUs",
        "tables, GB",
        "largest writer, GB",
        "checkpoint, s",
        "version whole, s",
        "delta of 1 %, s",
        "delta, GB",
    ]
    head.append("version whole if shares were equal, s")
    text = f"""## Checkpoints and versions

Every GPU writes its own shards, so the fullest one sets the time. Measured here, one writer: checkpoints {checkpoint["gb_per_s"]} GB/s to the local disk
(`torch.distributed.checkpoint`); versions {writer["rows_per_s"]:,} rows/s of {writer["dim"]} columns ({weight_bytes / 1e6:.0f} MB/s, {writer["cpu_s_per_million_rows"]} CPU s per million rows,
{writer["bytes_per_row"]:.0f} bytes a row in the file). The store must take what all writers send at once; here it is not what limits."""
    after = """A writer of a version holds one chunk of 16 MiB at a time and a file's upload, whatever the table's size; a delta adds the marks of what was
touched ([below](#maps-of-ids-and-marks)). The last column is what an even spread of the rows would give."""
    return "\n\n".join([text, table(head, lines), after])


def _maps() -> str:
    last = MAPS[-1]
    each = last["entries"]
    lines = [
        [
            power(ids),
            gb(SHARED_MAP_BYTES * ids),
            gb((SHARED_MAP_BYTES + OWN_MAP_BYTES * PER_NODE) * ids),
            gb(2 * OWN_MAP_BYTES * ids),
            gb(PER_NODE * ids),
            f"{last['build_ms'] / each * ids / 6e4:,.1f}",
            f"{last['first_of_the_host_ms'] / each * ids / 6e4:,.1f}",
            gb(last["file_bytes_per_entry"] * ids),
        ]
        for ids in IDS
    ]
    head = [
        "IDs",
        "while training, GB per machine",
        "daily job, GB per machine",
        "driver, GB at least",
        "marks, GB per machine",
    ]
    head += ["making the lookup, min", "loading it, min", "files, GB"]
    text = f"""## Maps of IDs, and marks

`id_space: map`: {SHARED_MAP_BYTES} bytes per ID once per machine; in the daily job each of its {PER_NODE} workers holds the day's maps besides ({OWN_MAP_BYTES} bytes per ID), and
the driver a map and its successor ([daily.md](daily.md)). Times of `tests/benchmarks/data/id_maps.json` at {each / 1e6:.0f} million entries, in proportion; one core. Marks: each worker notes which rows a delta must hold in one byte
per row of **all** tables, of any ID space; only the pages that are written take memory, but hashed IDs write everywhere."""
    return "\n\n".join([text, table(head, lines)])
