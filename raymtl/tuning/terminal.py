"""A search on the terminal: a live table, or plain lines in a log file."""

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raymtl.reports import style
from raymtl.telemetry.output import FoldedTable
from raymtl.tuning.objective import unsigned
from raymtl.tuning.search import Search
from raymtl.tuning.trial_store import Trial
from raymtl.words import count_of

_SHOWN = 12
_STYLES = {"finished": "green", "running": "bold", "stopped": "dim", "failed": "red"}


class TrialLines:
    """Listener of a search: `raymtl.tuning.run.tune` calls it with every record."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._search: Search | None = None
        self._said: dict[int, tuple[str, int]] = {}
        self._started = time.monotonic()

    def __enter__(self) -> "TrialLines":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        if "note" in record:
            self._console.print(record["note"], soft_wrap=True, markup=False)
        elif "search" in record:
            self._search = record["search"]
            known = len(self._search.trial_store.trials)
            self._console.print(
                f"search: {record['folder']}, {count_of(record['concurrent'], 'trial')} at a time"
                + (f"; resuming with {count_of(known, 'trial')}" if known else ""),
                soft_wrap=True,
                markup=False,
            )
        elif self._search is not None:
            self._trial(record["trial"], self._search)

    def _trial(self, trial: Trial, search: Search) -> None:
        if self._live is not None:
            done = sum(t.ended for t in search.trial_store.trials.values())
            took = style.duration(time.monotonic() - self._started)
            self._live.update(
                Group(trials_table(search, _SHOWN), Text(f"{count_of(done, 'trial')} ended, {took}", style="dim"))
            )
        elif self._said.get(trial.number) != (key := (trial.status, len(trial.history))):
            self._said[trial.number] = key
            self._console.print(_line(trial, search), soft_wrap=True, markup=False)


def trials_table(search: Search, most: int | None = None) -> Table:
    """A line per trial, best first, running ones last; at most `most` lines."""
    default = search.trial_store.default
    names = [dimension.name for dimension in search.space.dimensions]
    shown = names[:5]
    table = FoldedTable(
        "trial",
        "kind",
        "state",
        "rows",
        *search.evaluator.names,
        *shown,
        *(["…"] if len(names) > len(shown) else []),
        box=None,
    )
    trials = sorted(search.trial_store.trials.values(), key=lambda t: _rank(t, search))
    if most is not None and len(trials) > most:
        trials = [*trials[: most // 2], *trials[-(most - most // 2) :]]
    for trial in trials:
        values = [_number(search, trial, i) for i in range(len(search.evaluator.names))]
        if trial is default:
            fields = ["default"] + [""] * (len(shown) - 1) if shown else []
        else:
            fields = [field_text(trial.params.get(name)) for name in shown]
        state = Text(trial.status, style=_STYLES[trial.status])
        table.add_row(str(trial.number), _kind(trial), state, style.short_count(trial.rows), *values, *fields)
    return table


def _rank(trial: Trial, search: Search) -> tuple[bool, float, int]:
    values = search.evaluator.values(trial.metrics)
    return (not trial.ended, -sum(values) if values else float("inf"), trial.number)


def _number(search: Search, trial: Trial, index: int) -> str:
    values = search.evaluator.values(trial.metrics)
    if values is None:
        return "–"
    name = search.evaluator.names[index]
    return style.number(
        values[index] if search.evaluator.objective.mean is not None else unsigned(name, values[index]), 5
    )


def _kind(trial: Trial) -> str:
    return f"repeat of {trial.of}, seed {trial.seed}" if trial.kind == "repeat" else trial.kind


def field_text(value: Any) -> str:
    """A value of a field, numbers rounded."""
    return style.significant(value, 3) if isinstance(value, float) else "–" if value is None else str(value)


def _line(trial: Trial, search: Search) -> str:
    """One trial in one line."""
    values = "  ".join(f"{n} {_number(search, trial, i)}" for i, n in enumerate(search.evaluator.names))
    fields = ", ".join(f"{name} {field_text(value)}" for name, value in trial.fields.items())
    said = f"trial {trial.number} ({_kind(trial)}) {trial.status}"
    if trial.status == "running" and not trial.history:
        return f"{said}: {fields or 'the default configuration'}"
    return f"{said} at {count_of(trial.rows, 'row')}: {trial.reason or values}"
