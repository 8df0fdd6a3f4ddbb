"""A sharding plan as tables on the terminal."""

from rich.table import Table

from raymtl.embeddings.planning import DryPlan
from raymtl.telemetry.output import FoldedTable
from raymtl.words import gib


def plan_tables(plan: DryPlan) -> list[Table | str]:
    """Table by table, then rank by rank, then the verdict."""
    tables = FoldedTable(
        "table",
        "features",
        "rows",
        "dim",
        "size",
        "sharding",
        "ranks",
        "why",
        box=None,
        title="tables",
        title_justify="left",
    )
    for t in sorted(plan.tables, key=lambda t: -t.bytes):
        tables.add_row(
            t.table,
            ", ".join(t.features),
            f"{t.rows:,}",
            str(t.dim),
            gib(t.bytes),
            t.sharding,
            _ranks(t.ranks),
            t.reason,
        )
    if plan.problem is not None:
        return [tables, f"[bold red]does not fit:[/] {plan.problem}"]
    ranks = FoldedTable("rank", "tables", "with buffers", "full", box=None, title="ranks", title_justify="left")
    usable = plan.memory_bytes - plan.reserved_bytes
    for rank, (held, planned) in enumerate(zip(plan.rank_bytes, plan.rank_planned_bytes, strict=True)):
        ranks.add_row(str(rank), gib(held), gib(planned), f"{planned / usable:.1%}")
    verdict = (
        f"fits: {gib(usable)} of each device's {gib(plan.memory_bytes)} are for tables and batches, "
        f"{gib(plan.reserved_bytes)} are reserved for the model and the framework"
    )
    sent = FoldedTable("each step, busiest rank", "inside a machine", "between machines", box=None)
    for name, what in (
        ("ids", "IDs to the tables"),
        ("vectors", "vectors from them, and gradients back, each"),
        ("replicated", "gradients of replicated tables, at most"),
    ):
        sent.add_row(what, gib(plan.sent[f"{name}_inside"]), gib(plan.sent[f"{name}_between"]))
    return [tables, ranks, sent, verdict]


def _ranks(ranks: list[int]) -> str:
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}–{ranks[-1]}"
    return ", ".join(map(str, ranks))
