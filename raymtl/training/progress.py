"""How far a run has come, as its checkpoints record it."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from raymtl.errors import CheckpointError
from raymtl.storage.filesystem import open_filesystem, read_all
from raymtl.storage.paths import join_path
from raymtl.storage.retry import retry

PROGRESS = "progress.json"


@dataclass
class Progress:
    """Progress of a run; all counts are over all workers."""

    epoch: int = 0
    """Current epoch, from 0."""
    units_done: int = 0
    """Units of that epoch that are completely trained on, in the order of the epoch."""
    step: int = 0
    """Steps in all epochs."""
    rows: int = 0
    """Rows trained on in all epochs."""
    train_seconds: float = 0.0
    """Time in training steps, over all starts of the run."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """`{step, rows, epoch, units, score, metrics}` of every evaluation so far."""
    plan: str = ""
    """Identity of the plan of the input."""
    starts: int = 0
    """Times that the run was started or recovered."""
    finished: bool = False
    """Training has ended: after the last epoch, or by an early stop."""

    @property
    def score(self) -> float:
        """Score of the evaluation at this step, higher is better; -inf without one."""
        last = self.evaluations[-1] if self.evaluations else {}
        return last["score"] if last.get("step") == self.step and last["score"] is not None else -math.inf


def read_progress(folder: str) -> Progress:
    """The progress of a checkpoint; CheckpointError if the folder is not a checkpoint."""
    filesystem, inner = open_filesystem(folder)
    path = join_path(folder, PROGRESS)
    try:
        return Progress(**json.loads(retry(lambda: read_all(filesystem, f"{inner}/{PROGRESS}"))))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"`{folder}` is not a raymtl checkpoint: it has no {PROGRESS}; name another folder"
        ) from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"`{path}` is damaged ({error}); name another checkpoint of the run") from error
