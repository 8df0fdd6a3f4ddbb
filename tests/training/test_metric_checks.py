"""Metrics to choose checkpoints by are refused before anything starts."""

import pytest

from raymtl.errors import ConfigError
from raymtl.training.metric_checks import check_metric_names, doubts
from tests.helpers.small_config import small

ERROR = {"kind": "count", "poisson_deviance": 1.2, "constant_poisson_deviance": 1.1}


@pytest.mark.parametrize("metric", ["mean_auc", "click.ne", "buy.auc", "buy.gauc", "buy.ndcg_10"])
def test_metrics_to_choose_by(metric):
    check_metric_names(small(f"train.select={metric}", "data.group=user", "data.request=request_id"))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            "click.acu",
            "train.select: `click.acu` has no direction in which it improves; use mean_auc or "
            "<task>.<metric> with one of accuracy, auc,",
        ),
        ("click.calibration", "`click.calibration` has no direction in which it improves"),
        (
            "click.mse",
            "train.select is `click.mse`; the `binary` task `click` can be judged by `auc`, `pr_auc`, `logloss`, `ne`",
        ),
        (
            "buy.gauc",
            "train.select is `buy.gauc`, which needs data.group; set that, or choose one of `auc`, `pr_auc`, `logloss`",
        ),
        (
            "buy.mrr",
            "train.select is `buy.mrr`, which needs data.request; set that, or choose one of `auc`, `pr_auc`, `logloss`",
        ),
    ],
)
def test_other_metrics_are_refused(metric, said):
    with pytest.raises(ConfigError) as error:
        check_metric_names(small(f"train.select={metric}"))
    assert said in str(error.value)


def test_without_a_binary_task_there_is_no_mean_auc():
    with pytest.raises(ConfigError, match=r"no task is binary; use <task>\.<metric>, such as click\.poisson_deviance"):
        check_metric_names(small("tasks.click.kind=count", "tasks_subset=[click]", "tasks.buy.parent=null"))


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"calibration": 0.3, "count": 900}, "tasks.click: the predictions sum to 0.3 times the labels; train on more"),
        ({"calibration": 2.5, "count": 900}, "sum to 2.5 times the labels"),
        (
            {"kind": "real", "calibration": 2.5, "count": 900, "mean_label": 0.1, "mean_prediction": 0.25, "mse": 9.0},
            None,
        ),
        ({"calibration": 2.5, "count": 900, "intervals": {"calibration": [1.2, 5.2]}}, None),
        ({"calibration": 0.6, "count": 900}, None),
        ({"calibration": None, "count": 900}, None),
        (
            ERROR | {"intervals": {"poisson_deviance": [1.15, 1.25]}},
            "Poisson deviance is 1.2, above the 1.1 of a constant",
        ),
        (ERROR | {"intervals": {"poisson_deviance": [1.12, 1.29]}}, None),
        (ERROR | {"poisson_deviance": 1.0, "intervals": {"poisson_deviance": [0.99, 1.01]}}, None),
        ({}, None),
    ],
)
def test_doubts_about_final_metrics(report, said):
    config = small("tasks.click.kind=count", "tasks_subset=[click]", "tasks.buy.parent=null")
    found = list(doubts(config, {"click": report}))
    assert len(found) == (said is not None)
    assert all(said in sentence for sentence in found)
