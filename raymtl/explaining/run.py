"""`raymtl explain`: load a version, sample rows, and measure what its columns are worth."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymtl.config.data import DayRange, as_roots
from raymtl.errors import ConfigError
from raymtl.explaining.fall import explain_fall
from raymtl.explaining.importance import OnCount
from raymtl.explaining.model import LoadedModel
from raymtl.explaining.result import Explanation, falls_to_dict
from raymtl.explaining.sample import SampleReader, source_columns
from raymtl.serving.version import Version, open_version
from raymtl.storage.folder import Folder
from raymtl.words import count_of

ROWS = 200_000
_SEED = 0


@dataclass(frozen=True)
class Request:
    """What to explain."""

    version: str
    data: str | None = None
    """The logs; None: those of the version's configuration."""
    days: DayRange | None = None
    """None: the days that the version was evaluated on."""
    baseline: DayRange | None = None
    """Earlier days: explain the fall of the metrics since then."""
    rows: int = ROWS
    seed: int = _SEED
    allow_custom: bool = False


def explain(
    request: Request,
    notify: Callable[[str], None] = lambda line: None,
    on_count: OnCount = lambda done, of: None,
) -> dict[str, Any]:
    """What the version's columns are worth and cost, and what to drop: an `ExplainResult` of `raymtl/results.py`.

    Raises VersionError, DataError or ConfigError if something is missing or wrong.
    """
    began = time.monotonic()
    version = open_version(request.version, request.allow_custom)
    config, path = version.config, request.data or version.config.data.path
    days = days_of(request, version)
    if request.baseline is not None and request.baseline.end >= days.start:
        raise ConfigError(
            f"--baseline is {request.baseline}, which is not before the days to explain, {days}; choose earlier days"
        )
    for root in as_roots(path):
        said = "--data" if request.data else "the version's data.path"
        Folder.open(root).check_exists(said, "pass the folder of the logs with --data")
    reader = SampleReader(config, {})
    plan = reader.plan(path, days)
    earlier = None if request.baseline is None else reader.plan(path, request.baseline)
    notify(
        f"reading version {version.manifest.id}, and {count_of(min(request.rows, plan.rows), 'row')} of {words_of(days)}"
    )
    model = LoadedModel(version)
    reader = SampleReader(config, model.maps)
    sample = reader.read(plan, request.rows, request.seed)
    notes, fall, broken = _notes(version, days, request.baseline), None, []
    if earlier is not None and request.baseline is not None:
        notify(f"comparing with {words_of(request.baseline)}")
        before = reader.read(earlier, request.rows, request.seed)
        falls = explain_fall(model, reader, before, sample, list(source_columns(config)), request.seed, on_count)
        ends = [str(request.baseline.start), str(request.baseline.end)]
        fall = {"baseline": ends, **falls_to_dict(config, falls, before, sample)}
        broken = list(dict.fromkeys(cause.column for fall in falls for cause in fall.causes))
    if broken:
        notes.append(
            f"On {words_of(days)}, {', '.join(broken)} {'has' if len(broken) == 1 else 'have'} lost worth, so the importances "
            "here do not tell what the columns are worth otherwise: explain the days before to decide what to drop."
        )
    found = Explanation.of(model, reader, sample, plan, broken, request.seed, on_count)
    result = {
        "version": version.manifest.id,
        "store": version.store.path,
        "data": path,
        "days": [str(days.start), str(days.end)],
        "rows": sample.rows,
        "rows_of_days": plan.rows,
        "groups": len(np.unique(sample.group.numpy())) if config.data.group else None,
        "seed": request.seed,
        "notes": notes,
        **found.to_dict(),
        "fall": fall,
        "check": None,
    }
    return {**result, "seconds": round(time.monotonic() - began, 1)}


def days_of(request: Request, version: Version) -> DayRange:
    """The days to explain. Raises ConfigError if none are given and the version was evaluated on none."""
    if request.days is not None:
        return request.days
    ends = version.manifest.data_range.get("eval")
    if ends is None:
        raise ConfigError(
            f"version {version.manifest.id} was evaluated on no days; set --days to days after {version.manifest.data_end}, the "
            "last one that it was trained on"
        )
    return DayRange.model_validate({"start": ends[0], "end": ends[1]})


def _notes(version: Version, days: DayRange, baseline: DayRange | None) -> list[str]:
    """What makes the numbers too good."""
    first, last = version.manifest.data_range["train"]
    notes = []
    if str(days.start) <= last and str(days.end) >= first:
        notes.append(
            f"The version was trained on days up to {last}, so it knows rows of {words_of(days)}: the importances are too high, "
            "most of all those of IDs."
        )
    if baseline is not None and str(baseline.start) <= last and str(baseline.end) >= first:
        notes.append(
            f"The version was trained on days up to {last}, so it knows rows of {words_of(baseline)}, the days to compare with: "
            "part of the fall is that. Choose an older version or later days."
        )
    return notes


def words_of(days: DayRange) -> str:
    """Days in words."""
    return str(days.start) if days.start == days.end else f"{days.start} to {days.end}"
