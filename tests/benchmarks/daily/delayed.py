"""Buys that arrive days later: what the daily job learns by waiting for them, and by not waiting (docs/results.md).

    python -m tests.benchmarks.daily.delayed --out delayed.jsonl [--seeds 3] [--only waiting --only "early labels"]

Synthetic logs whose buys take hours to days, depending on the features (`buy_delay_days`), with preferences that drift and new
items every day. For each variant the daily job runs over the days; every version is scored on the rows of the day after it,
by the true probability of a buy: the AUC expected over all labels that could have been drawn, the sum of predictions over that
of the probabilities, and the log loss above that of the probabilities themselves. A line of JSON per seed, variant and day goes
to `--out`, which a later call continues; then a table: means over days and seeds, and the difference to waiting with its 95 %
interval (Student's t over the seeds, each the mean of its days).
"""

import argparse
import datetime as dt
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from raymtl.config.data import DayRange
from raymtl.config.load import config_from_dict, section_from
from raymtl.config.root import Config
from raymtl.config.yamltext import parse_yaml
from raymtl.daily.day import DailyRequest
from raymtl.daily.record import Record
from raymtl.daily.runner import run_daily
from raymtl.data.units import plan_input
from raymtl.intervals import mean_interval
from raymtl.model_store import store as versions
from raymtl.model_store.loader import load_version
from raymtl.storage.object_store import Store
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training.build import build
from tests.benchmarks.models.showcase_judges import expected_auc
from tests.benchmarks.models.showcases import TRAIN
from tests.benchmarks.training.inprocess import predict
from tests.benchmarks.training.stages import alone

Values = dict[str, Any]
TRUTH = "p_buy"
MODELS: dict[str, Values] = {
    "shared_bottom": {"preset": "shared_bottom", "trunk": {"type": "shared_bottom", "hidden": [128, 64]}},
    "esmm": {"preset": "esmm"},
}
METRICS = ("AUC", "calibration", "log loss above the best")


@dataclass(frozen=True)
class Variant:
    """A way to treat labels that come late."""

    buy: Values = field(default_factory=dict)
    """Keys of the task `buy`; `delay_days` is that of the logs unless it stands here."""
    cut: bool = False
    """Train on logs in which a buy that has not arrived by the end of its day is a 0."""


WAITING = "waiting"
VARIANTS = {
    "final at once": Variant({"delay_days": 0}),
    WAITING: Variant(),
    "missing for negative": Variant({"delay_days": 0}, cut=True),
    "early labels": Variant({"early_labels": {"time": "buy_time"}}),
}


# ------------------------------------------------------------------------------------------------------------------ logs


def write_both(spec: SynthSpec, folder: Path) -> None:
    """The logs, and beside them the ones that are known at the end of each day."""
    write_logs(spec, str(folder / "logs"))
    for path in (folder / "logs").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        midnight = dt.datetime.fromisoformat(path.parent.name.removeprefix("ds=")).replace(tzinfo=dt.UTC)
        end = pa.scalar(midnight + dt.timedelta(days=1), pa.timestamp("ms", "UTC"))
        known = pc.fill_null(pc.less(table["buy_time"], end), False)
        place = folder / "cut" / path.relative_to(folder / "logs")
        place.parent.mkdir(parents=True, exist_ok=True)
        number = table.schema.get_field_index("buy")
        pq.write_table(table.set_column(number, "buy", pc.cast(known, pa.int8())), place)


def configuration(variant: Variant, model: str, spec: SynthSpec, folder: Path, bootstrap: int, seed: int) -> Config:
    """The configuration beside the logs, with two tasks, the model, and what the variant changes."""
    written = folder / "logs" / "config.yaml"
    raw = parse_yaml(written.read_text(), str(written))
    raw["output"] = str(folder / "runs")
    path = str(folder / ("cut" if variant.cut else "logs"))
    # many units, in random order: otherwise a day ends with the rows of one task or of the other
    raw["data"] |= {"path": path, "unit_rows": spec.rows_per_file, "shuffle": {"seed": seed}}
    buy = {"parent": "click", "truth": TRUTH, "delay_days": spec.buy_delay_days, **variant.buy}
    raw["tasks"] = {"click": {"truth": "p_click"}, "buy": buy}
    raw["model"] = {"sequence": {"type": "pooled"}, **MODELS[model]}
    raw["train"] = {**TRAIN, "seed": seed, "workers": 1}
    raw["daily"] |= {
        "store": str(folder / "store"),
        "bootstrap_days": bootstrap,
        "keep": spec.days,
        "compare_days_ago": None,
        "bounds": None,
        # every version is judged by the truth below, so none is refused
        "gate": {"holdout": 0.01, "min_positives": 10**9, "norm_growth": 1e9, "order_rise": 1e9},
    }
    return config_from_dict(raw)


# ----------------------------------------------------------------------------------------------------------------- a run


def run(config: Config, folder: Path, first: dt.date, last: dt.date) -> list[Record]:
    shutil.rmtree(folder / "store", ignore_errors=True)
    return run_daily(config, DailyRequest(last, first), address="local", on_event=lambda item: None)


