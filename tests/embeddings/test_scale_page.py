"""docs/scale.md is what its command writes: the page from the kept plans, and a kept plan from the planner."""

from pathlib import Path

import pytest

from raymtl.embeddings.planning import dry_plan
from tests.benchmarks.scale.config import LARGE, TAIL_DIM, scale_config, table_rows
from tests.benchmarks.scale.page import page
from tests.benchmarks.scale.plan import load_plans, make_plan

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_command_writes() -> None:
    assert (ROOT / "docs" / "scale.md").read_text() == page(), (
        "run python -m tests.benchmarks.scale.page --write docs/scale.md"
    )


def test_the_planner_still_says_so() -> None:
    kept = dict(load_plans()[8, 10**9])
    planned = make_plan(10**9, 8)
    del kept["cpu_s"], planned["cpu_s"]
    assert planned == kept, "run python -m tests.benchmarks.scale.page --plan --write docs/scale.md"


def test_bytes_of_row_wise_tables_per_rank() -> None:
    """By hand: of 10⁹ IDs the users' 3·10⁸ rows of 64 floats and one of Adagrad's, over 8 GPUs, and so for every table."""
    rows = table_rows(10**9)
    floats = {name: rows[name] * (LARGE.get(name, (0, TAIL_DIM))[1] + 1) for name in rows}
    assert floats["user"] * 4 // 8 == 9_750_000_000
    config = scale_config(10**9, 8, 4096, table_defaults={"sharding": "row_wise"})
    plan = dry_plan(config, workers=8, memory_bytes=80 * 10**9, device="cuda", workers_per_node=8)
    assert {t.sharding for t in plan.tables} == {"row_wise"}
    assert max(plan.rank_bytes) == pytest.approx(sum(floats.values()) * 4 / 8, rel=1e-5)
    assert min(plan.rank_bytes) == pytest.approx(max(plan.rank_bytes), rel=1e-5)
