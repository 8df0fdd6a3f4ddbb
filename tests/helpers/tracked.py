"""A tracker that keeps what it gets, and fails or hangs when told to."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from raymtl.tracking.tracker import Outcome, Sample, Tracker


class Keeper(Tracker):
    """The run as a tracker would show it."""

    title = "Keeper"

    def __init__(self, fails: int = 0, hangs: bool = False, refuses_config: bool = False):
        """`fails`: so many calls, after the first, raise an error."""
        self.fails, self.calls, self.refuses_config = fails, 0, refuses_config
        self.names: list[str] = []
        self.known: list[str | None] = []
        self.config: list[dict[str, Any]] = []
        self.values: dict[str, dict[int, float]] = {}
        self.batches: list[int] = []
        self.facts: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.outcome: Outcome | None = None
        self.threads: set[str] = set()
        self._hangs = threading.Event()
        self._until_told = hangs

    def _call(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls += 1
        if self._until_told:
            self._hangs.wait()
        if 1 < self.calls <= 1 + self.fails:
            raise ConnectionRefusedError(111, "Connection refused")

    def go_on(self) -> None:
        """Hang no longer."""
        self._until_told = False
        self._hangs.set()

    def start(self, name: str, known: str | None) -> str:
        self._call()
        self.names.append(name)
        self.known.append(known)
        return known or "id-1"

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._call()
        if self.refuses_config:
            raise ValueError("the parameter is too long")
        self.config.append(dict(config))

    def log(self, samples: Sequence[Sample]) -> None:
        self._call()
        self.batches.append(len(samples))
        for sample in samples:
            for tag, value in sample.values.items():
                assert sample.step not in self.values.setdefault(tag, {}), f"{tag} of step {sample.step} twice"
                self.values[tag][sample.step] = value

    def add_facts(self, facts: Mapping[str, str]) -> None:
        self._call()
        self.facts |= facts

    def add_file(self, name: str, text: str) -> None:
        self._call()
        self.files[name] = text

    def refuses(self, error: Exception) -> bool:
        return isinstance(error, ValueError)

    def finish(self, outcome: Outcome) -> None:
        self._call()
        self.outcome = outcome


def train_record(step: int, **more: Any) -> dict[str, Any]:
    """A line of `metrics.jsonl` after a window of steps."""
    window = {
        "loss": 1.5,
        "rows_per_s": 100.0,
        "data_wait": 0.1,
        "fill": 1.0,
        "lr": 0.01,
        "order": 0.0,
        "bound": 0.0,
        "conversion": 0.0,
    }
    losses = {"click": 0.5 + step / 100, "buy": 1.0}
    return {"kind": "train", "step": step, "rows": 64 * step, "losses": losses, "time": 1e9 + step, **window, **more}


def eval_record(step: int) -> dict[str, Any]:
    """A line of `metrics.jsonl` after an evaluation."""
    tasks = {"click": {"auc": 0.7, "auc_interval": [0.6, 0.8], "kind": "binary", "gauc": None, "is_odd": True}}
    return {"kind": "eval", "step": step, "metrics": {"tasks": tasks}, "time": 1e9 + step}
