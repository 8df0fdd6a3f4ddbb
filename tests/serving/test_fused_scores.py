"""Scores: the same in evaluation, scoring and exported programs, and the best rows of each list."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raymtl.cli.main import run_command
from raymtl.config.load import config_from_dict
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.data.writing import OutputFolder
from raymtl.errors import ConfigError
from raymtl.objectives.fusion import Fusion
from raymtl.serving import plan
from raymtl.serving import score as serving_score
from raymtl.serving.export import export_version
from raymtl.serving.formats import serialize
from raymtl.serving.model import ServedModel, load_ranker, served_tables
from raymtl.serving.plan import plan_scoring
from raymtl.serving.scorer import Predictor, UnitReader
from raymtl.serving.tables import make_table
from raymtl.serving.top import BestRows, Top, best_rows, choose_top, ranked_rows
from raymtl.serving.version import Version, open_version, read_dense, read_id_map, read_table
from tests.helpers.exported_programs import onnx_program
from tests.helpers.preset_models import exported_preset, random_inputs
from tests.helpers.served_version import DAYS, few_features, publish_version, raw_features, write_logs
from tests.helpers.small_config import small_raw

FORMULAS: dict[str, Any] = {
    "value": {"type": "product", "powers": {"click": 1, "buy": 0.5}},
    "mix": {"type": "sum", "weights": {"click": 1, "cvr": 2}},
    "steps": {"type": "buckets", "by": "click", "edges": [0.05, 0.2, 0.45], "then": "buy"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused")
    write_logs(folder)
    return folder


@pytest.fixture(scope="module")
def expected(root: Path) -> np.ndarray:
    """Evaluation's predictions of the second day, and the scores that follow from them."""
    config = config_from_dict(few_features(root).model_dump(mode="json") | {"score": {"formulas": FORMULAS}})
    predicted = torch.from_numpy(publish_version(root, config))
    assert config.score is not None
    fused = Fusion(config.score.formulas, ["click", "buy", "cvr"])(predicted)
    return torch.cat((predicted, fused), 1).numpy()


@pytest.fixture(scope="module")
def version(root: Path, expected: np.ndarray) -> Version:
    return open_version(str(root / "store"))


def close(found: Any, expected: np.ndarray) -> None:
    """To 1e-6, and the buckets, which are powers of two, to 1e-6 of themselves."""
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6, atol=1e-6)


