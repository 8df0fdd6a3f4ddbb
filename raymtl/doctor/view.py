"""Findings as lines on the terminal."""

from collections.abc import Iterable
from dataclasses import replace

from rich.table import Table
from rich.text import Text

from raymtl.doctor.finding import STATUSES, Finding, worst
from raymtl.words import count_of

GROUPS = ("stack", "machine", "cluster", "storage", "network")
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_SHOWN = 3


def merge_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Merge findings that differ only in their node, by group and check, worst first.

    If many nodes are ok with different values, only the first few are shown.
    """
    nodes: dict[Finding, list[str]] = {}
    for finding in findings:
        nodes.setdefault(replace(finding, node=""), []).append(finding.node)
    checks: dict[tuple[str, str], list[Finding]] = {}
    for finding, names in nodes.items():
        merged = replace(finding, node=names[0] if len(names) == 1 else f"{len(names)} nodes")
        checks.setdefault((finding.group, finding.check), []).append(merged)
    found: list[Finding] = []
    for of_check in sorted(checks.values(), key=lambda c: GROUPS.index(c[0].group)):
        well = [f for f in of_check if f.status == "ok"]
        found += sorted((f for f in of_check if f.status != "ok"), key=lambda f: -STATUSES.index(f.status))
        found += well[:_SHOWN]
        if len(well) > _SHOWN:
            found.append(replace(well[0], value=f"{len(well) - _SHOWN} more like these", node=""))
    return found


def lines(findings: list[Finding]) -> Table:
    """One line per check, with its remedy below; for `rich.print`."""
    table = Table.grid(padding=(0, 2))
    for column in ("status", "check", "node"):
        table.add_column(column, no_wrap=True)
    table.add_column("value", overflow="fold")
    group = ""
    for finding in merge_findings(findings):
        if finding.group != group:
            if group:
                table.add_row()
            group = finding.group
            table.add_row("", Text(group, style="bold"))
        status = Text(f"{finding.status:>4}", style=_COLOURS[finding.status])
        table.add_row(status, finding.check, Text(finding.node, style="dim"), Text(finding.value))
        if finding.remedy:
            table.add_row("", "", "", Text(f"→ {finding.remedy}", style="italic"))
    return table


def verdict(findings: list[Finding]) -> str:
    """The findings in one sentence."""
    failed, warned = (sum(f.status == status for f in merge_findings(findings)) for status in ("fail", "warn"))
    if worst(findings) == "ok":
        return "all checks passed"
    parts = [f"{failed} failed"] * bool(failed) + [f"{count_of(warned, 'warning')}"] * bool(warned)
    return f"{' and '.join(parts)}; follow the lines that begin with →"
