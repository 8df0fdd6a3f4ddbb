"""The prose of docs/scale.md that rests on its numbers: the answer, where each choice ends, and the method."""
# ruff: noqa: E501  (the page's own lines)

import math

from raymtl.training.synced_loader import MOST_STEPS
from tests.benchmarks.scale.around import (
    BLOCK_ROWS,
    MAPS,
    MEASURED,
    MEMBERS,
    OWN_MAP_BYTES,
    READ_CPU_S,
    SHARED_MAP_BYTES,
    most_blocks,
)
from tests.benchmarks.scale.config import DENSE, HISTORIES, HISTORY, LARGE
from tests.benchmarks.scale.model import HOP_S, NETWORKS, by_rows, half_vectors
from tests.benchmarks.scale.plan import BATCH, IDS, PER_NODE
from tests.benchmarks.scale.tables import ETHERNET, IB, Cells, gb, mb, million, ms, plan_usable, power, table

ITEM_DIM = LARGE["item"][1]
HISTORY_BYTES = (len(HISTORIES) * HISTORY + 1) * ITEM_DIM * 4
"""Of one row's vectors of the table that the histories read."""


def answer(cells: Cells) -> str:
    small, middle, large = (cells.step(gpus, IDS[1]) for gpus in (8, 64, 512))
    slow = cells.rows_per_s(64, IDS[1], ETHERNET)
    inside = cells.time(half_vectors(by_rows(cells.tables(512, IDS[1]), 512, False)), 512)
    largest = cells.plans[8, IDS[2]]
    usable = plan_usable(cells)
    return f"""# Scale

**Computed, not run.** Nothing here has been executed on a GPU. Bytes and products are counted from raymtl's own plans and model, and divided by published
rates; what could be measured was measured on 2 CPU cores. Made by `python -m tests.benchmarks.scale.page --write docs/scale.md`.

* **8 GPUs** train {million(cells.rows_per_s(8, IDS[1]))} million rows/s at {ms(small.seconds)} ms a step, bound by the model itself ({small.bound}), and need {READ_CPU_S * cells.rows_per_s(8, IDS[1]) / 1e6:.0f} CPU cores to be fed.
* **64 GPUs** reach {million(cells.rows_per_s(64, IDS[1]))} million ({cells.efficiency(64, IDS[1], middle):.0%} efficiency) on 400 Gb/s, {million(slow)} on 100 Gb/s (one machine alone: {million(cells.rows_per_s(8, IDS[1]))}). The wire between
  machines is what counts: {HISTORY_BYTES * BATCH / 1e6:.0f} MB of history vectors per GPU and step, there and back.
* **512 GPUs** reach {million(cells.rows_per_s(512, IDS[1]))} million ({cells.efficiency(512, IDS[1], large):.0%}): a table that lies whole on one GPU answers all 512.
* **Memory** is not the limit from 64 GPUs on: {power(IDS[2])} IDs ({gb(largest["table_bytes"])} GB) fit 64, not 8, which hold {gb(8 * usable)} GB.
* **What pays most**: fp16 on the wire and row-wise tables inside a machine, {million(512 * BATCH / inside.seconds)} million rows/s on 512 GPUs. raymtl has neither yet. What a user can do
  today is narrow the table that the histories read.
* **Beside the GPUs**, in the order in which they end: `map` tables at {power(IDS[1])} IDs ({gb((SHARED_MAP_BYTES + OWN_MAP_BYTES * PER_NODE) * IDS[1])} GB per machine in the daily job); the actor
  that deals slices to a group of {MEMBERS} GPUs at {most_blocks() * BLOCK_ROWS / MEMBERS / 1e6:.1f} million rows/s; the feed's exchange where a step is shorter than {ms(large.feed)} ms on 512 GPUs.
* The planner, dense gradients, checkpoints and the bandwidth of the store are not what ends first in any cell."""


