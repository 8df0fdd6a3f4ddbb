"""Why the metrics of a day are lower than on days before: a section of the page of an explanation, and of the report of a day."""

from collections.abc import Mapping
from typing import Any

from raymtl.config.metrics import METRICS
from raymtl.explaining.wording import amount, found_causes
from raymtl.reports.page import Cell, Grid, Paragraph, Part, Section
from raymtl.reports.tables import show
from raymtl.words import visible


def fall_section(fall: Mapping[str, Any], colours: Mapping[str, str], version: str) -> Section:
    """The section; `version` is the one that was measured on all of these days."""
    baseline = " to ".join(dict.fromkeys(fall["baseline"]))
    text = (
        f"Version {version} on {baseline} and now, on a sample of the rows. A column explains a fall if it has lost its worth "
        "while the others have kept theirs; if all have lost alike, the labels or the rows are to blame. Explained: about how "
        "much better the metric would be with the column as it was."
    )
    rows: list[list[Cell]] = []
    heads = set()
    for task, found in fall["tasks"].items():
        metric = METRICS[found["metric"]]
        heads.add(len(rows))
        first = [
            Cell(task, "name", colours.get(task, "gray")),
            Cell(metric.label, "part"),
            Cell(show(metric, found["before"])),
            Cell(show(metric, found["after"]), "look" if found["has_fallen"] else ""),
        ]
        blank = [Cell("", "name"), Cell("", "part"), Cell(""), Cell("")]
        if not found["causes"]:
            why = "no column explains it" if found["has_fallen"] else "no fall beyond chance"
            rows.append([*first, Cell(why, "part"), Cell("–"), Cell("", "why")])
        for n, cause in enumerate(found["causes"]):
            cells = [Cell(visible(cause["column"]), "part"), Cell(amount(found["metric"], cause["lost"]))]
            rows.append([*(first if n == 0 else blank), *cells, Cell(cause["symptom"], "why")])
    columns = ["task", "metric", "before", "now", "column", "explained", "its values"]
    parts: list[Part] = [Paragraph(found_causes(fall)), Grid(columns, rows, frozenset(heads))]
    return Section("Why it fell", text, parts)
