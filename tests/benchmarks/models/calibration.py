"""Recalibration on a day that follows, and down-sampled negatives against complete logs (docs/calibration.md).

python -m tests.benchmarks.models.calibration recalibration [--rows 50000] [--seeds 3]
python -m tests.benchmarks.models.calibration sampling [--rows 80000] [--seeds 3]

`recalibration`: the levels of two scenarios change after the training days. Maps are fitted on half of the users of the next day;
error and log loss are measured on the other half, and with the exact AUC on all rows of the day after. `sampling`: negatives of
the click are kept at a rate; click and buy of complete logs are predicted with weights (`data.sampling`), without a correction,
and with log(rate) added to the logits. Intervals are those of the mean over the seeds (Student's t).
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from sklearn.metrics import roc_auc_score

from raymtl.config.calibration import Calibration
from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.read import Input, Schedule
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import plan_input
from raymtl.intervals import mean_interval
from raymtl.objectives.calibration.calibrator import Calibrator, output_labels
from raymtl.training.build import build
from raymtl.training.progress import Progress
from raymtl.training.recalibration import Recalibration
from raymtl.training.steps import planned_steps
from raymtl.training.trainer import Trainer, Worker
from tests.helpers.small_data import write_file

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
TRAIN, FITTED, FOLLOWING = DAYS[:2], DAYS[2], DAYS[3]
SCENARIOS = ["feed", "search", "live"]
LEVEL = np.array([-3.6, -2.6, -3.2])
SHIFT = np.array([-0.8, 0.5, 0.0])
"""Change of the logits of each scenario after the training days."""
USERS, ITEMS = 3_000, 400


def day_of(rows: int, day: int, seed: int, shift: np.ndarray) -> pa.Table:
    """One day: a click by user, item, number and scenario, and a buy after one click in four, about."""
    world, random = np.random.default_rng([seed, 77]), np.random.default_rng([seed, day])
    of_user, of_item, of_buyer = world.normal(0, 0.6, USERS), world.normal(0, 0.8, ITEMS), world.normal(0, 0.7, ITEMS)
    user, item = random.integers(0, USERS, rows), random.integers(0, ITEMS, rows)
    scene, x = random.choice(3, rows, p=[0.6, 0.3, 0.1]), random.normal(size=rows)
    a = (LEVEL + shift)[scene] + of_user[user] + of_item[item] + 0.5 * x
    p = 1 / (1 + np.exp(-a))
    click = random.random(rows) < p
    buy = click & (random.random(rows) < 1 / (1 + np.exp(1.2 - of_buyer[item] - 0.4 * x)))
    return pa.table(
        {
            "user": user,
            "item": item,
            "x": x.astype(np.float32),
            "scene": np.array(SCENARIOS)[scene],
            "click": click.astype(np.int8),
            "buy": buy.astype(np.int8),
            "kept": np.ones(rows, np.float32),
            "p_click": p,
        }
    )


def config_of(
    path: str, rows: int, sampling: dict[str, Any] | None, calibrated: bool, coupler: str, eval_path: str | None = None
) -> Config:
    return Config.model_validate(
        {
            "data": {
                "path": path,
                "train": {"start": TRAIN[0], "end": TRAIN[-1]},
                "eval": {"start": FITTED, "end": FITTED},
                "eval_path": eval_path,
                "scenario": {"column": "scene", "values": SCENARIOS[:2]},
                "group": "user",
                "sampling": sampling,
                "unit_rows": 10_000_000,
            },
            "features": {
                "user": {"kind": "id"},
                "item": {"kind": "id"},
                "scene_id": {"kind": "id", "column": "scene"},
                "x": {"kind": "dense"},
            },
            "table_defaults": {"dim": 8},
            "tables": {"user": {"rows": 8192}, "item": {"rows": 2048}, "scene_id": {"rows": 64}},
            "tasks": {"click": {}, "buy": {"parent": "click"}},
            "model": {
                "trunk": {"type": "shared_bottom", "hidden": [32]},
                "towers": {"hidden": [16]},
                "coupler": {"type": coupler},
            },
            # The last steps move the level of a rare event by 5 to 15 %; with a decay they do not
            "train": {
                "batch_size": int(np.clip(rows // 400, 64, 1024)),
                "precision": "fp32",
                "schedule": {"decay": "linear"},
            },
            "calibration": {} if calibrated else None,
        }
    )


class Trained:
    """A model trained in this process, to be measured on any day."""

    def __init__(self, config: Config):
        group = dist.group.WORLD
        assert group is not None
        self.config = config
        plan = plan_input(config, "train")
        rates = sample_base_rates(config, plan)
        self.state = build(config, rates, planned_steps(config, plan, evaluates=False), torch.device("cpu"), group)
        worker = Worker(0, 1, torch.device("cpu"), group, None, None, self._open)
        self.trainer = Trainer(worker, config, self.state, {"train": Input(plan)}, Progress(), None, lambda: None)
        self.trainer.run()

    def _open(self, source: Input, schedule: Schedule, meetings: Sequence[int]) -> Iterator[pa.Table]:
        maker = BlockMaker(self.config, source.evaluation)
        for place, (epoch, number) in enumerate(schedule):
            random = np.random.default_rng([epoch, number])
            for fragment in source.plan.units[number].fragments:
                for raw, row in read_fragment(source.plan.root, fragment, maker.raw_columns(), 1 << 20):
                    block = maker(raw, Place(fragment.path, row), place)
                    yield block if source.evaluation else block.take(pa.array(random.permutation(len(block))))

    def day(self, day: str) -> Input:
        days = DayRange.model_validate({"start": day, "end": day})
        config = self.config.model_copy(update={"data": self.config.data.model_copy(update={"eval": days})})
        return Input(plan_input(config, "eval"), True)

    def logits(self, day: str) -> list[torch.Tensor]:
        """The model's own logits of all rows [N, O], their labels and whether these count [N, O], and scenarios [N]."""
        ranker, parts = self.state.model.module.head.ranker, []
        for batch, logits in self.trainer._scored(self.day(day), None):
            labels, observed = output_labels(batch.labels, batch.observed, [*ranker.tasks], ranker.outputs.derived)
            parts.append([t[batch.valid] for t in (logits, labels, observed, batch.scenario)])
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def auc_changes(self, rows: list[torch.Tensor], output: str) -> list[float]:
        """The change of the exact AUC over all rows, and the largest within a scenario."""
        ranker = self.state.model.module.head.ranker
        logits, labels, observed, scenario = rows
        column = [*ranker.tasks, *ranker.outputs.derived].index(output)
        with torch.no_grad():
            both = (logits[:, column].double(), ranker.calibrator(logits, scenario)[:, column].double())
        parts = [observed[:, column] & (scenario == s) for s in range(len(SCENARIOS))]
        changes = []
        for part in (observed[:, column], *parts):
            before, after = (roc_auc_score(labels[part, column], a[part]) for a in both)
            changes.append(after - before)
        return [changes[0], max(changes[1:], key=abs)]

    def recalibrate(self, options: Calibration) -> None:
        """Give the model another calibrator, which changes nothing yet."""
        ranker = self.state.model.module.head.ranker
        multiplies = self.config.multiplies_labels()
        ranker.calibrator = Calibrator(options, ranker.tasks, ranker.outputs.derived, multiplies, len(SCENARIOS))
        config = self.config.model_copy(update={"calibration": options})
        self.trainer._calibration = Recalibration(config, ranker, torch.device("cpu"))