def ends(cells: Cells) -> str:
    large = cells.step(512, IDS[1])
    lack = cells.plans[8, IDS[2]]
    usable = plan_usable(cells)
    rows_of_8 = cells.step(8, IDS[1])
    host = 3 * rows_of_8.traffic.lookup_bytes.max() / 64e9
    whole = HISTORY_BYTES / (64 * 4)
    rows = [
        [
            "tables in GPU memory",
            f"8 GPUs, {power(IDS[2])} IDs: {gb(lack['table_bytes'])} GB for {gb(8 * usable)}",
            f"{math.ceil(lack['table_bytes'] / usable)} GPUs; with fp16 tables or half the width {math.ceil(lack['table_bytes'] / 2 / usable)}; in host memory each step moves "
            f"{mb(3 * rows_of_8.traffic.lookup_bytes.max())} MB over PCIe (64 GB/s): {ms(host)} ms where nothing is cached. raymtl keeps fp32 in GPU memory.",
        ],
        [
            "table-wise",
            f"a table of 64 columns sends W·B·256 bytes from one GPU; as much as the histories of a GPU at W = {whole:.0f}",
            "row-wise inside a machine, or column-wise (with row-wise Adagrad another optimizer)",
        ],
        [
            "row-wise, pooled",
            f"sums and lengths grow with W: on 512 GPUs {mb(512 * BATCH * 64 * 4)} MB of sums over NVLink for one feature 64 wide, {mb(512 * BATCH * 4)} MB of lengths for "
            f"{BATCH * 8 / 1e3:.0f} KB of IDs",
            "unpooled lookups of single IDs; row-wise inside a machine; groups",
        ],
        [
            "fp32 on the wire",
            f"from the second machine on: vectors take {ms(cells.step(64, IDS[1]).vectors)} of {ms(cells.step(64, IDS[1]).seconds)} ms on 64 GPUs",
            "fp16 collectives; narrower histories; distinct IDs of a batch sent once (TorchRec's index_dedup, not computed here)",
        ],
        [
            f"the feed's exchange, once for {MOST_STEPS} steps",
            f"{HOP_S * 1e6:.0f} µs · (W - 1): {ms(large.feed)} ms a step at 512; as long as the step of 8 GPUs at W = {MOST_STEPS * rows_of_8.seconds / HOP_S + 1:,.0f}",
            "machine first, then between machines: 7 + 63 messages instead of 511",
        ],
        [
            f"one actor that deals to {MEMBERS} workers",
            f"{most_blocks()} slices/s here: {most_blocks() * BLOCK_ROWS / MEMBERS / 1e6:.1f} million rows/s at {BLOCK_ROWS:,} rows a block",
            "a group of `data.block_rows` / 4,096 workers has an actor of its own; fewer workers in a group",
        ],
        [
            "a map on every machine",
            f"{power(IDS[1])} IDs: {gb((SHARED_MAP_BYTES + OWN_MAP_BYTES * PER_NODE) * IDS[1])} GB in the daily job, {MAPS[-1]['first_of_the_host_ms'] / MAPS[-1]['entries'] * IDS[1] / 6e4:.0f} minutes to load; {power(IDS[2])} do not fit",
            "`hash`, or a higher `admit_count`; workers that share the day's maps; a map split by hash over the machines; managed collision in the tables "
            "([why](adr/0014-id-maps.md))",
        ],
        [
            "marks of all rows in every worker",
            f"{power(IDS[2])} IDs: {gb(PER_NODE * IDS[2])} GB per machine",
            "a bit instead of a byte, or each rank marks its own shards",
        ],
        [
            "whole tables written by their holder",
            f"{power(IDS[1])} IDs on 64 GPUs: {gb(cells.plans[64, IDS[1]]['max_bytes'])} GB by one writer, {cells.plans[64, IDS[1]]['max_bytes'] / cells.plans[64, IDS[1]]['table_bytes'] * 64:.0f} times the mean",
            "`sharding: row_wise` for the large tables; deltas on most days",
        ],
    ]
    return "## Where each choice ends\n\n" + table(["choice", "ends", "what then"], rows)


def method(cells: Cells) -> str:
    dense = cells.dense
    return f"""## The model

**Configuration** (`tests/benchmarks/scale/config.py`): {len(LARGE)} large tables with {sum(s for s, _ in LARGE.values()):.0%} of the IDs, 32 to {ITEM_DIM} columns, and a tail of 53 with 16; {len(HISTORIES)} histories of {HISTORY} IDs that read `item`
({ITEM_DIM} columns); two bags of 10 and 20 IDs; {DENSE} numbers; PLE with two levels, four tasks, {dense.weights / 1e6:.1f} million dense weights, {dense.flop_per_row / 1e6:.0f} MFLOP per row forward
and backward. Histories and bags are always full. IDs meet every row of a table alike: a row-wise table that a few IDs dominate is less even than here.

**Where the tables go**: `raymtl plan` with HBM of 80 GB (`raymtl/embeddings/planning.py`). **Bytes**: `raymtl/embeddings/traffic.py`, which has the formulas; IDs
of 8 bytes, lengths of 4, vectors of 4 a number; what a GPU keeps for itself is not counted. `python -m tests.benchmarks.scale.check` compares them, rank by rank, with what TorchRec hands to its collectives in a forward
pass of four gloo processes: equal for table-wise, row-wise pooled and row-wise unpooled tables; `table_row_wise` was not run. A reduce-scatter runs in rings, so that a machine's sums leave it once, over all its adapters.

**Time of a step** = max(dense + lookup, launches) + vectors + gradients, or IDs + vectors + gradients, or the feed's exchange, whichever is longest.

| part | formula | rates |
| --- | --- | --- |
| dense | over the {len(dense.kernels)} kernels of forward and backward the longer of FLOP / rate and bytes / rate; Adam 28 bytes a weight | 989 TFLOP/s bf16 (H100 data sheet), 40 % reached (assumed); HBM3 3.35 TB/s (data sheet), 70 % reached (assumed) |
| launches | ({len(dense.kernels)} + 300) · 5 µs | both assumed |
| lookup | (4 · bytes of the rows + 4 · bytes of the vectors) / HBM | as above |
| vectors | 2 · (max(inside / NVLink, between / adapter) + (W - 1) · 1 µs) | NVLink 900 GB/s in both directions (data sheet), 370 GB/s in one reached (NCCL's developers, nccl-tests issue 212); one 400 Gb/s adapter per GPU, {NETWORKS[IB] / 1e9:.0f} GB/s reached (nccl-tests issues 267 and 290: 46 to 49; an all-to-all gets one adapter's); {NETWORKS[ETHERNET] / 1e9:.1f} for 100 Gb/s, the same share (assumed); latency assumed |
| IDs | the same once, with two exchanges (lengths, then IDs) | |
| gradients | 2 · 4 bytes · weights · (W - 1)/W in rings, fp32, not overlapped | as above |
| feed | (W - 1) · 25 µs / {MOST_STEPS} | assumed for TCP between machines |

## Limits of this page

* Rates that are assumed may be wrong by half; bytes are not. Where vectors bind, the step follows the adapter's rate and nothing else.
* Our measured step is a CPU's ([performance.md](performance.md)) and says nothing of a GPU's; it was not used. Measured here and used: reading, the
  coordinator, writers, files, maps, the planner. They come from two shared cores ({MEASURED["date"]}).
* Stragglers, congestion between racks, failures and warm-up are left out: efficiencies of hundreds of GPUs are upper bounds of what these designs can do.
* TorchRec's planner charges a reduce-scatter between machines with every byte over the slow wire; this page's count would not always
  choose as it does."""
