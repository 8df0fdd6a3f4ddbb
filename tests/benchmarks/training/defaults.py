"""What the default rates, first weights and batch size are worth, from 20,000 rows to two million (docs/results.md).

python -m tests.benchmarks.training.defaults --source CENSUS [--sets census,mail] [--try old,default] [--seeds 3]

Every data set has the configuration that `raymtl convert` or `raymtl synth` writes, but one epoch, and the settings of a
candidate. `--try` also takes a candidate as scale/table rate/dense rate/batch, such as .1/.05/.001/512. One JSON line per run:
AUC and normalized entropy, averaged over the binary tasks. Each run is a training in this process alone, without Ray.
"""

import argparse
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from raymtl.config.features import Init
from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.train import DenseOptimizer, SparseOptimizer
from raymtl.data.convert.registry import convert
from raymtl.data.read import Input, Schedule, row_seed
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import Plan, plan_input
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.build import build
from raymtl.training.progress import Progress
from raymtl.training.steps import planned_steps, with_batch_size
from raymtl.training.trainer import Trainer, Worker
from tests.benchmarks.training.inprocess import blocks
from tests.benchmarks.training.stages import alone
from tests.helpers.movielens_like import write_movielens_like

Raw = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """The settings that are compared."""

    scale: float
    sparse_lr: float
    dense_lr: float
    batch: str

    def __str__(self) -> str:
        return f"{self.scale:g}/{self.sparse_lr:g}/{self.dense_lr:g}/{self.batch}"


NAMED = {
    "old": Candidate(0.01, 0.01, 1e-3, "2048"),
    "default": Candidate(Init().scale, SparseOptimizer().lr, DenseOptimizer().lr, "auto"),
}


def candidate(text: str) -> Candidate:
    if text in NAMED:
        return NAMED[text]
    scale, sparse, dense, batch = text.split("/")
    return Candidate(float(scale), float(sparse), float(dense), batch)


# Data sets


def mail(root: Path, source: str) -> Raw:
    """48,000 customers of a shop in the manner of MineThatData's e-mail challenge: few columns, little to learn, 1 % buy."""
    rows, random = 64_000, np.random.default_rng(0)
    columns = {
        "recency": random.integers(1, 13, rows),
        "segment": random.integers(0, 7, rows),
        "zip_code": random.integers(0, 3, rows),
        "channel": random.integers(0, 3, rows),
        "newbie": random.integers(0, 2, rows),
        "mens": random.integers(0, 2, rows),
        "womens": random.integers(0, 2, rows),
        "mail": random.integers(0, 3, rows),
    }
    history = np.exp(random.normal(4.0 + 0.4 * columns["segment"], 0.5))
    effect = sum(random.normal(0, 0.25, 13)[values] for values in columns.values())
    effect += 0.4 * columns["newbie"] * (columns["mens"] - columns["womens"]) - 0.06 * columns["recency"]
    visit = random.random(rows) < 1 / (1 + np.exp(1.75 - effect))
    conversion = visit & (random.random(rows) < 1 / (1 + np.exp(2.7 - effect)))
    table = pa.table(
        {**columns, "history": history, "visit": visit.astype(np.int8), "conversion": conversion.astype(np.int8)}
    )
    for day, part in (("2026-01-01", table.slice(0, 48_000)), ("2026-01-02", table.slice(48_000))):
        (root / f"ds={day}").mkdir(parents=True)
        pq.write_table(part, root / f"ds={day}/part-0.parquet")
    days = {"train": ("2026-01-01",) * 2, "eval": ("2026-01-02",) * 2}
    return {
        "name": "mail",
        "data": {"path": str(root), **{k: {"start": a, "end": b} for k, (a, b) in days.items()}},
        "features": {
            **{name: {"kind": "id"} for name in columns},
            "history": {"kind": "dense", "transform": "log1p", "mean": 5.2, "std": 0.95},
        },
        "tables": {name: {"rows": 13, "id_space": "direct"} for name in columns},
        "tasks": {"visit": {}, "conversion": {"parent": "visit"}},
        "model": {"preset": "mmoe"},
    }


def census(root: Path, source: str, every: int = 1) -> Raw:
    """The census files, or every n-th of their training rows."""
    raw = yaml.safe_load(Path(convert("census", source, str(root))).read_text())
    if every > 1:
        folder = next(Path(root, "train").iterdir())
        table = pq.read_table(folder, partitioning=None)
        for path in folder.iterdir():
            path.unlink()
        pq.write_table(table.take(np.arange(0, len(table), every)), folder / "part-0.parquet")
    return raw


def movies(root: Path, source: str) -> Raw:
    """Generated ratings in MovieLens format; most users of a day are new, and hashed IDs give them untrained rows."""
    write_movielens_like(root / "ml", 4000, 2000, 200_000, 40, seed=1)
    raw = yaml.safe_load(Path(convert("movielens", str(root / "ml"), str(root / "out"))).read_text())
    for table in ("user_id", "movie_id"):
        raw["tables"][table] = {"rows": 2 * raw["tables"][table]["rows"]}
    return raw


