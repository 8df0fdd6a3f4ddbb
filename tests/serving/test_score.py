"""`raymtl score` as a user types it: every row once, in whole files, whatever came before."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.cli.main import run_command
from raymtl.config.data import DayRange
from raymtl.config.slots.common import Custom
from raymtl.data.writing import OutputFolder
from raymtl.errors import ClusterError
from raymtl.serving import plan
from raymtl.serving import score as serving_score
from raymtl.serving.version import open_version
from raymtl.storage.object_store import Store
from raymtl.training import cluster
from tests.helpers.served_version import DAYS, publish_version, served_config, write_logs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs without labels and positions, and two versions."""
    folder = tmp_path_factory.mktemp("score")
    write_logs(folder)
    config = served_config(folder)
    np.save(folder / "v1.npy", publish_version(folder, config))
    large = config.train.model_copy(update={"workers": 64, "cpus_per_worker": 8})
    publish_version(folder, config.model_copy(update={"train": large}), "v2", seed=1)
    for path in (folder / "logs").rglob("*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["click", "buy", "rank"]), path)
    return folder


def score(capfd: pytest.CaptureFixture[str], root: Path, out: Path, *more: str, code: int = 0) -> Any:
    """The JSON of the command, or its sentence."""
    arguments = ["score", "--version", str(root / "store/versions/v1"), "--data", str(root / "logs"), "--out", str(out)]
    assert run_command([*arguments, "--json", *more]) == code
    said = capfd.readouterr()
    return said.err if code else json.loads(said.out.splitlines()[-1])


@pytest.mark.ray
def test_a_killed_scoring_resumes_with_the_missing_files(
    ray_cluster: None,
    root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "UNIT_ROWS", 150)  # a unit for each file
    out = tmp_path / "out"
    first = score(capfd, root, out, "--workers", "1", "--keys", "item", "--keys", "user")
    names = [f"ds={day}/unit-0000{n}.parquet" for day in DAYS for n in (0, 1)]
    assert [f["path"] for f in first["files"]] == names
    assert [f["rows"] for f in first["files"]] == [200, 100] * 2
    assert first["version"] == "v1"
    assert first == json.loads((out / "_SUCCESS").read_text())

    made = pq.read_table(out / f"ds={DAYS[1]}", partitioning=None)
    logs = pq.read_table(root / "logs" / f"ds={DAYS[1]}", partitioning=None)
    assert made.column_names == ["item", "user", "pred_click", "pred_buy", "pred_cvr"]
    assert made.column("item").equals(logs.column("item"))
    assert made.column("user").equals(logs.column("user"))
    np.testing.assert_allclose(
        np.stack([made.column(n).to_numpy() for n in made.column_names[2:]], 1), np.load(root / "v1.npy"), atol=1e-6
    )

    # As a kill leaves it: no marker, one file missing, one cut off, one in the making
    before = {name: (out / name).stat().st_mtime_ns for name in names}
    whole = (out / names[1]).read_bytes()
    (out / "_SUCCESS").unlink()
    (out / names[0]).unlink()
    (out / names[1]).write_bytes(whole[:-100])
    (out / names[0].replace("unit", "_unit")).write_bytes(b"half")
    again = score(capfd, root, out, "--workers", "1", "--keys", "item", "--keys", "user")
    assert [f["rows"] for f in again["files"]] == [200, 100] * 2
    assert {name for name in names if (out / name).stat().st_mtime_ns == before[name]} == set(names[2:])
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*unit*")) == names
    assert (out / names[1]).read_bytes() == whole

    # Damaged after it was published, with its size: the task that reads it says so
    (out / names[0]).unlink()
    table = next((root / "store/versions/v1/tables/item").iterdir())
    good = table.read_bytes()
    table.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    said = score(capfd, root, out, "--workers", "1", "--keys", "item", "--keys", "user", code=66)
    table.write_bytes(good)
    assert f"{table.name}` is damaged: its hash differs from the manifest's" in " ".join(said.split())


@pytest.mark.ray
def test_a_resumed_scoring_keeps_the_snapshot_of_its_table(
    ray_cluster: None, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    deltalake = pytest.importorskip("deltalake")
    lake, out = tmp_path / "lake", tmp_path / "out"
    for day in DAYS:
        rows = pq.read_table(root / "logs" / f"ds={day}", partitioning=None)
        rows = rows.append_column("ds", pa.array([day] * len(rows)))
        deltalake.write_deltalake(str(lake), rows, partition_by=["ds"], mode="append")
    there = ["--data", str(lake), "--workers", "1"]
    first = score(capfd, root, out, *there)
    assert (first["snapshot"], first["rows"]) == (1, 600)
    deltalake.DeltaTable(str(lake)).delete(f"ds = '{DAYS[0]}'")
    (out / "_SUCCESS").unlink()
    again = score(capfd, root, out, *there)
    assert (again["snapshot"], again["rows"]) == (1, 600)
    newer = score(capfd, root, tmp_path / "newer", *there, "--snapshot", "2")
    assert (newer["snapshot"], newer["rows"]) == (2, 300)
    assert "holds predictions for other files" in score(capfd, root, out, *there, "--snapshot", "2", code=64)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--version", "V2"], "holds predictions of version v1, not v2"),
        (["--days", DAYS[0]], "holds predictions for other files"),
        (["--keys", "item"], "holds predictions with the key columns"),
        (["--days", "2026-01-02..2026-01-01"], "before start"),
        (["--keys", "pred_click"], "the key column `pred_click` is missing"),
    ],
)
def test_what_is_refused(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    done(root, tmp_path)
    more = [str(root / "store/versions/v2") if m == "V2" else m for m in more]
    assert words in " ".join(score(capfd, root, tmp_path, *more, code=65 if "pred_click" in more else 64).split())


def test_days_and_keys_unless_they_are_given(root: Path) -> None:
    config = served_config(root)
    assert plan.default_keys(config) == ["user", "item", "place"]
    one_day = plan.plan_scoring(config, str(root / "logs"), DayRange(start=DAYS[0], end=DAYS[0]), [])
    assert [(o.name, o.unit.rows) for o in one_day.outputs] == [(f"ds={DAYS[0]}/unit-00000.parquet", 300)]


def test_a_key_that_is_named_twice_is_one_column(root: Path) -> None:
    made = plan.plan_scoring(served_config(root), str(root / "logs"), None, ["item", "user", "item"])
    assert made.keys.names == ["item", "user"]


def test_a_refused_folder_costs_no_reading_of_tables(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done(root, tmp_path)
    monkeypatch.setattr(Store, "sha256_of", lambda *a: pytest.fail("a hash"))
    said = score(capfd, root, tmp_path, "--version", str(root / "store/versions/v2"), code=64)
    assert "holds predictions of version v1" in " ".join(said.split())


def test_the_marker_counts_with_its_files_only(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def join(address: str | None, cpus: int) -> bool:
        raise ClusterError("files are missing")

    monkeypatch.setattr(serving_score, "join", join)
    for output in done(root, tmp_path):
        (tmp_path / output.name).parent.mkdir()
        pq.write_table(pa.table({"x": range(output.unit.rows)}), tmp_path / output.name)
    first = score(capfd, root, tmp_path)
    marker = tmp_path / "_SUCCESS"
    assert score(capfd, root, tmp_path) == first
    for damaged in (b"{", b"[]", b"\xff", b"{}", marker.read_bytes().replace(b"300", b"299")):
        marker.write_bytes(damaged)
        made = score(capfd, root, tmp_path)
        assert made["files"] == first["files"]
        assert made == json.loads(marker.read_text())
    (tmp_path / first["files"][0]["path"]).unlink()
    assert "files are missing" in score(capfd, root, tmp_path, code=69)
    assert not marker.exists()


@pytest.mark.parametrize(("more", "cpus"), [([], 1), (["--workers", "2", "--cpus-per-worker", "100"], 200)])
def test_one_machine_gets_its_own_cpus_whatever_the_training_had(
    root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    cpus: int,
) -> None:
    started: dict[str, Any] = {}

    def init(**given: Any) -> None:
        started.update(given)
        raise RuntimeError("started")

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    score(capfd, root, tmp_path, "--version", str(root / "store/versions/v2"), *more, code=69)  # of 64 workers
    assert started["num_cpus"] == max(os.cpu_count() or 1, cpus)


def test_as_many_scorers_as_fit_on_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, int]] = []

    def places(need: Any, least: int, *rest: Any) -> int:
        asked.append((need, least))
        return 5

    monkeypatch.setattr(serving_score, "places", places)
    found = [
        serving_score._workers(serving_score.Pool(workers, 3, gpu), units, local=False)
        for workers, gpu, units in ((None, False, 9), (None, True, 2), (4, False, 9), (4, False, 2))
    ]
    assert found == [5, 2, 4, 2]
    assert asked == [({"CPU": 3}, 1), ({"CPU": 3, "GPU": 1}, 1), ({"CPU": 3}, 4), ({"CPU": 3}, 2)]


def test_reading_a_table_needs_memory_beside_the_object_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = open_version(str(root / "store/versions/v1"))
    reading = serving_score._reading_bytes(version)
    assert set(reading) == {("table", n) for n in ("user", "place", "item", "tags", "level", "pair", "visit")} | {
        ("map", "user")
    }
    most = max(reading.values())

    def nodes(memory: int) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1, "object_store_memory": 1 << 30, "memory": memory}}]

    monkeypatch.setattr(serving_score.ray, "nodes", lambda: nodes(most))
    serving_score._check_memory(version, reading)
    monkeypatch.setattr(serving_score.ray, "nodes", lambda: nodes(most - 1))
    with pytest.raises(ClusterError, match=r"reading the \w+ `\w+` of version v1 takes .* besides the object store"):
        serving_score._check_memory(version, reading)


