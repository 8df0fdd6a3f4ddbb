"""Evaluation, scoring and exported programs predict the same, out of one published version."""

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raymtl.config.load import config_from_dict
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.data.writing import OutputFolder
from raymtl.errors import VersionError
from raymtl.serving import export
from raymtl.serving.export import export_version
from raymtl.serving.model import ServedModel, load_ranker, served_tables
from raymtl.serving.plan import plan_scoring
from raymtl.serving.scorer import Predictor, UnitReader
from raymtl.serving.tables import make_table
from raymtl.serving.version import Version, open_version, read_dense, read_id_map, read_table
from raymtl.storage import folder
from raymtl.storage.object_store import Store
from tests.helpers.exported_programs import predictions
from tests.helpers.served_version import (
    ITEM_SIDE,
    USER_SIDE,
    few_features,
    publish_version,
    raw_features,
    served_config,
    write_logs,
)

FP16_BOUND, INT8_BOUND = 1e-3, 2e-2
"""Largest difference of a probability that such tables may make here, with embeddings of N(0, 1), 8 wide."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_logs(folder)
    return folder


@pytest.fixture(scope="module")
def expected(root: Path) -> np.ndarray:
    return publish_version(root, served_config(root))


@pytest.fixture(scope="module")
def version(root: Path, expected: np.ndarray) -> Version:
    return open_version(str(root / "store"))


def scored(
    version: Version, root: Path, batch_rows: int, split: bool = True, quantization: str = "none"
) -> tuple[np.ndarray, int]:
    config = version.config
    tables = {n: make_table(torch.from_numpy(read_table(version, n)), quantization) for n in served_tables(config)}
    model = ServedModel(config, load_ranker(config, read_dense(version), "v1"), tables)
    if not split:
        model.split = None
    predictor = Predictor(config, model, batch_rows, torch.device("cpu"))
    plan = plan_scoring(config, str(root / "logs"), None, ["user"])
    id_map = read_id_map(version, "user")
    reader = UnitReader(config, plan, {"user": IdLookup.build(id_map.ids, id_map.rows)})
    found = [predictor.predict(rows) for rows in reader.read(plan.outputs[1])]
    return np.concatenate([p for p, _ in found]), sum(users for _, users in found)


@pytest.mark.parametrize(("batch_rows", "split"), [(64, True), (300, True), (300, False)])
def test_scoring_predicts_what_evaluation_does(
    version: Version, root: Path, expected: np.ndarray, batch_rows: int, split: bool
) -> None:
    found, users = scored(version, root, batch_rows, split)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert expected.std(0).min() > 0.01
    assert users < 120 if split else users == 300


def test_a_search_finds_what_it_finds_in_evaluation(tmp_path: Path) -> None:
    """DIN over the steps with the candidate's ID: in scoring, in programs, and where the tables are files."""
    write_logs(tmp_path)
    raw = few_features(tmp_path).model_dump(mode="json")
    raw["features"]["user"]["side"] = "user"
    # Weights that sum to 1: with embeddings of N(0, 1) others give logits whose rounding alone exceeds 1e-5
    search = {"type": "din", "target": ["item"], "hidden": [4], "softmax": True, "search": {"history": "item"}}
    raw["model"] |= {"preset": "din", "sequence": {**search, "search_steps": 2}}
    raw["tables"]["item"] |= {"rows": 3, "id_space": "hash"}  # so that steps have the candidate's ID
    expected = publish_version(tmp_path, config_from_dict(raw))
    version = open_version(str(tmp_path / "store"))
    for split in (True, False):
        found, _ = scored(version, tmp_path, 300, split)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    for files in (False, True):
        folder = tmp_path / f"programs-{files}"
        facts = export_version(version, str(folder), "none", table_files=files)
        for found in predictions(folder, facts, raw_features(tmp_path)):
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def sided(raw: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in raw.items() if key.partition(".")[0] in names}


PROGRAM = """
import sys, torch
folder = sys.argv[1]
load = lambda name: torch.export.load(f"{folder}/{name}.pt2").module()
both, user, item, index = torch.load(f"{folder}/inputs.pt")
whole, parts = load("whole")(both), load("item")(load("user")(user), index, item)
assert not [name for name in sys.modules if name.partition(".")[0] in ("raymtl", "torchrec", "fbgemm_gpu", "ray")]
torch.save((whole, parts), f"{folder}/outputs.pt")
"""


