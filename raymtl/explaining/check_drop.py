"""What dropping columns really costs: trainings with and without them, on the same days and with the same seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raymtl.config.base import Section
from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.explaining.meter import headline_of
from raymtl.explaining.proposal import without
from raymtl.explaining.run import Request, days_of, words_of
from raymtl.intervals import mean_interval
from raymtl.reports.chance import interval_of
from raymtl.reports.compare import write_comparison
from raymtl.serving.version import open_version
from raymtl.training import driver
from raymtl.training.rundir import run_folder


@dataclass(frozen=True)
class DropCheck:
    """How to check a proposal."""

    output: str
    """Folder of the runs."""
    seeds: int
    train: DayRange | None
    """Days to train on; None: those of the version."""
    address: str | None

    def days(self, request: Request) -> tuple[DayRange, DayRange]:
        """The days to train and to evaluate on. Raises ConfigError if they overlap."""
        version = open_version(request.version, request.allow_custom)
        first, last = version.manifest.data_range["train"]
        train = self.train or DayRange.model_validate({"start": first, "end": last})
        evaluated = days_of(request, version)
        if train.start <= evaluated.end and evaluated.start <= train.end:
            raise ConfigError(
                f"--check would train on {words_of(train)} and evaluate on {words_of(evaluated)}, which overlap; set "
                "--train-days or --days"
            )
        return train, evaluated

    def run(self, request: Request, result: dict[str, Any], on_event: "OnEvent | None") -> dict[str, Any]:
        """The result with the trainings as its `check`; as it is if nothing is proposed to be dropped."""
        columns = [*result["proposal"]["useless"], *result["proposal"]["redundant"]]
        if not columns:
            return result
        version = open_version(request.version, request.allow_custom)
        train, evaluated = self.days(request)
        made = check_drop(
            version.config,
            columns,
            path=result["data"],
            train=train,
            evaluated=evaluated,
            output=self.output,
            seeds=self.seeds,
            address=self.address,
            on_event=on_event,
        )
        return {**result, "check": made}


OnEvent = Callable[[dict[str, Any]], None]


def check_drop(
    config: Config,
    columns: Sequence[str],
    *,
    path: str | list[str],
    train: DayRange,
    evaluated: DayRange,
    output: str,
    seeds: int,
    address: str | None,
    on_event: OnEvent | None,
) -> dict[str, Any]:
    """Train with and without the columns, once per seed, and compare; `output` gets the runs `with-<seed>` and `without-<seed>`.

    The same call resumes what was interrupted. With one seed the interval is that of two runs on rows of their own.
    """
    data = {"path": path, "train": train, "eval": evaluated, "eval_path": None, "eval_snapshot": None, "snapshot": None}
    found: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
    runs = []
    for seed in range(seeds):
        for kind, changed in (("with", config), ("without", without(config, columns))):
            one = _updated(changed, name=f"{kind}-{seed}", output=output)
            one = one.model_copy(update={"data": _updated(one.data, **data), "train": _updated(one.train, seed=seed)})
            found[kind].append(driver.train(one, address=address, on_event=on_event)["metrics"]["eval"])
            runs.append(run_folder(one))
    return {
        "columns": list(columns),
        "train": [str(train.start), str(train.end)],
        "eval": [str(evaluated.start), str(evaluated.end)],
        "seeds": seeds,
        "tasks": {
            name: _difference(headline_of(task).name, found["with"], found["without"], name)
            for name, task in config.active_tasks().items()
        },
        "runs": runs,
        "comparison": write_comparison(runs[:2], f"{output}/comparison.html")[0],
    }


def _updated(section: Section, **changes: Any) -> Any:
    return section.model_copy(update=changes)


def _difference(metric: str, kept: Sequence[dict], dropped: Sequence[dict], task: str) -> dict[str, Any]:
    """The metric of a task with and without the columns, and the interval of the difference."""
    pairs = [(a[task].get(metric), b[task].get(metric)) for a, b in zip(kept, dropped, strict=True)]
    if any(a is None or b is None for a, b in pairs):
        return {"metric": metric, "with": None, "without": None, "change": None, "low": None, "high": None}
    mean = mean_interval([b - a for a, b in pairs])
    half = mean.half if mean.half is not None else _half(kept[0][task], dropped[0][task], metric)
    return {
        "metric": metric,
        "with": sum(a for a, _ in pairs) / len(pairs),
        "without": sum(b for _, b in pairs) / len(pairs),
        "change": mean.mean,
        "low": None if half is None else mean.mean - half,
        "high": None if half is None else mean.mean + half,
    }


def _half(a: dict[str, Any], b: dict[str, Any], metric: str) -> float | None:
    ends = [interval_of(report, metric) for report in (a, b)]
    if ends[0] is None or ends[1] is None:
        return None
    return math.hypot(*((high - low) / 2 for low, high in (ends[0], ends[1])))