def judge(config: Config, folder: Path, records: list[Record]) -> dict[str, dict[str, float]]:
    """The metrics of every version on the rows of the day after it, by that day; scored in this process alone."""
    store, found = Store.open(config.daily.store if config.daily else ""), {}
    with alone() as group:
        cpu = torch.device("cpu")
        assert records[0].version is not None
        built = build(config, versions.show(store, records[0].version).base_rates, 1, cpu, group)
        for record in records:
            day = record.date + dt.timedelta(days=1)
            load_version(built, config, store, record.version, group, optimizer=False)
            days = {"path": str(folder / "logs"), "eval": DayRange(start=day, end=day)}
            there = config.model_copy(update={"data": config.data.model_copy(update=days)})
            columns = predict(built, there, plan_input(there, "eval"), [TRUTH])
            found[str(day)] = metrics(columns[TRUTH].astype(np.float64), columns["buy"].astype(np.float64))
    return found


def metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    predicted = predicted.clip(1e-7, 1 - 1e-7)
    above = truth * np.log(truth / predicted) + (1 - truth) * np.log((1 - truth) / (1 - predicted))
    values = (expected_auc(truth, predicted), float(predicted.sum() / truth.sum()), float(above.mean()))
    return {**dict(zip(METRICS, values, strict=True)), "best AUC": expected_auc(truth, truth)}


# --------------------------------------------------------------------------------------------------------------- results


def table(lines: list[Values]) -> str:
    """Markdown: a row per variant."""
    best = statistics.fmean(line["best AUC"] for line in lines)
    rows = [
        f"| best AUC {best:.4f} | AUC | against waiting | calibration | log loss above the best, · 1000 | against waiting |"
    ]
    rows.append("|---|---|---|---|---|---|")
    for variant in VARIANTS:
        mine = [line for line in lines if line["variant"] == variant]
        if not mine:
            continue
        auc, calibration, loss = ([line[metric] for line in mine] for metric in METRICS)
        ratio = f"{statistics.fmean(calibration):.3f} ({min(calibration):.2f} to {max(calibration):.2f})"
        cells = [variant, f"{statistics.fmean(auc):.4f}", gain(lines, variant, "AUC", 1, 4), ratio]
        cells += [f"{1000 * statistics.fmean(loss):.2f}", gain(lines, variant, METRICS[2], 1000, 2)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def gain(lines: list[Values], variant: str, metric: str, factor: float, digits: int) -> str:
    """Mean of the difference to waiting, on the days and seeds that have both."""
    by = {(line["variant"], line["seed"], line["day"]): line[metric] for line in lines}
    per_seed: dict[int, list[float]] = {}
    for (name, seed, day), value in by.items():
        if name == variant and (WAITING, seed, day) in by:
            per_seed.setdefault(seed, []).append(factor * (value - by[WAITING, seed, day]))
    if variant == WAITING or not per_seed:
        return ""
    found = mean_interval([statistics.fmean(values) for values in per_seed.values()])
    return f"{found.mean:+.{digits}f}" + (f" ± {found.half:.{digits}f}" if found.half is not None else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="this variant; may be given again")
    parser.add_argument("--model", choices=list(MODELS), default="shared_bottom")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows-per-day", type=int, default=40_000)
    parser.add_argument("--bootstrap", type=int, default=4)
    parser.add_argument("--days", type=int, default=8, help="days after the first version")
    parser.add_argument("--judged", type=int, default=6, help="versions that are judged, the last ones")
    parser.add_argument("--set", action="append", default=[], help="a key of the logs, as for `raymtl synth`")
    options = parser.parse_args()
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    values = {
        "rows_per_day": options.rows_per_day,
        "days": options.bootstrap + options.days + 1,
        "users": 2000,
        "items": 500,
        "new_items": 0.1,
        "drift": 0.15,
        "cart_rate": 0.07,
        "buy_rate": 0.04,
        "buy_delay_days": 3,
        "rows_per_file": max(1, options.rows_per_day // 20),
    }
    for seed in range(options.seeds):
        left = [v for v in options.only or VARIANTS if not any((d["seed"], d["variant"]) == (seed, v) for d in done)]
        if not left:
            continue
        with tempfile.TemporaryDirectory(prefix="raymtl-delayed-") as name:
            folder = Path(name)
            spec = section_from(SynthSpec, {**values, "seed": seed}, options.set, "the logs")
            write_both(spec, folder)
            dates = spec.dates()
            for variant in left:
                began = time.perf_counter()
                config = configuration(VARIANTS[variant], options.model, spec, folder, options.bootstrap, seed)
                records = run(config, folder, dates[options.bootstrap - 1], dates[-2])
                judged = judge(config, folder, records[-options.judged :])
                seconds = round(time.perf_counter() - began, 1)
                with options.out.open("a") as out:
                    for day, found in judged.items():
                        line = {"variant": variant, "seed": seed, "day": day, **found, "seconds": seconds}
                        done.append(line)
                        out.write(json.dumps(line) + "\n")
                print(json.dumps({"seed": seed, "variant": variant, "seconds": seconds}), flush=True)
    print(table(done))


if __name__ == "__main__":
    main()
