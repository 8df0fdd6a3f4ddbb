"""What recalibration changes, as a table of reports."""

from collections.abc import Iterator, Mapping
from typing import Any

from raymtl.reports.page import Cell, Grid
from raymtl.reports.style import number

EXPLAINED = (
    "Recalibration was fitted on other users than these. Own: the model's own predictions; recalibrated: what is served. "
    "ECE is the expected calibration error over 20 buckets of equal size, chance the error that a perfect model has on so few "
    "rows; Σp / Σy is the sum of predictions over that of labels."
)
_COLUMNS = (
    "task", "scenario", "ECE, own", "recalibrated", "chance", "log loss, own", "recalibrated", "Σp / Σy, own", "recalibrated",
)  # fmt: skip


def recalibration_grid(calibration: Mapping[str, Any] | None, colours: Mapping[str, str]) -> Grid:
    """A row for each output and its scenarios, from `calibration` of an evaluation; no row without it."""
    rows: list[list[Cell]] = []
    heads: list[int] = []
    for output, entry in (calibration or {}).items():
        heads.append(len(rows))
        for scenario, part in _parts(entry):
            name = Cell(output if part is entry else "", "name", colours.get(output, "gray") if part is entry else "")
            sides = [part[side] for side in ("before", "after")]
            cells = [Cell(number(side["calibration_error"], 5)) for side in sides] + [Cell(number(part["chance"], 5))]
            cells += [Cell(number(side["logloss"], 5)) for side in sides]
            cells += [Cell(number(side["calibration"], 3)) for side in sides]
            rows.append([name, Cell(scenario, "part"), *cells])
    return Grid(_COLUMNS, rows, frozenset(heads))


def _parts(entry: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "all", entry
    yield from entry.get("scenarios", {}).items()
