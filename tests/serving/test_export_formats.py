"""The same version as ONNX, compiled by AOTInductor, and with its tables as files: all predict what evaluation does."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor import config as inductor

from raymtl.data.writing import OutputFolder
from raymtl.errors import ConfigError, VersionError
from raymtl.model_store.writer import Delta
from raymtl.serving import export, table_files
from raymtl.serving.export import export_version
from raymtl.serving.formats import check_format, serialize
from raymtl.serving.mapped_tables import MappedTables
from raymtl.serving.model import served_tables
from raymtl.serving.tables import make_table
from raymtl.serving.version import Version, open_version, read_table
from tests.helpers.exported_programs import onnx_program, predictions
from tests.helpers.served_version import publish_version, raw_features, served_config, write_logs

BOUND = 1e-5
"""Largest difference of a probability from evaluation's."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    write_logs(folder)
    return folder


@pytest.fixture(scope="module")
def expected(root: Path) -> np.ndarray:
    return publish_version(root, served_config(root), chunk_bytes=700)


@pytest.fixture(scope="module")
def version(root: Path, expected: np.ndarray) -> Version:
    return open_version(str(root / "store"))


def test_onnx_predicts_it(version: Version, root: Path, expected: np.ndarray, tmp_path: Path) -> None:
    facts = export_version(version, str(tmp_path), "none", "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["item.onnx", "model.json", "user.onnx", "whole.onnx"]
    for found in predictions(tmp_path, facts, raw_features(root)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND)


@pytest.mark.parametrize(("form", "quantization", "bound"), [("torch", "none", BOUND), ("onnx", "int8", 2e-2)])
def test_programs_predict_it_with_table_files(
    version: Version,
    root: Path,
    expected: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    quantization: str,
    bound: float,
) -> None:
    monkeypatch.setattr(table_files, "FILE_BYTES", 1000)  # 31 rows of 8 floats
    facts = export_version(version, str(tmp_path), quantization, form, table_files=True)
    assert len(facts["tables"]["item"]["files"]) > 1
    if form == "torch":
        held = torch.export.load(str(tmp_path / "whole.pt2")).state_dict
        assert held
        assert not [name for name in held if ".tables." in name]
    for found in predictions(tmp_path, facts, raw_features(root)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)

    small = export.Exported({"whole": _traced()[1]}, {"programs": {"whole": {}}})
    monkeypatch.setattr(export, "export_model", lambda *a: small)
    export_version(version, str(tmp_path), "none")  # removes what the first one wrote
    assert {path.name for path in tmp_path.glob("**/*") if path.is_file()} == {"model.json", "whole.pt2"}


class _Small(nn.Module):
    """What C++ is compiled for in a few seconds: a list's sum, the rules of a hash and a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.edges = nn.Linear(3, 2), torch.tensor([0.0, 0.5, 2])

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        bucket = torch.bucketize(features["x"][:, 0], self.edges, right=True).unsqueeze(1)
        return self.layer(features["x"]).sigmoid() + bucket


def _traced() -> tuple[nn.Module, torch.export.ExportedProgram]:
    module, rows = _Small().eval(), torch.export.Dim("rows", min=1)
    return module, torch.export.export(module, ({"x": torch.zeros(3, 3)},), dynamic_shapes=({"x": {0: rows}},))


def test_aoti_computes_it(tmp_path: Path) -> None:
    try:
        check_format("aoti")
    except ConfigError as error:
        pytest.skip(str(error))
    module, program = _traced()
    path = tmp_path / "program.pt2"
    path.write_bytes(serialize(program, "aoti", {}))
    x = torch.randn(7, 3)
    found = torch._inductor.aoti_load_package(str(path))({"x": x})
    torch.testing.assert_close(found, module({"x": x}), rtol=0, atol=BOUND)


def test_onnx_finds_buckets_as_torch_does() -> None:
    module, program = _traced()
    entry = {"inputs": ["features"], "gives": "predictions"}
    data = serialize(program, "onnx", entry)
    x = torch.tensor([-torch.inf, -1, -0.0, 0, 0.25, 0.5, 2, 3, torch.inf, torch.nan])[:, None].repeat(1, 3)
    expected = module({"x": x}).detach()
    torch.testing.assert_close(onnx_program(data, entry)({"x": x}), expected, rtol=0, atol=BOUND, equal_nan=True)


def test_a_machine_without_a_compiler(version: Version, tmp_path: Path) -> None:
    message = r"--format aoti compiles C\+\+, but there is no compiler `no-such-compiler`; install"
    # not by monkeypatch: it deletes the setting afterwards, since torch keeps its settings beside the class
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(ConfigError, match=message):
        export_version(version, str(tmp_path), "none", "aoti")


def test_a_machine_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs the package onnxscript.*run `pip install 'raymtl\[onnx\]'`"):
        check_format("onnx")


def test_more_weights_than_an_onnx_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymtl.serving.formats._PROTOBUF_BYTES", 32)
    with pytest.raises(ConfigError, match=r"holds at most 2 GiB.*use --table-files"):
        serialize(_traced()[1], "onnx", {"inputs": ["features"], "gives": "predictions"})


def test_files_hold_the_rows_of_a_delta_and_its_base(root: Path, version: Version, tmp_path: Path) -> None:
    """Files, row groups and the delta's rows end at different rows."""
    config = version.config
    changed = {name: np.arange(1, table.rows, 3) for name, table in config.tables.items()}
    publish_version(root, config, "v2", seed=1, delta=Delta("v1", changed), chunk_bytes=500)
    newest = open_version(str(root / "store"))
    assert [part.id for part in newest.parts] == ["v1", "v2"]
    folder = OutputFolder.open(str(tmp_path))
    for quantization in ("none", "fp16", "int8"):
        facts = table_files.write_tables(newest, folder, quantization, file_bytes=1200)
        (tmp_path / "model.json").write_text(json.dumps({"tables": facts, "programs": {}}))
        tables = MappedTables(tmp_path)
        for name in served_tables(config):
            rows = np.random.default_rng(0).permutation(facts[name]["rows"]).repeat(2)
            table = make_table(torch.from_numpy(read_table(newest, name)), quantization)
            expected = table(torch.from_numpy(rows)).numpy()
            np.testing.assert_allclose(tables.lookup(name, rows), expected, rtol=0, atol=1e-6)
            assert tables.lookup(name, rows[:0]).shape == (0, facts[name]["width"])
            for outside in (-1, facts[name]["rows"]):
                with pytest.raises(IndexError, match=f"table {name} has rows 0 to"):
                    tables.lookup(name, np.array([0, outside]))


def test_a_damaged_table_is_not_written(root: Path, version: Version, tmp_path: Path) -> None:
    path = next((root / "store" / "versions" / "v1" / "tables" / "item").iterdir())
    good = path.read_bytes()
    try:
        path.write_bytes(good[:99] + bytes([good[99] ^ 1]) + good[100:])
        with pytest.raises(VersionError, match=f"{path.name}` is damaged: its hash"):
            export_version(version, str(tmp_path), "none", table_files=True)
        assert not (tmp_path / "model.json").exists()
    finally:
        path.write_bytes(good)