def test_programs_predict_it_in_a_process_with_torch_alone(
    version: Version, root: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    facts = export_version(version, str(tmp_path), "none")
    raw = raw_features(root)
    whole, user, item = (
        {k: raw[k] for k in facts["programs"][f"{name}.pt2"]["features"]} for name in ("whole", "user", "item")
    )
    assert set(user) == set(sided(raw, [*USER_SIDE, "data"]))
    assert set(item) == set(sided(raw, ITEM_SIDE))
    torch.save((whole, user, item, torch.arange(300)), tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, cwd=tmp_path)
    for found in torch.load(tmp_path / "outputs.pt"):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "model.json").read_text()) == facts
    assert [o["name"] for o in facts["outputs"]] == ["click", "buy", "cvr"]
    assert facts["features"]["user"]["id_space"] == "map"
    weights = {name: facts["features"][name].get("weights") for name in ("tags", "topics", "likes")}
    assert weights == {"tags": None, "topics": "tag_weights", "likes": "likes"}
    sides = {name: facts["features"][name]["side"] for name in ("pair", "visit", "level")}
    assert sides == {"pair": "item", "visit": "user", "level": "item"}
    assert {name for name in facts["state"] if name.startswith("crossed.")} == {
        "crossed.user.id",
        "crossed.user.present",
    }


@pytest.mark.parametrize(("quantization", "bound"), [("fp16", FP16_BOUND), ("int8", INT8_BOUND)])
def test_quantised_tables_change_probabilities_a_little(
    version: Version, root: Path, expected: np.ndarray, quantization: str, bound: float
) -> None:
    off = np.abs(scored(version, root, 300, quantization=quantization)[0] - expected).max()
    print(f"{quantization}: {off:.2e}")
    assert 1e-6 < off <= bound


@pytest.mark.parametrize("path", ["store", "store/versions/v1", "store/versions/current/"])
def test_ways_to_name_a_version(version: Version, root: Path, path: str) -> None:
    assert open_version(str(root / path)).manifest.id == "v1"


@pytest.mark.parametrize("path", ["store/versions/v9", "nowhere"])
def test_a_version_that_is_not_there(version: Version, root: Path, path: str) -> None:
    with pytest.raises(VersionError, match="has no version"):
        open_version(str(root / path))


@pytest.mark.parametrize("file", ["tables/item", "tables/user", "dense.safetensors"])
def test_a_damaged_file_is_named(version: Version, root: Path, file: str) -> None:
    path = root / "store" / "versions" / "v1" / file
    path = next(path.iterdir()) if path.is_dir() else path
    good = path.read_bytes()
    try:
        path.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
        same_size = open_version(str(root / "store"))  # not read yet
        read = {"item": read_table, "user": read_id_map}.get(path.parent.name, lambda v, _: read_dense(v))
        with pytest.raises(VersionError, match=f"{path.name}` is damaged: its hash"):
            read(same_size, path.parent.name)
        path.write_bytes(good[:-9])
        with pytest.raises(VersionError, match=f"{path.name}` has .* bytes instead of"):
            open_version(str(root / "store"))
    finally:
        path.write_bytes(good)


def test_each_file_is_read_once(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(Store, "_read", lambda store, name, _read=Store._read: read.append(name) or _read(store, name))
    monkeypatch.setattr(folder, "open_to_read", lambda *a: pytest.fail("read in pieces, beside the whole"))
    read_table(version, "item")
    assert [name.rpartition("/")[0] for name in read] == ["versions/v1/tables/item"]


def test_an_export_that_is_killed_leaves_no_mixture(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(data: bytes, *names: str) -> export.Exported:
        return export.Exported(dict.fromkeys(names, data), {"programs": {name: {} for name in names}})

    def save(program: bytes, buffer: io.BytesIO) -> None:
        buffer.write(program)

    monkeypatch.setattr(torch.export, "save", save)
    made = exported(b"old", "whole", "user", "item")
    monkeypatch.setattr(export, "export_model", lambda *a: made)
    (tmp_path / "notes.txt").write_text("not ours")
    first = export_version(version, str(tmp_path), "none")
    assert first["programs"]["item.pt2"] == {"bytes": 3, "sha256": hashlib.sha256(b"old").hexdigest()}

    def killed(folder: OutputFolder, name: str, content: bytes) -> None:
        if name != "whole.pt2":
            raise KeyboardInterrupt
        write(folder, name, content)

    write = OutputFolder.write
    made = exported(b"new", "whole", "user", "item")
    monkeypatch.setattr(OutputFolder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        export_version(version, str(tmp_path), "none")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"notes.txt": "not ours", "whole.pt2": "new"}

    made = exported(b"one", "whole")  # a model without parts
    monkeypatch.setattr(OutputFolder, "write", write)
    export_version(version, str(tmp_path), "none")
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", "whole.pt2", "model.json"}