def test_scoring_and_both_parts_say_what_evaluation_says(
    version: Version, root: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    config = version.config
    tables = {n: make_table(torch.from_numpy(read_table(version, n)), "none") for n in served_tables(config)}
    model = ServedModel(config, load_ranker(config, read_dense(version), "v1"), tables)
    id_map = read_id_map(version, "user")
    day = plan_scoring(config, str(root / "logs"), None, ["user"])
    reader = UnitReader(config, day, {"user": IdLookup.build(id_map.ids, id_map.rows)})
    predictor = Predictor(config, model, 64, torch.device("cpu"))
    found = np.concatenate([predictor.predict(rows)[0] for rows in reader.read(day.outputs[-1])])
    close(found, expected)

    facts = export_version(version, str(tmp_path), "none")
    assert [o["name"] for o in facts["outputs"]] == ["click", "buy", "cvr", "score_value", "score_mix", "score_steps"]
    assert facts["outputs"][5]["formula"] == FORMULAS["steps"]
    raw = raw_features(root)
    whole, user, item = (torch.export.load(tmp_path / f"{name}.pt2").module() for name in ("whole", "user", "item"))
    own = {
        name: {k: raw[k] for k in facts["programs"][f"{name}.pt2"]["features"]} for name in ("whole", "user", "item")
    }
    close(whole(own["whole"]), expected)
    close(item(user(own["user"]), torch.arange(len(expected)), own["item"]), expected)


def test_scores_in_onnx() -> None:
    config, model, rules, exported = exported_preset("esmm", "none", ("whole",), {"formulas": {
        "value": {"type": "product", "powers": {"ctr": 1, "ctcvr": 0.5}},
        "steps": {"type": "buckets", "by": "ctr", "edges": [0.2, 0.5], "then": "cvr"},
    }})  # fmt: skip
    program = onnx_program(
        serialize(exported.programs["whole"], "onnx", entry := exported.facts["programs"]["whole"]), entry
    )
    assert model.scores == ["value", "steps"]
    both = random_inputs(config, 33)
    with torch.no_grad():
        close(program(both), model.predict(rules["item"](rules["user"](both))).numpy())


def test_a_formula_of_another_file_replaces_that_of_the_version(version: Version, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "score.yaml"
    file.write_text("score: {formulas: {new: {type: sum, weights: {cvr: 3}}}}\n")
    again = open_version(str(root / "store"), formulas=str(file))
    assert again.config.score is not None
    assert list(again.config.score.formulas) == ["new"]
    assert again.config.tasks == version.config.tasks
    file.write_text("formulas: {}\n")
    with pytest.raises(ConfigError, match="has no section `score`"):
        open_version(str(root / "store"), formulas=str(file))


def brute_force(rows: pa.Table, count: int) -> list[tuple[Any, int, int]]:
    """List, row and rank of the best rows, one list after the other."""
    found = []
    for name in sorted({n for n in rows.column("list").to_pylist() if n is not None}):
        own = [r for r in rows.to_pylist() if r["list"] == name]
        own.sort(key=lambda r: (-r["score"], r["row"]))
        found += [(name, row["row"], rank) for rank, row in enumerate(own[:count], 1)]
    return sorted(found)


def test_the_best_rows_are_those_of_all_chunks_and_parts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    count = 5000
    lists = random.integers(0, 300, count)
    rows = pa.table({
        "list": pa.array([f"u{n}" for n in lists], mask=random.random(count) < 0.05),
        "row": np.arange(count),
        "score": random.integers(0, 40, count).astype(np.float32),  # many ties
    })  # fmt: skip
    best = Top(3, ("list",), "score")
    chunked = BestRows(best, rows.schema)
    chunked._limit = 500
    for start in range(0, count, 170):
        chunked.add(rows.slice(start, 170))
    assert len(chunked._kept) < 2000
    parts = [*chunked.parts(7)]
    assert len({name for part in parts for name in part.column("list").to_pylist()}) == 300
    found = [row for part in parts for row in ranked_rows(part, best).to_pylist()]
    assert sorted((r["list"], r["row"], r["rank"]) for r in found) == brute_force(rows, 3)


def test_requests_of_two_users_with_one_id_are_two_lists() -> None:
    rows = pa.table(
        {"user": [1, 2, 1, None], "req": ["7", "7", "7", "7"], "row": [0, 1, 2, 3], "score": [1.0, 2, 3, 9]}
    )
    best = Top(1, ("user", "req"), "score")
    found = BestRows(best, rows.schema)
    found.add(rows)
    assert sorted(row["row"] for part in found.parts(3) for row in ranked_rows(part, best).to_pylist()) == [1, 2]
    many = BestRows(best, rows.schema)
    many.add(pa.table([list(range(50)), ["7"] * 50, [0] * 50, [1.0] * 50], schema=rows.schema))
    assert sum(len(part) > 0 for part in many.parts(3)) == 3
    raw = small_raw()
    raw["data"] |= {"group": "user", "request": "req"}
    assert choose_top(config_from_dict(raw), ["pred_click"], 1, None, None).per == ("user", "req")
    assert choose_top(config_from_dict(raw), ["pred_click"], 1, "req", None).per == ("req",)


def test_a_score_that_is_no_number_is_the_worst() -> None:
    rows = pa.table({"list": [1, 1, 1], "score": pa.array([np.nan, -5.0, -np.inf], pa.float32())})
    assert best_rows(rows, Top(2, ("list",), "score")).column("score").to_pylist()[1] == -5.0
    assert ranked_rows(rows, Top(1, ("list",), "score")).column("score").to_pylist() == [-5.0]


def test_what_ranks_must_be_said(version: Version) -> None:
    names = ["pred_click", "score_value", "score_mix"]
    with pytest.raises(ConfigError, match="set --by to one of `score_value`, `score_mix`, `score_steps`"):
        choose_top(version.config, names, 5, None, None)
    with pytest.raises(ConfigError, match="--by is `value`; expected one of"):
        choose_top(version.config, names, 5, None, "value")
    assert choose_top(version.config, names, 5, None, "score_mix") == Top(5, ("user",), "score_mix")


@pytest.mark.ray
def test_the_best_rows_over_files(
    ray_cluster: None,
    root: Path,
    expected: np.ndarray,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "UNIT_ROWS", 150)  # a unit for each file
    monkeypatch.setattr(serving_score, "choose_top", lambda *given: replace(choose_top(*given), part_rows=100))
    arguments = ["score", "--version", str(root / "store"), "--data", str(root / "logs"), "--workers", "1", "--json"]
    assert run_command([*arguments, "--out", str(tmp_path / "all"), "--keys", "item"]) == 0
    extra = ["--top", "2", "--by", "score_steps", "--keys", "item"]
    assert run_command([*arguments, "--out", str(tmp_path / "top"), *extra]) == 0
    made = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [f["path"] for f in made["files"]] == [f"ds={day}/top-0000{n}.parquet" for day in DAYS for n in range(3)]
    for day in DAYS:
        logs = pq.read_table(root / "logs" / f"ds={day}", partitioning=None)
        rows = pq.read_table(tmp_path / "all" / f"ds={day}", partitioning=None)
        whole = pa.table(
            {"list": logs.column("user"), "row": np.arange(len(logs)), "score": rows.column("score_steps")}
        )
        kept = pq.read_table(tmp_path / "top" / f"ds={day}", partitioning=None)
        assert kept.column_names[-1] == "rank"
        score = dict(enumerate(whole.column("score").to_pylist()))
        wanted = [(name, rank, score[row]) for name, row, rank in brute_force(whole, 2)]
        found = zip(*(kept.column(n).to_pylist() for n in ("user", "rank", "score_steps")), strict=True)
        assert sorted(found) == sorted(wanted)
    assert not (tmp_path / "top" / "_top").exists()
    assert run_command([*arguments, "--out", str(tmp_path / "top"), *extra]) == 0  # finished: nothing is read
    assert json.loads(capfd.readouterr().out.splitlines()[-1]) == made
    assert (
        run_command([*arguments, "--out", str(tmp_path / "top"), "--by", "score_mix", "--top", "2", "--keys", "item"])
        == 64
    )
    assert "of the best rows" in " ".join(capfd.readouterr().err.split())
    isolated = OutputFolder.open(str(tmp_path / "top"))
    isolated.remove(made["files"][0]["path"])
    assert run_command([*arguments, "--out", str(tmp_path / "top"), *extra]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["files"] == made["files"]
