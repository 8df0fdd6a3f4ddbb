"""What a step costs as the tables grow, and what a worker's memory does as the input grows (docs/performance.md).

    python -m tests.benchmarks.training.tables

The step: 30 ID features, embeddings of 16, MMoE of 4 experts 128-64, batch 2048, batches in memory, with 1,000 and 1,000,000 rows
per table. The memory: peak of the worker on synthetic logs of one size and of ten times that.
"""

import argparse
import json
import tempfile

import numpy as np
import pyarrow as pa

from raymtl.config.load import config_from_dict, load_config, section_from
from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import driver
from tests.benchmarks.training import stages

FEATURES = 30


def config_with(rows: int) -> Config:
    names = [f"f{n}" for n in range(FEATURES)]
    return config_from_dict(
        {
            "data": {"path": "/nowhere", "train": {"start": "2026-01-01", "end": "2026-01-01"}},
            "features": {n: {"kind": "id"} for n in names},
            "tables": {n: {"rows": rows} for n in names},
            "tasks": {"click": {}, "buy": {}},
            "model": {"preset": "mmoe"},
            "train": {"batch_size": 2048},
        }
    )


def batches(config: Config, rows: int, count: int) -> list[stages.Batch]:
    random = np.random.default_rng(0)
    size = config.train.rows_per_step
    made = []
    for _ in range(count):
        columns = {f"id:{n}": pa.array(random.integers(0, rows, size)) for n in config.features}
        columns |= {f"label:{t}": pa.array((random.random(size) < 0.3).astype(np.float32)) for t in config.tasks}
        made.append(Collator(config, size, False)([pa.table(columns)]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows-per-day", type=int, default=100_000)
    options = parser.parse_args()
    answer: dict[str, object] = {"threads": options.threads, **stages.machine()}
    step_ms: dict[int, list[float]] = {}
    for rows in (1_000, 1_000_000, 1_000, 1_000_000):
        config = config_with(rows)
        found = stages.step(config, batches(config, rows, 8), options.threads, 40)
        step_ms.setdefault(rows, []).append(config.train.rows_per_step / found["rows_per_s"] * 1e3)
    best = {rows: min(values) for rows, values in step_ms.items()}
    answer["step_ms"] = {f"{rows:,} rows per table": round(ms, 1) for rows, ms in best.items()}
    answer["step_ratio"] = round(best[1_000_000] / best[1_000], 2)
    peaks = {}
    for factor in (1, 10):
        with tempfile.TemporaryDirectory() as folder:
            values = {"rows_per_day": factor * options.rows_per_day, "days": 3, "last_day_rows": 50_000}
            summary = write_logs(section_from(SynthSpec, values, [], "the logs"), f"{folder}/logs")
            sets = [f"output={folder}/runs", "name=memory", "train.precision=bf16", "train.batch_size=2048"]
            sets.append("data.unit_rows=100000")
            result = driver.train(load_config(summary.config, sets), address="local")
            peaks[f"{result['rows_trained']:,} rows"] = round(result["peak_memory_bytes"] / 2**20)
    answer["worker_peak_mib"] = peaks
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
