"""What differs between two versions of a model, by their manifests and their metrics."""

from dataclasses import dataclass
from typing import Any

from raymtl.model_store.manifest import Manifest
from raymtl.words import count_of


@dataclass(frozen=True)
class MetricPair:
    """The metrics of two versions, and the rows that they were measured on."""

    a: dict[str, Any]
    b: dict[str, Any]
    rows: str
    """In words."""
    same: bool
    """Whether these are the same rows: if not, a difference says little about the versions."""


@dataclass(frozen=True)
class Difference:
    """How version `b` differs from `a`; `old` or `new` of a pair is None if the value is missing."""

    a: str
    b: str
    config: dict[str, tuple[Any, Any]]
    """By dotted key."""
    metrics: dict[str, tuple[Any, Any]]
    """Metrics of either version, by dotted key; no curves."""
    metric_rows: str
    """The rows that they were measured on, in words."""
    same_rows: bool
    """Whether those of both versions are the same."""
    tables: dict[str, tuple[Any, Any]]
    """Rows, width, ID space and optimizer of tables that differ, by `table.key`."""
    counts: dict[str, tuple[Any, Any]]
    """Rows, steps, bytes."""
    data: dict[str, tuple[Any, Any]]
    """Days, and versions of the code."""


def diff(a: Manifest, b: Manifest, measured: MetricPair | None = None) -> Difference:
    """What changed from version `a` to version `b`.

    Args:
        measured: their metrics on the same rows; None: those of the manifests, whose rows may differ.
    """
    pair = measured or MetricPair(a.metrics, b.metrics, *_metric_rows(a, b))

    def table(manifest: Manifest) -> dict[str, Any]:
        keys = ("rows", "dim", "id_space", "optimizer")
        return {f"{name}.{key}": getattr(t, key) for name, t in manifest.tables.items() for key in keys}

    def facts(manifest: Manifest) -> dict[str, Any]:
        days = {part: "..".join(dict.fromkeys(days)) for part, days in manifest.data_range.items()}
        return {"days": days, "code": manifest.code, "base_rates": manifest.base_rates}

    return Difference(
        a.id,
        b.id,
        _changes(_flat(a.config), _flat(b.config)),
        _changes(_numbers(pair.a), _numbers(pair.b)),
        pair.rows,
        pair.same,
        _changes(table(a), table(b)),
        _changes({**a.counts, "bytes": a.total_bytes}, {**b.counts, "bytes": b.total_bytes}),
        _changes(_flat(facts(a)), _flat(facts(b))),
    )


def _metric_rows(a: Manifest, b: Manifest) -> tuple[str, bool]:
    """The rows that the metrics of two manifests are about, in words, and whether they are the same."""

    def rows(manifest: Manifest) -> str:
        part = "eval" if "eval" in manifest.data_range else "train"
        days = "..".join(dict.fromkeys(manifest.data_range[part]))
        count = count_of(manifest.metrics.get("rows", 0), "row" if part == "eval" else "held-out row")
        snapshot = f" (snapshot {manifest.snapshots[part]})" if part in manifest.snapshots else ""
        return f"{count} of {days}{snapshot}"

    if rows(a) == rows(b):
        return f"both on {rows(a)}", True
    return f"not on the same rows: {rows(a)}, and {rows(b)}", False


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _flat(metrics).items() if not isinstance(value, list)}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{path}.{key}" if path else str(key))
        return found
    return {path: value}


def _changes(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [*a, *(key for key in b if key not in a)]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}
