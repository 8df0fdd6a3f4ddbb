"""The planner's answers for every cell of docs/scale.md, kept in plans.json because 512 GPUs take it minutes."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from raymtl.embeddings.planning import dry_plan
from raymtl.embeddings.tables import describe_lookup
from raymtl.embeddings.traffic import TableTraffic
from tests.benchmarks.scale.config import scale_config

GPUS = (8, 64, 512)
IDS = (10**8, 10**9, 10**10)
BATCH = 4096
HBM_BYTES = 80 * 10**9
PER_NODE = 8
PLANS = Path(__file__).parent / "plans.json"


def make_plan(ids: int, workers: int) -> dict[str, Any]:
    """What the planner says: holders of each table (null: all ranks) and bytes per rank, or the problem; and its time."""
    config = scale_config(ids, workers, BATCH)
    start = time.process_time()
    plan = dry_plan(config, workers=workers, memory_bytes=HBM_BYTES, device="cuda", workers_per_node=PER_NODE)
    cell: dict[str, Any] = {"ids": ids, "gpus": workers, "table_bytes": sum(t.bytes for t in plan.tables)}
    cell["cpu_s"] = round(time.process_time() - start, 1)
    if plan.problem is not None:
        return cell | {"problem": plan.problem}
    return cell | {
        "tables": {t.table: [t.sharding, None if len(t.ranks) == workers else t.ranks] for t in plan.tables},
        "max_bytes": max(plan.rank_bytes),
        "planned_bytes": max(plan.rank_planned_bytes),
        "usable_bytes": plan.memory_bytes - plan.reserved_bytes,
    }


def load_plans() -> dict[tuple[int, int], dict[str, Any]]:
    """All cells by (GPUs, IDs)."""
    return {(c["gpus"], c["ids"]): c for c in json.loads(PLANS.read_text())}


def write_plans() -> None:
    """Plan every cell anew; about four minutes of one core."""
    logging.disable(logging.WARNING)
    cells = [make_plan(ids, workers) for workers in GPUS for ids in IDS]
    PLANS.write_text("[\n" + ",\n".join(json.dumps(c) for c in cells) + "\n]\n")


def tables_of(cell: dict[str, Any]) -> list[TableTraffic]:
    """The tables of a planned cell as the traffic sees them."""
    lookup = describe_lookup(scale_config(cell["ids"], cell["gpus"], BATCH))
    return [
        TableTraffic(
            sharding,
            tuple(ranks if ranks is not None else range(cell["gpus"])),
            lookup.tables[name].dim,
            tuple(lookup.lengths[name]),
            name not in lookup.unpooled,
        )
        for name, (sharding, ranks) in cell["tables"].items()
    ]


if __name__ == "__main__":
    write_plans()
