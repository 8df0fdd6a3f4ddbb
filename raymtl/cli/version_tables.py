"""Versions as tables on the terminal."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.table import Table
from rich.text import Text

from raymtl.config.metrics import MEAN_AUC, METRICS, ORDER
from raymtl.model_store.difference import Difference
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.store import Listed
from raymtl.reports.style import number, percent, significant
from raymtl.reports.tables import headline, kind_of, show, with_interval
from raymtl.telemetry.output import FoldedTable
from raymtl.words import count_of, gib

ToText = Callable[[Any], str]


def list_table(versions: list[Listed]) -> Table:
    """One line per version, newest first."""
    table = FoldedTable("", "version", "data", "rows trained", "size", "parent", "published", "by", box=None, keys=2)
    for v in versions:
        mark = Text("" if v.status == "published" else v.status, style="bold green" if v.current else "yellow")
        if v.manifest is None:
            table.add_row(mark, v.id, Text("damaged", style="bold red"), "", "", "", v.published, v.by)
            continue
        days = "..".join(v.manifest.data_range["train"])
        rows = f"{v.manifest.counts['rows']:,}" if "rows" in v.manifest.counts else "–"
        table.add_row(mark, v.id, days, rows, gib(v.manifest.total_bytes), v.manifest.parent or "–", v.published, v.by)
    return table


def show_tables(manifest: Manifest, listed: Listed) -> list[Table | str]:
    """One version: its facts, then its tables."""
    rollback = listed.rolled_back
    facts = FoldedTable("", "", box=None, show_header=False)
    values = {
        "version": manifest.id,
        "status": listed.status + (f", on {rollback.time} to {rollback.current}" if rollback else ""),
        "parent": manifest.parent or "–",
        "delta on": manifest.base or "– (full version)",
        "created": f"{manifest.created:%Y-%m-%d %H:%M:%S} UTC by raymtl {manifest.code.get('raymtl', '?')}",
        **{f"data {part}": "..".join(days) for part, days in manifest.data_range.items()},
        **{f"snapshot {part}": str(number) for part, number in manifest.snapshots.items()},
        **{_count_words(key)[0]: f"{count:,}" for key, count in manifest.counts.items()},
        "size": f"{gib(manifest.total_bytes)} in {count_of(len(manifest.all_files), 'file')}",
        "config": manifest.config_hash,
    }
    for task, metrics in manifest.metrics.get("eval", {}).items():
        names = dict.fromkeys([headline(metrics).name, *kind_of(metrics).gated, "calibration"])
        known = [METRICS[name] for name in names if metrics.get(name) is not None]
        found = [f"{metric.label} {with_interval(metric, metrics, short=True)}" for metric in known]
        values[f"task {task}"] = "  ".join(found) or "–"
    for key, value in values.items():
        facts.add_row(key, Text(value))
    tables = FoldedTable("table", "rows", "dim", "ID space", "optimizer", "size", "files", box=None)
    for name, t in manifest.tables.items():
        size = gib(sum(f.bytes for f in t.files))
        tables.add_row(name, f"{t.rows:,}", str(t.dim), t.id_space, t.optimizer, size, str(len(t.files)))
    return [facts, "", tables]


def diff_tables(difference: Difference) -> list[Table | str]:
    """The changes by section, with the difference of numbers; of metrics only where both were measured on the same rows."""
    shown: list[Table | str] = []
    for title in ("data", "counts", "metrics", "tables", "config"):
        changes: dict[str, tuple[Any, Any]] = getattr(difference, title)
        if title == "metrics":
            changes = {key: pair for key, pair in changes.items() if not key.startswith("scenarios.")}
        if not changes:
            continue
        if title == "metrics":
            shown.append(f"metrics {difference.metric_rows}")
        table = FoldedTable(title, difference.a, difference.b, "change", box=None)
        for key, (old, new) in changes.items():
            name, text = _WORDS[title](key)
            change = _change(old, new, text) if title != "metrics" or difference.same_rows else ""
            table.add_row(Text(name), Text(text(old)), Text(text(new)), change)
        shown += [table, ""]
    return shown[:-1] if shown else [f"{difference.a} and {difference.b} do not differ"]


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _rounded(value: Any) -> str:
    return significant(value) if isinstance(value, float) else _value(value)


def _change(old: Any, new: Any, text: ToText) -> str:
    if any(not isinstance(v, int | float) or isinstance(v, bool) for v in (old, new)):
        return ""
    return f"{'+' if new >= old else '−'}{text(abs(new - old))}"


def _data_words(key: str) -> tuple[str, ToText]:
    section, _, name = key.partition(".")
    words = {"days": f"{name} days", "code": f"{name} version", "base_rates": f"base rate of {name}"}
    return words.get(section, key), _rounded


def _count_words(key: str) -> tuple[str, ToText]:
    if key == "bytes":
        return "size", gib
    return "rows trained" if key == "rows" else key, _value  # a row counts once per epoch


def _table_words(key: str) -> tuple[str, ToText]:
    table, _, what = key.rpartition(".")
    return f"{table} {what.replace('id_space', 'ID space')}", _value


def _metric_words(key: str) -> tuple[str, ToText]:
    if key == MEAN_AUC.name:
        return MEAN_AUC.label, number
    section, _, rest = key.partition(".")
    if section == ORDER.place[0]:
        return ORDER.label if rest == ORDER.place[1] else f"{ORDER.label}, {rest}", partial(percent, digits=2)
    if section != "eval":
        return key.replace("_", " "), _rounded
    task, _, name = rest.rpartition(".")
    for prefix, words in {"": "{}", "truth_": "best {}", "constant_": "{} of a constant"}.items():
        if name.startswith(prefix) and (metric := METRICS.get(name.removeprefix(prefix))):
            return f"{task} {words.format(metric.label)}", partial(show, metric)
    return f"{task} {'rows' if name == 'count' else name.replace('_', ' ')}", _rounded


_WORDS: dict[str, Callable[[str], tuple[str, ToText]]] = {
    "data": _data_words,
    "counts": _count_words,
    "metrics": _metric_words,
    "tables": _table_words,
    "config": lambda key: (key, _value),
}
"""By section: what the terminal calls a key, and how it writes the values there."""
