"""The daily job on MovieLens-like days against its first version kept as it is (docs/results.md).

    python -m tests.benchmarks.daily.movielens [--source ~/ml-1m] [--ratings 200000] [--daily 14]

Converts the three files of `--source`, or generated ones in the same format, trains the first version as the converted
configuration says, then goes on day by day. Of each day it prints the AUC of the version before it, which has not seen the day,
and that of the first version with its own ID maps, with the share of rows whose user or movie that version has never seen.
"""

import argparse
import datetime as dt
import json
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from raymtl.config.data import DayRange
from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.daily.day import DailyRequest
from raymtl.daily.runner import run_daily
from raymtl.data.convert.movielens import convert_movielens
from raymtl.data.ids.id_map import IdMap, save_map
from raymtl.data.read import Input
from raymtl.data.units import plan_input
from raymtl.model_store import store as versions
from raymtl.model_store.loader import load_version
from raymtl.model_store.row_ids import read_map
from raymtl.storage.folder import Folder
from raymtl.storage.object_store import Store
from raymtl.training.build import build
from raymtl.training.driver import metrics_section
from raymtl.training.progress import Progress
from raymtl.training.trainer import Trainer, Worker
from tests.benchmarks.training.inprocess import blocks
from tests.benchmarks.training.stages import alone
from tests.helpers.movielens_like import write_movielens_like


def aucs(metrics: dict[str, Any]) -> dict[str, float]:
    return {task: round(m["auc"], 4) for task, m in metrics["eval"].items() if m.get("auc") is not None}


def frozen(config: Config, store: Store, version: str, dates: list[dt.date]) -> list[dict[str, Any]]:
    """Metrics of a version on each of the days, in this process alone, with the version's own maps."""
    chain = versions.chain(store, versions.show(store, version))
    maps = {table: read_map(store, chain, table) for table in config.map_tables()}
    found = []
    with alone() as group, tempfile.TemporaryDirectory() as folder:
        files = {table: save_map(id_map, Folder.open(folder), f"{table}.parquet") for table, id_map in maps.items()}
        cpu = torch.device("cpu")
        built = build(config, chain[0].base_rates, 1, cpu, group)
        load_version(built, config, store, version, group, optimizer=False)
        for date in dates:
            day = config.model_copy(
                update={"data": config.data.model_copy(update={"eval": DayRange(start=date, end=date)})}
            )
            source = Input(plan_input(day, "eval"), True, files)
            worker = Worker(
                0,
                1,
                cpu,
                group,
                None,
                None,
                lambda source, schedule, day=day: blocks(day, source.plan, schedule, True, maps=source.maps),
            )
            loop = Trainer(worker, day, built, {"train": source}, Progress(), None, lambda: None)
            new = {f"new {table}": unseen(day, date, table, maps[table]) for table in maps}
            found.append({**aucs(metrics_section(loop.measure(source))), **new})
    return found


def unseen(config: Config, date: dt.date, column: str, id_map: IdMap) -> float:
    """Share of a day's rows whose ID the map does not have."""
    ids = pq.read_table(f"{config.data.path}/ds={date}", columns=[column]).column(column).to_numpy().astype(np.int64)
    return round(float((id_map.lookup.rows(ids) == 0).mean()), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="folder of users.dat, movies.dat and ratings.dat; default: generated ones")
    parser.add_argument("--ratings", type=int, default=200_000)
    parser.add_argument("--span", type=int, default=40, help="days that the generated ratings are spread over")
    parser.add_argument("--daily", type=int, default=14, help="days after the first version")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymtl-movielens-") as folder:
        source = options.source
        if source is None:
            source = f"{folder}/source"
            write_movielens_like(
                source, users=options.ratings // 50, movies=2000, ratings=options.ratings, days=options.span, seed=1
            )
        # Older than the default rates and batch size
        measured = ["train.batch_size=512", "train.dense_optimizer.lr=1e-3", "train.sparse_optimizer.lr=2e-2"]
        base = [*measured, f"output={folder}/runs", f"train.workers={options.workers}", *options.set]
        config = load_config(convert_movielens(source, f"{folder}/converted"), base)
        assert config.daily is not None
        first = config.data.train.end
        days = [first + dt.timedelta(days=n) for n in range(1, options.daily + 1)]
        began = time.perf_counter()
        records = run_daily(config, DailyRequest(days[-1], first), address="local", on_event=lambda item: None)
        seconds = time.perf_counter() - began
        store = Store.open(config.daily.store)
        told = [record for record in records[1:] if record.next_day]
        assert records[0].version is not None
        kept = frozen(config, store, records[0].version, [record.date for record in told])
        gains: dict[str, list[float]] = {}
        for record, old in zip(told, kept, strict=True):
            fresh = aucs(record.next_day[0].metrics)
            gain = {task: round(fresh[task] - old[task], 4) for task in fresh if task in old}
            for task, value in gain.items():
                gains.setdefault(task, []).append(value)
            rows = record.next_day[0].rows
            line = {"day": str(record.date), "rows": rows, "daily": fresh, "frozen": old, "gain": gain}
            print(json.dumps({**line, "verdict": record.status}), flush=True)
        means = {task: round(sum(values) / len(values), 4) for task, values in gains.items()}
        print(json.dumps({"mean_gain": means, "days": len(told), "daily_commands_s": round(seconds, 1)}))


if __name__ == "__main__":
    main()
