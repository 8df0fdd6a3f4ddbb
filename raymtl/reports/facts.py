"""What a run was trained with and how far it came, for the top of its page and for comparisons."""

from collections.abc import Mapping
from typing import Any

from raymtl.reports.chance import interval_of
from raymtl.reports.load import Run
from raymtl.reports.style import count, number, short_count
from raymtl.words import count_of

RATE, TABLES_RATE = "learning rate", "learning rate of tables"


def settings(run: Run) -> dict[str, str]:
    """The fields to know first, by name; without those that the folder does not tell."""
    return settings_of(run.config, run.result)


def settings_of(config: Mapping[str, Any], result: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The same of a configuration, as a mapping, and of what `result.json` holds."""
    result = result or {}
    train = config.get("train") or {}
    preset = (config.get("model") or {}).get("preset")
    workers, epochs = result.get("workers", train.get("workers")), train.get("epochs")
    found = {
        "preset": (preset or "none, own slots") if config else None,
        "batch": count(train["batch_size"]) if train.get("batch_size") else None,
        RATE: _optimizer(train.get("dense_optimizer")),
        TABLES_RATE: _optimizer(train.get("sparse_optimizer")),
        "epochs": str(epochs) if epochs is not None else None,
        "workers": str(workers) if workers is not None else None,
        "precision": result.get("precision", train.get("precision")),
    }
    return {name: text for name, text in found.items() if text is not None}


def settings_line(found: Mapping[str, str]) -> str:
    """Settings as one line: preset mmoe · batch 2,048 · learning rates adam 0.005, tables adagrad 0.05 · 1 epoch · 2 workers."""
    words = [f"{name} {found[name]}" for name in ("preset", "batch") if name in found]
    rates = [found[RATE], *([f"tables {found[TABLES_RATE]}"] if TABLES_RATE in found else [])] if RATE in found else []
    words += [f"learning rates {', '.join(rates)}"] if rates else []
    words += [count_of(int(found[name]), name[:-1]) for name in ("epochs", "workers") if name in found]
    precision = found.get("precision")  # auto: not chosen yet
    return " · ".join([*words, *([precision] if precision not in (None, "auto") else [])])


def _optimizer(section: Any) -> str | None:
    """Its type and its learning rate."""
    if not isinstance(section, dict) or "lr" not in section:
        return None
    return f"{section.get('type', '')} {section['lr']:g}".strip()


def auc_remark(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """What an AUC rests on, by the metrics of its tasks: the interval of a single task, or how many tasks its mean is over."""
    counts = [report.get("count") or 0 for report in reports.values()]
    rows = " to ".join(dict.fromkeys(short_count(end) for end in (min(counts), max(counts)))) + " rows"
    if len(reports) > 1:
        return f"mean of {count_of(len(reports), 'task')}, {rows}"
    ((task, report),) = reports.items()
    ends = interval_of(report, "auc")
    sure = f"95 % interval {number(ends[0])} to {number(ends[1])}" if ends else "no interval"
    return f"{task}, {sure}, {rows}"


def rows_trained(run: Run) -> float | None:
    """From the result, or from the last logged step."""
    return (run.result or {}).get("rows_trained", run.train[-1].get("rows") if run.train else None)


def steps(run: Run) -> float | None:
    """From the last logged step, or from the result."""
    return run.train[-1].get("step") if run.train else (run.result or {}).get("steps")


def rows_per_second(run: Run) -> float | None:
    """From the result, or the mean of the logged steps."""
    return (run.result or {}).get("rows_per_s", mean_of(run.train, "rows_per_s"))


def seconds(run: Run) -> tuple[float | None, str]:
    """How long the run took so far, and what that is measured by."""
    taken = (run.result or {}).get("seconds")
    if isinstance(taken, int | float):
        return taken, "from start to result"
    times = [line["time"] for line in run.train + run.evals if isinstance(line.get("time"), int | float)]
    return max(times) - min(times) if len(times) > 1 else None, "first to last logged line"


def mean_of(lines: list[dict[str, Any]], key: str) -> float | None:
    """The mean of a number of the log lines that have it."""
    found = [line[key] for line in lines if isinstance(line.get(key), int | float)]
    return sum(found) / len(found) if found else None
