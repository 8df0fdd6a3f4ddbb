"""What a run was trained with and how far it came, for the top of its page and for comparisons."""

from typing import Any

from raymtl.reports.load import Run
from raymtl.reports.style import count
from raymtl.words import count_of

RATE, TABLES_RATE = "learning rate", "learning rate of tables"


def settings(run: Run) -> dict[str, str]:
    """The fields to know first, by name; without those that the folder does not tell."""
    result, train = run.result or {}, run.config.get("train") or {}
    preset = (run.config.get("model") or {}).get("preset")
    workers, epochs = result.get("workers", train.get("workers")), train.get("epochs")
    found = {
        "preset": (preset or "none, own slots") if run.config else None,
        "batch": count(train["batch_size"]) if train.get("batch_size") else None,
        RATE: _optimizer(train.get("dense_optimizer")),
        TABLES_RATE: _optimizer(train.get("sparse_optimizer")),
        "epochs": str(epochs) if epochs is not None else None,
        "workers": str(workers) if workers is not None else None,
        "precision": result.get("precision", train.get("precision")),
    }
    return {name: text for name, text in found.items() if text is not None}


def settings_line(run: Run) -> str:
    """The same as one line: preset mmoe · batch 2,048 · learning rates adam 0.005, tables adagrad 0.05 · 1 epoch · 2 workers."""
    found = settings(run)
    words = [f"{name} {found[name]}" for name in ("preset", "batch") if name in found]
    rates = [found[RATE], *([f"tables {found[TABLES_RATE]}"] if TABLES_RATE in found else [])] if RATE in found else []
    words += [f"learning rates {', '.join(rates)}"] if rates else []
    words += [count_of(int(found[name]), name[:-1]) for name in ("epochs", "workers") if name in found]
    return " · ".join([*words, *([found["precision"]] if "precision" in found else [])])


def _optimizer(section: Any) -> str | None:
    """Its type and its learning rate."""
    if not isinstance(section, dict) or "lr" not in section:
        return None
    return f"{section.get('type', '')} {section['lr']:g}".strip()


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
