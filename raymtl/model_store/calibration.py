"""The maps of recalibration in a version: part of its dense weights, but no part of the model that a version must fit.

So `calibration` may be added to a daily job, changed, or removed, and training still starts from the current version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raymtl.config.root import Config
from raymtl.model_store.manifest import Manifest

_MAPS = "head.ranker.calibrator."
_SHAPING = ("method", "by", "tasks")
"""Keys of `calibration` that determine which maps there are."""


@dataclass(frozen=True)
class Maps:
    """How the maps of a version relate to those of a configuration."""

    are_same: bool
    """Whether they are maps of the same outputs and scenarios, so that those of the version can be loaded."""
    notes: list[str]
    """A sentence if those of the version are left out."""

    @classmethod
    def of(cls, config: Config, version: Manifest) -> "Maps":
        """Compare the maps of a configuration with those of a version."""
        plain = config.model_dump(mode="json")
        are_same = _described(plain) == _described(version.config)
        notes = []
        if not are_same and version.config.get("calibration"):
            notes.append(
                f"version {version.id} was recalibrated with another `calibration`; here its predictions are the model's own"
            )
        return cls(are_same, notes)

    def kept(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights to compare and to load: with the maps only if both have the same."""
        return {name: value for name, value in weights.items() if self.are_same or not name.startswith(_MAPS)}


def _described(config: Mapping[str, Any]) -> Any:
    """What the maps of a configuration, as plain values, are of; None: it has none."""
    own = config.get("calibration")
    if not own:
        return None
    data = config["data"]
    scenarios = data["scenario"] and data["scenario"]["values"]
    return [own.get(key) for key in _SHAPING], scenarios, config["tasks_subset"], list(config["tasks"])
