"""The records of the trials of a search: one file per trial, written before the trial starts and after each of its reports.

The files hold the complete state of a search. After a crash, the same command reads them and resumes: finished trials are
kept, running trials resume from their checkpoints, and the sampler learns from the files.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from raymtl.errors import CheckpointError
from raymtl.training.rundir import RunFolder

TRIALS = "trials"
Kind = Literal["default", "structure", "search", "repeat"]
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass
class Trial:
    """One trial."""

    number: int
    kind: Kind
    params: dict[str, Any]
    """The sampled parameters."""
    fields: dict[str, Any]
    """The fields that differ from the default configuration, by dotted path."""
    config: dict[str, Any]
    """The complete configuration."""
    seed: int
    of: int | None = None
    """The trial that this one repeats with another seed."""
    status: Status = "running"
    reason: str | None = None
    """Why it failed, or was stopped."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """`{rows, metrics}` of every evaluation."""
    rows: int = 0
    """Rows trained on."""
    train_seconds: float = 0.0
    """Time in training steps and evaluations, over all starts."""
    start_seconds: float = 0.0
    """Time to get ready (process, model, checkpoint), over all starts."""
    starts: int = 0
    """How often it was started or resumed."""
    from_scratch: int = 0
    """How many of these started at row 0 and reached a checkpoint; never more than one."""
    processes: list[str] = field(default_factory=list)
    """Host and process number of every start; for a trial with several workers, those of the process that watches them."""
    rungs: dict[str, Any] = field(default_factory=dict)
    """State of the stopping rule."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """State of the sampler."""

    @property
    def metrics(self) -> dict[str, Any] | None:
        """Those of its last evaluation."""
        return self.history[-1]["metrics"] if self.history else None

    @property
    def ended(self) -> bool:
        return self.status != "running"


def trial_name(number: int) -> str:
    """Its file's name without the ending, and its folder's."""
    return f"{number:04d}"


def must_stop(folder: RunFolder, number: int) -> bool:
    """Whether the record of a trial says that it must stop."""
    text = folder.read_text(f"{TRIALS}/{trial_name(number)}.json")
    return text is None or json.loads(text)["status"] != "running"


class TrialStore:
    """The trials of a search, in memory and in `<search>/trials`."""

    def __init__(self, folder: RunFolder):
        """Read the records. Raises CheckpointError if a file is damaged."""
        self.folder = folder
        self.trials: dict[int, Trial] = {}
        for name in folder.names(TRIALS):
            if not name.endswith(".json"):
                continue
            text = folder.read_text(f"{TRIALS}/{name}")
            try:
                trial = Trial(**json.loads(text or ""))
            except (ValueError, TypeError) as error:
                raise CheckpointError(
                    f"`{folder.path_of(f'{TRIALS}/{name}')}` is damaged ({error}); remove it to run the trial again"
                ) from error
            self.trials[trial.number] = trial

    def add(self, trial: Trial) -> None:
        """Add a new trial."""
        self.trials[trial.number] = trial
        self.save(trial)

    def save(self, trial: Trial) -> None:
        """Write the record of a trial."""
        self.folder.write(f"{TRIALS}/{trial_name(trial.number)}.json", json.dumps(asdict(trial)))

    def next_number(self) -> int:
        return max(self.trials, default=-1) + 1

    @property
    def default(self) -> Trial | None:
        """The trial of the default configuration."""
        return next(iter(self.of_kind("default")), None)

    def of_kind(self, *kinds: Kind) -> list[Trial]:
        return [t for t in self.trials.values() if t.kind in kinds]


def compact_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation without curves and scenarios: what a search compares and shows."""
    tasks = {
        task: {k: v for k, v in found.items() if v is None or isinstance(v, int | float | str)}
        for task, found in metrics["tasks"].items()
    }
    kept = {k: metrics.get(k) for k in ("mean_auc", "order_violation_rate", "rows")}
    return {"tasks": tasks, **kept}
