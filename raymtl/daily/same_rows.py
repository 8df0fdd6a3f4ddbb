"""Metrics of two versions on the same rows: a day measures its version and older ones on its held-out rows."""

import datetime as dt
from contextlib import suppress
from typing import Any

from raymtl.daily.record import Record, read_record
from raymtl.errors import StorageError
from raymtl.model_store.difference import MetricPair
from raymtl.model_store.manifest import Manifest
from raymtl.storage.object_store import Store
from raymtl.words import count_of


def on_same_rows(store: Store, a: Manifest, b: Manifest) -> MetricPair | None:
    """The metrics of two versions out of the day's record of either; None: no day has measured both."""
    for day in dict.fromkeys([b.data_end, a.data_end]):
        record = _record(store, day)
        if record is None or record.gate is None:
            continue
        found = _measured(record)
        if a.id in found and b.id in found:
            rows = f"both on {count_of(record.gate.holdout_rows, 'held-out row')} of {day}"
            return MetricPair(found[a.id], found[b.id], rows, same=True)
    return None


def _record(store: Store, day: dt.date) -> Record | None:
    with suppress(StorageError):  # damaged; the command that needs the day says so
        return read_record(store, day)
    return None


def _measured(record: Record) -> dict[str, dict[str, Any]]:
    """By version, the metrics on the day's held-out rows."""
    assert record.gate is not None
    found = {comparison.version: comparison.metrics for comparison in record.comparisons}
    if record.parent is not None and record.gate.base is not None:
        found[record.parent] = record.gate.base
    if record.version is not None:
        found[record.version] = record.gate.candidate
    # not all have those by scenario
    return {version: {k: v for k, v in metrics.items() if k != "scenarios"} for version, metrics in found.items()}
