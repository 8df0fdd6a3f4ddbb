"""A recalibrated version: evaluation, scoring and exported programs of every format apply the same maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymtl.config.calibration import Calibration
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.objectives.calibration.calibrator import Calibrator
from raymtl.serving.export import export_version
from raymtl.serving.formats import check_format, serialize
from raymtl.serving.version import Version, open_version
from tests.helpers.exported_programs import predictions
from tests.helpers.served_version import publish_version, raw_features, served_config, stir_maps, write_logs
from tests.serving.test_served_version import scored

OPTIONS: dict[str, dict[str, Any]] = {
    "platt-by-scenario": {"method": "platt", "by": "scenario"},
    "isotonic-by-scenario": {"method": "isotonic", "by": "scenario"},
    "platt-for-one-task": {"method": "platt", "by": "all", "tasks": ["buy"]},
}


@pytest.fixture(scope="module", params=OPTIONS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray, np.ndarray]:
    """The folder, the predictions of evaluation, and those of the same weights without maps."""
    folder = tmp_path_factory.mktemp("recalibrated")
    write_logs(folder)
    plain = publish_version(folder, served_config(folder), "plain")
    return folder, publish_version(folder, served_config(folder, OPTIONS[request.param])), plain


@pytest.fixture
def version(made: tuple[Path, np.ndarray, np.ndarray]) -> Version:
    return open_version(str(made[0] / "store"))


@pytest.mark.parametrize("split", [True, False])
def test_scoring_predicts_what_evaluation_does(version: Version, made: Any, split: bool) -> None:
    root, expected, plain = made
    found, _ = scored(version, root, 64, split)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(expected - plain).max(0)[1:].min() > 0.01  # of buy and of P(buy | click)


def test_programs_predict_what_evaluation_does(version: Version, made: Any, tmp_path: Path) -> None:
    """As ONNX where the maps are curves of scenarios, which need the most operations."""
    root, expected, _ = made
    options = version.config.calibration
    form = "onnx" if options is not None and options.method == "isotonic" else "torch"
    facts = export_version(version, str(tmp_path), "none", form)
    for found in predictions(tmp_path, facts, raw_features(root)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_aoti_computes_the_curves(tmp_path: Path) -> None:
    """Of the calibrator alone: the compiler takes minutes for the model."""
    try:
        check_format("aoti")
    except ConfigError as error:
        pytest.skip(str(error))
    options = Calibration(method="isotonic", by="scenario")
    calibrator = Calibrator(options, {"click": Task(), "buy": Task(parent="click")}, {"cvr": ("buy", "click")}, True, 3)
    stir_maps(calibrator)
    rows = torch.export.Dim("rows", min=1)
    example = (torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64))
    program = torch.export.export(calibrator, example, dynamic_shapes=({0: rows}, {0: rows}))
    path = tmp_path / "program.pt2"
    path.write_bytes(serialize(program, "aoti", {}))
    logits, scenario = torch.randn(50, 3) * 4, torch.arange(50) % 3
    found = torch._inductor.aoti_load_package(str(path))(logits, scenario)
    torch.testing.assert_close(torch.sigmoid(found), torch.sigmoid(calibrator(logits, scenario)), rtol=0, atol=1e-6)


def test_a_child_stays_the_product_and_below_its_parent(made: Any) -> None:
    click, buy, cvr = torch.from_numpy(made[1]).unbind(1)
    torch.testing.assert_close(buy, click * cvr, rtol=1e-5, atol=1e-7)
    assert (buy <= click).all()
