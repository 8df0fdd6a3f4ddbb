"""One version on two days: which columns explain that a metric is lower on the second one."""

from collections.abc import Sequence
from typing import Any

from raymtl.config.data import DayRange
from raymtl.explaining.fall import explain_fall
from raymtl.explaining.model import LoadedModel
from raymtl.explaining.result import falls_to_dict
from raymtl.explaining.sample import SampleReader, source_columns
from raymtl.serving.version import open_version


def compare_days(
    version: str,
    path: str | list[str],
    snapshot: int | None,
    before: DayRange,
    after: DayRange,
    rows: int,
    tasks: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """`fall` of what `raymtl.explain` returns, and the `version`; only the labels of `tasks` count."""
    model = LoadedModel(open_version(version, allow_custom=True))
    reader = SampleReader(model.config, model.maps)
    samples = [reader.read(reader.plan(path, days, snapshot), rows, seed, tasks) for days in (before, after)]
    falls = explain_fall(model, reader, samples[0], samples[1], list(source_columns(model.config)), seed)
    ends = [str(before.start), str(before.end)]
    return {
        "version": model.version.manifest.id,
        "baseline": ends,
        **falls_to_dict(model.config, falls, samples[0], samples[1]),
    }
