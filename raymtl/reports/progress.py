"""Progress: one live line on a terminal, plain lines in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from raymtl.config.metrics import METRICS
from raymtl.reports.tables import kind_of
from raymtl.telemetry import logs

_LINE_EVERY_S = 10.0


@contextmanager
def counting(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a function `(done, total)` that shows the progress of a long task."""
    said = time.monotonic()
    with _bar(console) as bar:
        task = bar.add_task(what, total=None, text="")

        def update(done: int, total: int) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total, text=f"{done:,} of {total:,}")
            if not paints(console) and time.monotonic() - said >= _LINE_EVERY_S:
                said = time.monotonic()
                console.print(f"{what}: {done:,} of {total:,}")

        yield update


class TrainingLines:
    """Listener of a run: `raymtl.training.driver.train` calls it with every record."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = _bar(console)
        self._task: Any = None
        self._total = 0
        self._begun: tuple[float, int] | None = None
        self._last_line = 0.0

    def __enter__(self) -> "TrainingLines":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        logs.at(**{key: record[key] for key in ("step", "day") if key in record})
        if "total_rows" in record:
            self._total, self._begun = record["total_rows"], None
        if "note" in record:
            self._console.print(record["note"], soft_wrap=True)
        elif "state" in record:
            if self._task is not None:  # a state of the daily job, which may last: nothing trains any more
                self._bar.remove_task(self._task)
                self._task = None
            self._console.print(f"{record['day']}: {record['state']}", soft_wrap=True)
        elif record.get("kind") == "train":
            self._train(record)
        elif record.get("kind") == "eval":
            self._console.print(evaluation_line(record), soft_wrap=True)

    def _train(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        eta_s = self._eta(now, record["rows"])
        if paints(self._console):
            line = status_line(record, self._total)
            if self._task is None:
                self._task = self._bar.add_task("training", total=self._total or None, text=line)
            self._bar.update(self._task, completed=record["rows"], total=self._total or None, text=line)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._console.print(training_line(record, self._total, eta_s), soft_wrap=True)

    def _eta(self, now: float, rows: int) -> float | None:
        """Seconds left at the speed since the first record, reading and evaluation included."""
        if self._begun is None or rows < self._begun[1]:
            self._begun = (now, rows)
        since, first = self._begun
        if rows <= first or not self._total:
            return None
        return (self._total - rows) * (now - since) / (rows - first)


def training_line(record: dict[str, Any], total: int, eta_s: float | None) -> str:
    """One window of training in one line."""
    losses = " ".join(f"{task} {loss:.4f}" for task, loss in record["losses"].items())
    done = f" ({record['rows'] / total:.0%})" if total else ""
    eta = "" if eta_s is None else f"  eta {int(eta_s) // 60}:{int(eta_s) % 60:02d}"
    return (
        f"step {record['step']:,}  {record['rows']:,} rows{done}  loss {record['loss']:.4f} ({losses})  "
        f"{record['rows_per_s']:,.0f} rows/s  data-wait {record['data_wait']:.0%}{eta}"
    )


def status_line(record: dict[str, Any], total: int) -> str:
    """One window of training beside the bar: a narrow terminal cuts off the end, so what matters most comes first."""
    done = f"{record['rows'] / total:.0%}  " if total else ""
    losses = " ".join(f"{task} {loss:.4f}" for task, loss in record["losses"].items())
    return (
        f"{done}{record['rows_per_s']:,.0f} rows/s  loss {record['loss']:.4f}  data-wait {record['data_wait']:.0%}  "
        f"step {record['step']:,}  {losses}"
    )


def paints(console: Console) -> bool:
    """Whether a line can be painted over; otherwise progress is printed as separate lines."""
    return console.is_terminal and not console.is_dumb_terminal


def evaluation_line(record: dict[str, Any]) -> str:
    """One evaluation in one line."""
    parts = []
    for task, metrics in record["metrics"]["tasks"].items():
        metric = METRICS[kind_of(metrics).brief]
        value = metrics.get(metric.name)
        shown = "–" if value is None else f"{metric.name} {value:{'.4g' if metric.decimals is None else '.4f'}}"
        parts.append(f"{task} {shown}")
    return f"evaluation at step {record['step']:,} ({record['seconds']:.0f} s): " + "  ".join(parts)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
        console=console,
        transient=True,
        expand=True,
        disable=not paints(console),
    )