def recalibration(rows: int, seeds: int, coupler: str) -> None:
    lines: dict[tuple[str, str, str], list[list[float]]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            for n, day in enumerate(DAYS):
                write_file(Path(folder) / "logs", day_of(rows, n, seed, SHIFT if day in DAYS[2:] else 0 * SHIFT), day)
            model = Trained(config_of(f"{folder}/logs", rows, None, True, coupler))
            following = model.logits(FOLLOWING)
            for options in ({"by": "all"}, {"by": "scenario"}, {"method": "isotonic", "by": "scenario"}):
                model.recalibrate(Calibration.model_validate(options))
                model.trainer.calibrate(model.day(FITTED))
                for day in (FITTED, FOLLOWING):
                    found = model.trainer.measure(model.day(day), unseen=day == FOLLOWING)
                    print(seed, options, day, found["calibration"], file=sys.stderr, flush=True)
                    name = f"{options.get('method', 'platt')} by {options['by']}"
                    for output, entry in found["calibration"].items():
                        before, after, chance = (entry["scenario_error"][key] for key in ("before", "after", "chance"))
                        errors = [before, after, after - before, chance]
                        change = model.auc_changes(following, output) if day == FOLLOWING else [float("nan")] * 2
                        losses = [entry[side]["logloss"] for side in ("before", "after")]
                        lines.setdefault((name, output, day), []).append(
                            [*errors, *losses, losses[1] - losses[0], *change]
                        )
    print(
        f"coupler {coupler}: means of {seeds} seeds with 95 % intervals; ECE is the mean over scenarios by their rows"
    )
    print(
        "map | output | day | ECE before | after | change | chance | log loss before | after | change | AUC change | largest "
        "within a scenario"
    )
    for (name, output, day), values in lines.items():
        *columns, worst = zip(*values, strict=True)
        cells = [name, output, "fitted" if day == FITTED else "following", *(with_interval(list(c)) for c in columns)]
        largest = "-" if any(np.isnan(worst)) else f"{max(worst, key=abs):+.1e}"
        print(" | ".join([*cells, largest]))


def sampling(rows: int, seeds: int) -> None:
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            for n, day in enumerate(DAYS[:3]):
                write_file(Path(folder) / "complete", day_of(rows, n, seed, 0 * SHIFT), day)
            runs: list[tuple[str, float]] = [("complete logs", 1.0)]
            runs += [(method, rate) for rate in (0.1, 0.01) for method in ("weights", "no correction", "log(rate)")]
            model: Trained | None = None
            kept = 0
            for method, rate in runs:
                path = f"{folder}/complete" if rate == 1 else f"{folder}/sampled-{rate}"
                if method == "weights":
                    kept = _sample(folder, rate, seed)
                if method != "log(rate)":
                    column = {"column": "kept"} if method == "weights" else None
                    count = 2 * rows if rate == 1 else kept
                    model = Trained(config_of(path, count, column, False, "none", f"{folder}/complete"))
                else:
                    assert model is not None
                    model.recalibrate(Calibration())
                    model.state.model.module.head.ranker.calibrator.maps[..., 1] = np.log(rate)
                assert model is not None
                result = model.trainer.measure(model.day(FITTED), unseen=True)
                for task, report in result["tasks"].items():
                    print(seed, method, rate, task, report["calibration"], report["auc"], file=sys.stderr, flush=True)
                    found.setdefault((method, f"{rate:g}", task), []).append((report["calibration"], report["auc"]))
    print(f"means of {seeds} seeds with 95 % intervals: predictions / labels of complete logs, and AUC")
    for (method, rate, task), values in found.items():
        ratio, auc = (with_interval(list(column)) for column in zip(*values, strict=True))
        print(f"{method} | {rate} | {task} | {ratio} | {auc}")


def with_interval(values: list[float]) -> str:
    """The mean, and its interval if there are several values; a dash if they were not measured."""
    if any(np.isnan(values)):
        return "-"
    found = mean_interval(values)
    return f"{found.mean:.4f}" + (f" ± {found.half:.4f}" if found.half is not None else "")


def _sample(folder: str, rate: float, seed: int) -> int:
    """Write the training days with negatives kept at a rate; returns the rows kept."""
    kept_rows = 0
    for n, day in enumerate(TRAIN):
        table = pq.read_table(f"{folder}/complete/ds={day}", partitioning=None)
        click = table.column("click").to_numpy() == 1
        kept = click | (np.random.default_rng([seed, n, 9]).random(len(table)) < rate)
        rates = pa.array(np.where(click, 1, rate).astype(np.float32))
        table = table.set_column(table.column_names.index("kept"), "kept", rates).filter(pa.array(kept))
        write_file(Path(folder) / f"sampled-{rate}", table, day)
        kept_rows += len(table)
    return kept_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["recalibration", "sampling"])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--coupler", default="none", choices=["none", "product"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if options.what == "sampling":
        sampling(options.rows, options.seeds)
    else:
        recalibration(options.rows, options.seeds, options.coupler)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
