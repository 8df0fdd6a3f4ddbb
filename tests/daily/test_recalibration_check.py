"""The gate's check of recalibration: refused only if the calibration error rises by more than chance."""

from typing import Any

import pytest

from raymtl.daily.gate import RECALIBRATION, check_label, summary
from tests.daily.test_gate import found, metrics, run


def recalibrated(before: float | None, after: float | None, chance: float = 0.002, **changes: Any) -> dict[str, Any]:
    errors = {"before": before, "after": after, "chance": chance}
    return metrics(**changes) | {"calibration": {"click": {"scenario_error": errors}}}


@pytest.mark.parametrize(("after", "passed"), [(0.001, True), (0.0105, True), (0.012, True), (0.0125, False)])
def test_an_error_above_that_without_maps_and_chance_refuses(after: float, passed: bool) -> None:
    result = run(recalibrated(0.01, after))
    check = found(result, "click", RECALIBRATION)
    assert check.passed == passed
    assert result.passed == passed
    assert check.limit == "≤ 0.012"
    assert check.note == "without recalibration it is 0.01, and chance alone makes 0.002"
    assert ("tasks.click recalibration is 0.0125" in summary(result)) != passed
    assert check_label(RECALIBRATION) == "calibration error after recalibration"


def test_it_is_not_judged_on_few_labels_or_predictions_that_are_not_finite() -> None:
    few = found(run(recalibrated(0.01, 0.5, click__positives=12)), "click", RECALIBRATION)
    assert few.passed is None
    assert "12 positives" in str(few.note)
    none = found(run(recalibrated(None, None)), "click", RECALIBRATION)
    assert none.passed is None


def test_without_calibration_there_is_no_such_check() -> None:
    assert RECALIBRATION not in [check.name for check in run(metrics()).checks]
