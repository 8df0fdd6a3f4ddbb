"""What a tracker must do: the interface between a run and MLflow or Weights & Biases."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class Sample:
    """The scalars of one log line or evaluation."""

    step: int
    time: float
    """Seconds since 1970, UTC."""
    values: Mapping[str, float]


class Tracker(ABC):
    """One run in one tracker. A method may raise any exception and is then called again: `RunTracking` handles both."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Its name and address in sentences, without a password."""

    @abstractmethod
    def start(self, name: str, known: str | None) -> str:
        """Create a run, or reopen the run with the ID `known`; returns its ID. Called once more after a failure."""

    @abstractmethod
    def log_config(self, config: Mapping[str, Any]) -> None:
        """The configuration of a run that was created."""

    @abstractmethod
    def log(self, samples: Sequence[Sample]) -> None:
        """The scalars since the last call."""

    @abstractmethod
    def add_facts(self, facts: Mapping[str, str]) -> None:
        """Where the run comes from and what became of it; later values replace earlier ones."""

    @abstractmethod
    def add_file(self, name: str, text: str) -> None:
        """A file of the run."""

    @abstractmethod
    def finish(self, outcome: Outcome) -> None:
        """The run has ended."""

    def refuses(self, error: Exception) -> bool:
        """Whether an error means that a second call would fail too, whatever the state of the tracker."""
        return False


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A configuration by dotted key; lists are values."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        here = f"{path}.{key}" if path else str(key)
        found |= flat(value, here) if isinstance(value, Mapping) and value else {here: value}
    return found
