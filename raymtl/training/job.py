"""What the driver sends to the workers of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raymtl.config.root import Config
from raymtl.data.read import Input
from raymtl.training.rundir import RunFolder


@dataclass
class Job:
    """What the driver sends to every worker."""

    config: Config
    inputs: dict[str, Input]
    """What to read, by name: `train`, `eval`."""
    base_rates: Mapping[str, float]
    run_dir: RunFolder
    event_queue: Any
    """Handle of the driver's `EventQueue`, or None."""
    read_tasks: int | None
    """Reading tasks at a time; None: depends on what is free when reading starts."""
    threads: int
    config_hash: str
    dealers: list[Any] = field(default_factory=list)
    """The dealers of the streams, if the driver has started them; see `data.dealer`."""
    evaluate_checkpoint: str | None = None
    """Only evaluate this checkpoint folder, do not train."""
    stop_decider: Any = None
    """Handle of a `StopDecider`, which decides at every evaluation whether to continue, or None."""
    stop_check_units: frozenset[int] = frozenset()
    """Evaluate for the `stop_decider` after these units, counted over all epochs."""

    @property
    def run(self) -> str:
        """Name of the run in metrics and log lines."""
        return self.config.name
