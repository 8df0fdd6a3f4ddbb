"""What docs/scale.md takes from this machine: Ray's split coordinator, the files of versions and checkpoints, gloo.

    python -m tests.benchmarks.scale.measure > tests/benchmarks/scale/measured.json

Takes a minute of two cores. page.py turns the figures into the page.
"""

import json
import logging
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from raymtl.embeddings.rows import RowChunk, TableRows
from raymtl.model_store.table_writer import CHUNK_BYTES, FILE_BYTES, TableWriter, rows_per_chunk
from raymtl.storage.object_store import Store


def coordinator(blocks: int = 3000) -> list[dict[str, Any]]:
    """Blocks per second that `streaming_split` hands out, tiny ones that lie ready, to so many readers."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ready = ray.data.range(blocks * 2, override_num_blocks=blocks).materialize()
    found = []
    for readers in (1, 2, 4):
        counts = [0] * readers
        splits = ready.streaming_split(readers, equal=False)

        def read(n: int, splits: Any = splits, counts: list[int] = counts) -> None:
            for _ in splits[n].iter_batches(batch_size=None, prefetch_batches=4):
                counts[n] += 1

        threads = [threading.Thread(target=read, args=(n,)) for n in range(readers)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        assert sum(counts) == ready.num_blocks()
        found.append({"readers": readers, "blocks": sum(counts), "blocks_per_s": round(sum(counts) / seconds)})
    ray.shutdown()
    return found


def logs_bytes() -> dict[str, float]:
    """Bytes of one value in parquet with zstd, over a million: skewed IDs, IDs all over 10⁹, and random numbers."""
    random = np.random.default_rng(0)
    ids = random.permutation(10**7)[np.minimum(random.zipf(1.2, 10**6) - 1, 10**7 - 1)]
    spread = random.integers(0, 10**9, 10**6)
    columns = {
        "skewed_id": pa.array(ids),
        "spread_id": pa.array(spread),
        "number": pa.array(random.random(10**6, np.float32)),
    }
    found = {}
    for name, values in columns.items():
        file = BytesIO()
        pq.write_table(pa.table({name: values}), file, compression="zstd")
        found[name] = round(len(file.getvalue()) / len(values), 2)
    return found


def version_writer(folder: Path, rows: int = 1_000_000, dim: int = 64) -> dict[str, float]:
    """Rows per second of one writer of a version, and the bytes of a row in its files."""
    table = TableRows("user", rows, dim, {"momentum1": 1}, [], [])
    writer = TableWriter(Store.open(str(folder / "store")), "v1", table, None, 0, FILE_BYTES)
    weight, state = torch.randn(rows, dim), torch.rand(rows, 1)
    size = rows_per_chunk(table, CHUNK_BYTES)
    start, cpu = time.perf_counter(), time.process_time()
    for first in range(0, rows, size):
        last = min(rows, first + size)
        writer.write(RowChunk(np.arange(first, last), weight[first:last], {"momentum1": state[first:last]}))
    files = writer.close()
    seconds = time.perf_counter() - start
    assert writer.error is None
    return {
        "rows": rows,
        "dim": dim,
        "rows_per_s": round(rows / seconds),
        "cpu_s_per_million_rows": round((time.process_time() - cpu) / rows * 1e6, 2),
        "bytes_per_row": round(sum(f.bytes for f in files) / rows, 1),
    }


def checkpoint_writer(folder: Path, size: int = 512 << 20) -> dict[str, float]:
    """Bytes per second of one writer of a checkpoint to this machine's disk."""
    state = {f"part_{n}": torch.randn(size // 8 // 4) for n in range(8)}
    seconds = []
    for n in range(3):
        start = time.perf_counter()
        dcp.save(state, checkpoint_id=str(folder / f"checkpoint-{n}"), no_dist=True)
        seconds.append(time.perf_counter() - start)
    return {"bytes": size, "gb_per_s": round(size / min(seconds) / 1e9, 2)}


def _gather(rank: int, workers: int, folder: str, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/gather-{workers}", rank=rank, world_size=workers)
    mine = torch.zeros(9, dtype=torch.float64)
    everybody = [torch.empty_like(mine) for _ in range(workers)]
    for _ in range(50):
        dist.all_gather(everybody, mine)
    start = time.perf_counter()
    for _ in range(500):
        dist.all_gather(everybody, mine)
    queue.put((time.perf_counter() - start) / 500)
    dist.barrier()
    dist.destroy_process_group()


def feed_exchange(folder: Path) -> list[dict[str, float]]:
    """Microseconds of the feed's exchange (nine numbers of each worker) between processes of this machine."""
    found = []
    context = multiprocessing.get_context("fork")
    for workers in (2, 4, 8, 16):
        queue = context.Queue()
        processes = [context.Process(target=_gather, args=(r, workers, str(folder), queue)) for r in range(workers)]
        for process in processes:
            process.start()
        us = max(queue.get(timeout=120) for _ in processes) * 1e6
        for process in processes:
            process.join()
        found.append({"workers": workers, "us": round(us), "us_per_other_worker": round(us / (workers - 1))})
    return found


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {
            "date": str(date.today()),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "feed_exchange": feed_exchange(folder),
            "version_writer": version_writer(folder),
            "checkpoint_writer": checkpoint_writer(folder),
            "logs_bytes_per_value": logs_bytes(),
            "coordinator": coordinator(),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
