"""A recalibrated version: evaluation, scoring and exported programs of every format apply the same maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raymtl.config.calibration import Calibration
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.objectives.calibration.calibrator import Calibrator
from raymtl.serving.export import export_version
from raymtl.serving.formats import check_format, serialize
from raymtl.serving.version import Version, open_version
from tests.helpers.exported_programs import onnx_program, predictions
from tests.helpers.served_version import few_features, publish_version, raw_features, stir_maps, write_logs
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
    plain = publish_version(folder, few_features(folder), "plain")
    return folder, publish_version(folder, few_features(folder, OPTIONS[request.param])), plain


@pytest.fixture
def version(made: tuple[Path, np.ndarray, np.ndarray]) -> Version:
    return open_version(str(made[0] / "store"))


def bound(version: Version) -> float:
    """Largest difference of a probability; a steep piece of a curve multiplies that of the logit."""
    assert version.config.calibration is not None
    return {"platt": 1e-6, "isotonic": 4e-6}[version.config.calibration.method]


@pytest.mark.parametrize("split", [True, False])
def test_scoring_predicts_what_evaluation_does(version: Version, made: Any, split: bool) -> None:
    root, expected, plain = made
    found, _ = scored(version, root, 64, split)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound(version))
    assert np.abs(expected - plain).max(0)[1:].min() > 0.01  # of buy and of P(buy | click)


def test_programs_predict_what_evaluation_does(version: Version, made: Any, tmp_path: Path) -> None:
    root, expected, _ = made
    facts = export_version(version, str(tmp_path), "none")
    for found in predictions(tmp_path, facts, raw_features(root)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound(version))


@pytest.mark.timeout(900)  # a compiler on a busy machine
@pytest.mark.parametrize("form", ["onnx", "aoti"])
def test_other_formats_compute_the_curves(form: Any, tmp_path: Path) -> None:
    """Of the calibrator alone, since the rest of the model takes minutes; curves of scenarios need the most operations."""
    try:
        check_format(form)
    except ConfigError as error:
        pytest.skip(str(error))
    options = Calibration(method="isotonic", by="scenario")
    calibrator = Calibrator(options, {"click": Task(), "buy": Task(parent="click")}, {"cvr": ("buy", "click")}, True, 3)
    stir_maps(calibrator)

    class Predictions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calibrator = calibrator

        def forward(self, features: dict[str, Tensor]) -> Tensor:
            return torch.sigmoid(self.calibrator(features["logits"], features["scenario"]))

    draw = torch.Generator().manual_seed(0)

    def inputs(rows: int) -> dict[str, Tensor]:
        return {"logits": torch.randn(rows, 3, generator=draw) * 4, "scenario": torch.arange(rows) % 3}

    rows = torch.export.Dim("rows", min=1)
    dims = ({"logits": {0: rows}, "scenario": {0: rows}},)
    program = torch.export.export(Predictions().eval(), (inputs(3),), dynamic_shapes=dims)
    entry: dict[str, Any] = {"inputs": ["features"], "features": ["logits", "scenario"], "gives": "predictions"}
    data, sent = serialize(program, form, entry), inputs(50)
    if form == "onnx":
        found = onnx_program(data, entry)(sent)
    else:
        (tmp_path / "program.pt2").write_bytes(data)
        found = torch._inductor.aoti_load_package(str(tmp_path / "program.pt2"))(sent)
    torch.testing.assert_close(found, Predictions()(sent), rtol=0, atol=4e-6)


def test_a_child_stays_the_product_and_below_its_parent(made: Any) -> None:
    click, buy, cvr = torch.from_numpy(made[1]).unbind(1)
    torch.testing.assert_close(buy, click * cvr, rtol=1e-5, atol=1e-7)
    assert (buy <= click).all()