def synth(root: Path, source: str, rows: int) -> Raw:
    """Synthetic logs; evaluation on at most 100,000 rows of the next day."""
    spec = SynthSpec(days=2, rows_per_day=rows, last_day_rows=min(max(rows, 50_000), 100_000))
    return yaml.safe_load(Path(write_logs(spec, str(root)).config).read_text())


SETS: dict[str, Callable[[Path, str], Raw]] = {
    "synth20k": functools.partial(synth, rows=20_000),
    "mail": mail,
    "census50k": functools.partial(census, every=4),
    "movies": movies,
    "census": census,
    "synth200k": functools.partial(synth, rows=200_000),
    "synth2m": functools.partial(synth, rows=2_000_000),
}


# Training


def with_candidate(raw: Raw, chosen: Candidate, rows: int, seed: int) -> Config:
    """The configuration of a data set with the settings of a candidate."""
    init = {"distribution": "normal", "scale": chosen.scale}
    train: Raw = {
        "batch_size": None if chosen.batch == "auto" else int(chosen.batch),
        "seed": seed,
        "precision": "fp32",
        "dense_optimizer": {"lr": chosen.dense_lr},
        "sparse_optimizer": {"lr": chosen.sparse_lr},
        "checkpoint": {"every_units": 1_000_000},
    }
    defaults = {"dim": 16, "init": init}
    return with_batch_size(config_from_dict({**raw, "table_defaults": defaults, "train": train, "daily": None}), rows)


class Rows:
    """The blocks of a data set, read once."""

    def __init__(self, config: Config):
        self.plans = {part: plan_input(config, part) for part in ("train", "eval")}
        self._blocks: dict[tuple[str, int], list[pa.Table]] = {}
        self.base_rates = sample_base_rates(config, self.plans["train"])

    def stream(self, config: Config, source: Input, schedule: Schedule, meetings: Sequence[int]) -> Iterator[pa.Table]:
        seed = row_seed(config, source.evaluation)
        for place, (epoch, number) in enumerate(schedule):
            random = None if seed is None else np.random.default_rng([seed, epoch, number])
            for block in self._unit(config, source.plan, number, source.evaluation):
                if random is not None:
                    block = block.take(pa.array(random.permutation(len(block))))
                unit = pa.array(np.full(len(block), place, np.int32))
                yield block.set_column(block.column_names.index("unit"), "unit", unit)

    def _unit(self, config: Config, plan: Plan, number: int, evaluation: bool) -> list[pa.Table]:
        key = ("eval" if evaluation else "train", number)
        if key not in self._blocks:
            self._blocks[key] = list(blocks(config, plan, [(0, number)], evaluation))
        return self._blocks[key]


def train(config: Config, rows: Rows) -> dict[str, Any]:
    """Train once in this process and return the metrics on the evaluation days."""
    torch.set_num_threads(1)
    plan = rows.plans["train"]
    with alone() as group:
        steps = planned_steps(config, plan, True)
        built = build(config, rows.base_rates, steps, torch.device("cpu"), group)
        stream = functools.partial(rows.stream, config)
        worker = Worker(0, 1, torch.device("cpu"), group, None, None, stream)
        progress = Progress()
        inputs = {part: Input(each, part == "eval") for part, each in rows.plans.items()}
        Trainer(worker, config, built, inputs, progress, None, lambda: None).run()
    tasks = progress.evaluations[-1]["metrics"]["tasks"]
    binary = [name for name, task in config.active_tasks().items() if task.kind == "binary"]
    means = {key: round(statistics.mean(tasks[name][key] for name in binary), 5) for key in ("auc", "ne")}
    return {"steps": progress.step, **means, "aucs": {name: round(tasks[name]["auc"], 5) for name in binary}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="folder of the census files")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--try", dest="candidates", default=",".join(NAMED))
    parser.add_argument(
        "--grid", help="scales;table rates;dense rates;batches, all combinations, such as .01,.1;.05;.001;512"
    )
    parser.add_argument("--folder", help="keep the data sets here, for defaults_sklearn.py")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    tried = [candidate(text) for text in options.candidates.split(",")]
    if options.grid:
        scales, sparse, dense, batches = (part.split(",") for part in options.grid.split(";"))
        tried = [candidate("/".join(c)) for c in itertools.product(scales, sparse, dense, batches)]
    for name in options.sets.split(","):
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(options.folder or folder, name)
            kept.mkdir(parents=True, exist_ok=True)
            if not (kept / "used.yaml").exists():
                written = yaml.safe_dump(SETS[name](kept / "data", options.source), sort_keys=False)
                (kept / "used.yaml").write_text(written)
            raw = yaml.safe_load((kept / "used.yaml").read_text())
            rows = Rows(with_candidate(raw, NAMED["old"], 0, 0))
            for chosen, seed in itertools.product(tried, range(options.seeds)):
                start = time.perf_counter()
                found = train(with_candidate(raw, chosen, rows.plans["train"].rows, seed), rows)
                seconds = round(time.perf_counter() - start, 1)
                record = {"set": name, "candidate": str(chosen), "seed": seed, **found, "seconds": seconds}
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