OWN = """
from raymtl.models.slots import TrunkSlot


class Own(TrunkSlot):
    def __init__(self, context):
        super().__init__()
        self.width = context.width

    def forward(self, x, inputs):
        return x
"""


def test_code_of_a_version_runs_only_where_it_is_allowed(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_of_version.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    write_logs(tmp_path)
    config = served_config(tmp_path)
    own = Custom(type="custom", path="own_of_version:Own")
    publish_version(tmp_path, config.model_copy(update={"model": config.model.model_copy(update={"trunk": own})}))
    sys.modules.pop("own_of_version")
    path = str(tmp_path / "store")
    for command in (["score", "--data", str(root / "logs")], ["export"]):
        assert run_command([*command, "--version", path, "--out", str(tmp_path / "out")]) == 64
        said = " ".join(capfd.readouterr().err.split())
        assert "model.trunk.path is `own_of_version:Own`, which would be imported and run; use --allow-custom" in said
    assert "own_of_version" not in sys.modules
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(serving_score, "join", lambda *a: (_ for _ in ()).throw(ClusterError("allowed")))
    assert "allowed" in score(capfd, root, tmp_path / "out", "--version", path, "--allow-custom", code=69)


def done(root: Path, out: Path) -> tuple[plan.Output, ...]:
    """The folder of a scoring by version v1 of all days that has just started, and its expected content."""
    version = open_version(str(root / "store/versions/v1"))
    made = plan.plan_scoring(version.config, str(root / "logs"), None, plan.default_keys(version.config))
    serving_score._begin(OutputFolder.open(str(out)), version, made, serving_score._columns(version), None)
    return made.outputs
