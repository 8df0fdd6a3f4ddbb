"""`interest`: the formula, the column, the past before the logs, and its effect on the truth."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import section_from
from raymtl.errors import ConfigError
from raymtl.synth.interest import interest
from raymtl.synth.shard import Shard
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs

SPEC = SynthSpec(days=1, rows_per_day=20_000, users=500, items=300, history=30, interest=2.0)


def test_the_formula() -> None:
    steps = np.array([[3, 1, 1, 2], [1, 1, 1, 1]])
    valid = np.array([[False, True, True, True], [False] * 4])
    usual = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    found = interest(steps, valid, np.array([[1, 2, 3], [1, 2, 3]]), usual)
    one = [0.8 ** (3 * 0.3) - 0.8**2, 0.8 ** (3 * 0.2) - 0.8, 0.8 ** (3 * 0.1) - 1.0]
    np.testing.assert_allclose(found, [one, [0, 0, 0]], atol=1e-6)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("interest")
    write_logs(SPEC, str(folder))
    return pq.read_table(next(Path(folder).rglob("*.parquet")), partitioning=None).to_pylist()


def test_each_step_has_the_category_of_its_item(logs: list[dict]) -> None:
    category = {row["item_id"]: row["category"] for row in logs}
    for row in logs[::10]:
        assert len(row["hist_items"]) == len(row["hist_categories"])
        known = [
            (category[i], c) for i, c in zip(row["hist_items"], row["hist_categories"], strict=True) if i in category
        ]
        assert all(a == b for a, b in known)


def test_users_start_with_a_past_of_any_length() -> None:
    shard = Shard(SPEC)
    _, categories, valid = shard._history.read(np.arange(500))
    lengths = valid.sum(1)
    assert np.bincount(lengths, minlength=31).min() > 0
    assert abs(lengths.mean() - 15) < 1.5
    # Users differ in their favourites: two steps of a user share their category more often than steps of two users
    full = categories[lengths >= 20][:, -20:]
    own = (full[:, :10] == full[:, 10:]).mean()
    others = np.mean([(full[:-k] == full[k:]).mean() for k in (1, 2, 3)])
    assert own > 1.4 * others


def test_the_truth_rises_with_the_steps_in_the_category(logs: list[dict]) -> None:
    """Within a category, so that its popularity plays no part: the logit of items with many steps against that with none."""
    rises = []
    for category in range(5):
        mine = [row for row in logs if row["category"] == category and row["scenario"] == "feed" and row["hist_items"]]
        counts = np.array([row["hist_categories"].count(category) for row in mine])
        logit = np.array([np.log(row["p_click_first"] / (1 - row["p_click_first"])) for row in mine])
        rises.append(logit[counts >= 4].mean() - logit[counts == 0].mean())
    assert 0.3 < np.mean(rises) < 3.0
    assert min(rises) > 0


def test_shards_and_behaviours_have_it_too(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"shards": 2, "behaviours": True, "rows_per_day": 2_000})
    write_logs(spec, str(tmp_path))
    for path in tmp_path.rglob("*.parquet"):
        rows = pq.read_table(path, partitioning=None).to_pylist()
        assert all(len(row["hist_categories"]) == len(row["hist_kinds"]) == len(row["hist_gaps"]) for row in rows)
        assert {kind for row in rows for kind in row["hist_kinds"]} <= {1, 2, 3}


def test_without_histories_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="interest is 2, but history is 0; set history to"):
        section_from(SynthSpec, {"interest": 2.0, "history": 0}, [], "the logs")
