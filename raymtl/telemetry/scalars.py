"""The scalars of a record of `metrics.jsonl`, by the names that TensorBoard and the trackers show."""

from collections.abc import Mapping
from typing import Any

from raymtl.telemetry.events import Event

_WINDOW = ("loss", "rows_per_s", "data_wait", "fill", "lr", "order", "bound", "conversion", "arrival")


def scalars(record: Event) -> dict[str, float]:
    """Those of a window of training steps or of an evaluation; none for any other event."""
    kind = record.get("kind")
    if kind == "eval":
        return task_scalars("eval", record["metrics"]["tasks"])
    if kind != "train":
        return {}
    found = {f"train/{key}": record[key] for key in _WINDOW if key in record}
    # `weights` and the cosines are of `train.balance`
    for key, tag in (("losses", "loss"), ("weights", "weight"), ("gradient_cosine", "cosine")):
        found |= {f"train/{tag}/{name}": value for name, value in record.get(key, {}).items()}
    if "gradient_conflict" in record:
        found["train/gradient_conflict"] = record["gradient_conflict"]
    if (experts := record.get("experts")) is not None:
        for name, gates in experts["gates"].items():
            found |= {f"train/gate/{name}/{number}": gate for number, gate in enumerate(gates, 1)}
        found |= {f"train/gate_entropy/{name}": value for name, value in experts["entropy"].items()}
        found["train/dead_experts"] = experts["dead"]
    return found


def task_scalars(group: str, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The single numbers among the metrics of each task."""
    return {
        f"{group}/{task}/{key}": value
        for task, metrics in tasks.items()
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
