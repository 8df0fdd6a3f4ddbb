"""The tables of docs/scale.md about the step: where the tables go, what travels, how long it takes, what would help."""
# ruff: noqa: E501  (the page's own lines)

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from raymtl.embeddings.traffic import TableTraffic
from tests.benchmarks.scale.count import Dense
from tests.benchmarks.scale.model import NETWORKS, Step, step_time
from tests.benchmarks.scale.plan import BATCH, GPUS, IDS, load_plans, tables_of

IB, ETHERNET = NETWORKS
SHORT = {"table_wise": "table", "row_wise": "row"}


@dataclass
class Cells:
    """The planned cells and their steps."""

    dense: Dense
    plans: dict[tuple[int, int], dict[str, Any]] = field(default_factory=load_plans)

    def fits(self, gpus: int, ids: int) -> bool:
        return "problem" not in self.plans[gpus, ids]

    def tables(self, gpus: int, ids: int) -> list[TableTraffic]:
        return tables_of(self.plans[gpus, ids])

    def time(self, tables: list[TableTraffic], gpus: int, network: str = IB, rows: int = BATCH) -> Step:
        return step_time(tables, self.dense, workers=gpus, rows=rows, network=NETWORKS[network])

    def step(self, gpus: int, ids: int, network: str = IB) -> Step:
        return self.time(self.tables(gpus, ids), gpus, network)

    def rows_per_s(self, gpus: int, ids: int, network: str = IB) -> float:
        return gpus * BATCH / self.step(gpus, ids, network).seconds

    def efficiency(self, gpus: int, ids: int, step: Step) -> float:
        """Rows per second and GPU against 8 GPUs with as many IDs, or with the most that fit there."""
        most = max(i for i in IDS if i <= ids and self.fits(GPUS[0], i))
        return self.step(GPUS[0], most).seconds / step.seconds


def power(ids: int) -> str:
    """10⁹ for a billion."""
    return "10" + str(len(str(ids)) - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table; the first column to the left, numbers as they are."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gb(size: float) -> str:
    if size < 1e9:
        return f"{size / 1e9:.2f}"
    return f"{size / 1e9:,.1f}" if size < 1e11 else f"{size / 1e9:,.0f}"


def mb(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:.1f}"


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def million(rows: float) -> str:
    return f"{rows / 1e6:.1f}"


def cells_table(cells: Cells) -> str:
    rows = []
    for ids in IDS:
        for gpus in GPUS:
            plan = cells.plans[gpus, ids]
            if not cells.fits(gpus, ids):
                most = gpus * plan_usable(cells)
                lack = f"{gb(plan['table_bytes'])} GB of tables, room for {gb(most)}"
                rows.append([power(ids), str(gpus), "does not fit", lack, *[""] * 7])
                continue
            kinds = Counter(kind for kind, _ in plan["tables"].values())
            mean = plan["table_bytes"] / gpus
            fast, slow = cells.step(gpus, ids), cells.step(gpus, ids, ETHERNET)
            rows.append(
                [
                    power(ids),
                    str(gpus),
                    " + ".join(f"{kinds[k]} {SHORT[k]}" for k in SHORT if kinds[k]),
                    f"{gb(plan['planned_bytes'])} / {gb(mean)}",
                    f"{plan['max_bytes'] / mean:.1f}",
                    ms(fast.seconds),
                    million(gpus * BATCH / fast.seconds),
                    f"{cells.efficiency(gpus, ids, fast):.0%}",
                    fast.bound,
                    *([million(gpus * BATCH / slow.seconds), slow.bound] if gpus > GPUS[0] else ["", ""]),
                ]
            )
    head = ["IDs", "GPUs", "tables by", "GB per GPU, max / mean", "max/mean", "step, ms"]
    head += ["million rows/s", "efficiency", "bound by", "million rows/s, 100 Gb/s", "bound by"]
    return "\n\n".join(["## The table that says it all", CELLS_TEXT, table(head, rows), _batches(cells)])


def _batches(cells: Cells) -> str:
    """Million rows per second with other numbers of rows per GPU, under the same plan."""
    sizes = (2048, 4096, 8192)
    rows = []
    for gpus in GPUS:
        steps = {size: cells.time(cells.tables(gpus, IDS[1]), gpus, rows=size) for size in sizes}
        rows.append([str(gpus), *(f"{million(gpus * n / s.seconds)} ({s.bound})" for n, s in steps.items())])
    head = ["GPUs", *(f"{size:,} rows per GPU" for size in sizes)]
    return f"Million rows/s and bound at {power(IDS[1])} IDs with other batches, under the same plans:\n\n" + table(
        head, rows
    )


def plan_usable(cells: Cells) -> float:
    return float(next(c["usable_bytes"] for c in cells.plans.values() if "problem" not in c))


CELLS_TEXT = """60 tables, 4,096 rows per GPU and step, H100 80 GB, eight to a machine ([the model](#the-model)). "Tables by": how many the planner
leaves whole on one GPU (table-wise) and how many it spreads by rows over all. GB with row-wise Adagrad's state and the planner's
buffers. Efficiency: rows/s per GPU against 8 GPUs with as many IDs, or the most that fit there."""


def traffic_table(cells: Cells) -> str:
    rows = []
    for ids in IDS:
        for gpus in GPUS:
            if not cells.fits(gpus, ids):
                continue
            step = cells.step(gpus, ids)
            ids_wire, vectors = step.traffic.ids, step.traffic.vectors
            weights = 2 * 4 * cells.dense.weights * (gpus - 1) / gpus
            rows.append(
                [
                    power(ids),
                    str(gpus),
                    f"{mb(ids_wire.inside())} / {mb(ids_wire.between())}",
                    f"{mb(vectors.inside())} / {mb(vectors.between())}",
                    f"{mb(weights)} / {mb(weights / 8 if gpus > 8 else 0)}",
                    ms(step.ids),
                    ms(step.vectors),
                    ms(step.gradients),
                    ms(step.lookup),
                    ms(step.dense),
                    ms(step.feed),
                ]
            )
    head = ["IDs", "GPUs", "IDs and lengths, MB", "vectors, MB each way", "dense gradients, MB"]
    head += ["IDs, ms", "vectors, both ways", "gradients", "lookup", "dense", "feed"]
    return "## Bytes and milliseconds of a step\n\n" + TRAFFIC_TEXT + "\n\n" + table(head, rows)


TRAFFIC_TEXT = """Of the busiest GPU, in its busier direction: inside its machine (NVLink) / between machines (its 400 Gb/s adapter).
IDs travel while the step before computes, all else is waited for. Vectors: once as the lookup's answer, once as gradients."""
