"""The metrics and their differences are those of an evaluation."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.explaining.meter import Meter
from raymtl.explaining.sample import Sample
from raymtl.objectives.metrics.changes import difference
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.objectives.outputs import Outputs
from raymtl.reports.tables import ALL
from tests.helpers.run_logs import small_config

ROWS = 3001


def config() -> Config:
    raw = small_config(Path("logs"), Path("runs"), "meter")
    raw["model"] = {"preset": "shared_bottom", "sequence": {"type": "pooled"}}
    raw["tasks"] = {"click": {}, "buy": {}, "watch": {"kind": "real"}, "views": {"kind": "count"}}
    return config_from_dict(raw)


def sample(seed: int = 0) -> Sample:
    random = np.random.default_rng(seed)
    labels = np.stack(
        [
            random.random(ROWS) < 0.3,
            np.where(random.random(ROWS) < 0.5, np.nan, random.random(ROWS) < 0.1),
            random.normal(3, 2, ROWS),
            random.poisson(2, ROWS),
        ],
        1,
    )
    return Sample(
        pa.table({"x": np.zeros(ROWS)}),
        {},
        torch.tensor(labels, dtype=torch.float32),
        torch.tensor(random.random(ROWS), dtype=torch.float32).unsqueeze(1).expand(ROWS, 4),
        torch.tensor(random.integers(0, 3, ROWS)),
        torch.tensor(random.integers(0, 150, ROWS)),
        ROWS,
    )


def evaluated(config: Config, rows: Sample, logits: torch.Tensor) -> dict:
    metrics = EvalMetrics(config.active_tasks(), ["feed", "search", "other"])
    observed = ~rows.labels.isnan()
    valid = torch.ones(ROWS, dtype=torch.bool)
    metrics.update(logits, rows.labels, observed, rows.weight[:, 0], valid, rows.scenario, rows.group)
    return metrics.compute()


def test_scores_and_differences_are_those_of_an_evaluation() -> None:
    rows, made = sample(), config()
    meter = Meter(made, rows, Outputs(made.active_tasks()))
    first = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
    first[:, 0] += rows.labels[:, 0]
    second = first + 0.3 * torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(2))
    scores, changed = meter.scores(first), meter.scores(second)
    full, other = evaluated(made, rows, first), evaluated(made, rows, second)
    headlines = {"click": "auc", "buy": "auc", "watch": "mse", "views": "poisson_deviance"}
    for task, metric in headlines.items():
        sign = 1 if metric == "auc" else -1
        assert sign * scores[task, ALL].value == pytest.approx(full["tasks"][task][metric], rel=1e-4)
        for scenario in ("feed", "search", "other"):
            assert sign * scores[task, scenario].value == pytest.approx(
                full["scenarios"][scenario][task][metric], rel=1e-3
            )
        change = scores[task, ALL] - changed[task, ALL]
        # That of the evaluation adds groups up in 256 buckets, which changes the interval by chance
        low, high = difference(
            other["tasks"][task][metric],
            full["tasks"][task][metric],
            other["group_effects"][task][metric],
            full["group_effects"][task][metric],
        )
        assert sign * change.value == pytest.approx((low + high) / 2, abs=1e-3)
        assert change.half == pytest.approx((high - low) / 2, rel=0.15)


def test_what_has_too_few_labels_is_not_measured() -> None:
    rows = sample()
    rows.labels[rows.scenario == 2, 0] = 0.0
    rows.labels[:, 1] = float("nan")
    rows.group[rows.scenario == 1] %= 19
    keys = Meter(config(), rows, Outputs(config().active_tasks())).keys
    assert ("click", "feed") in keys
    assert ("click", "other") not in keys
    assert ("watch", "search") not in keys  # 19 users
    assert ("watch", "other") in keys
    assert not any(task == "buy" for task, _ in keys)


def test_the_same_logits_differ_by_exactly_nothing() -> None:
    rows = sample()
    meter = Meter(config(), rows, Outputs(config().active_tasks()))
    logits = torch.randn(ROWS, 4)
    scores = meter.scores(logits)
    assert all((score - score).value == (score - score).half == 0 for score in scores.values())
