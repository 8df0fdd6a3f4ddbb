"""`raymtl init` as a whole: the logs are read once, and `check` finds nothing to say against the configuration."""

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import raymtl
from raymtl.cli.main import run_command
from raymtl.config.load import config_from_dict, load_config
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.init.run import check_free, look, write
from raymtl.storage.folder import Folder
from tests.benchmarks.init.logs import write_parquet
from tests.helpers.s3_server import ENVIRONMENT, s3_server

ROWS = 1207


def columns(seed: int, rows: int, day: str) -> dict:
    random = np.random.default_rng(seed)
    click = random.random(rows) < 0.3
    return {
        "user_id": [f"u{n}" for n in random.integers(0, 200, rows)],
        "item_id": random.integers(0, 90, rows),
        "ts": np.datetime64(day, "us") + random.integers(0, 86_400, rows).astype("timedelta64[s]"),
        "price": random.gamma(2, 3, rows),
        "click": click,
        "buy": click & (random.random(rows) < 0.4),
    }


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "names", [("dt=20260130/a.parquet", "dt=20260131/country=de/b.parquet"), ("a.parquet", "b.parquet")]
)
def test_from_a_folder_to_a_configuration_that_check_passes(
    names: tuple[str, str], ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for n, (name, day) in enumerate(zip(names, ("2026-01-30", "2026-01-31"), strict=True)):
        found = columns(n, ROWS - 200 * n, day)
        found["buy"] = np.where(found["buy"], "yes", "no")
        if "=" not in name:
            found["ts"] = [f"{moment}Z" for moment in found["ts"]]
        write_parquet(tmp_path / "logs" / name, found)
    file = tmp_path / "new" / "config.yaml"
    file.parent.mkdir()
    assert run_command(["init", str(tmp_path / "logs"), "--out", str(file), "--yes", "--json"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["rows"] == 2 * ROWS - 200
    uses = {column: entry["use"] for column, entry in found["columns"].items()}
    country = {"country": "ignore"} if "country" in names[1] else {}
    assert uses == {
        "user_id": "group",
        "item_id": "id",
        "ts": "time",
        "price": "dense",
        "click": "label",
        "buy": "label",
        **country,
    }
    config = load_config(str(file))
    report = check_data(config, "both", read_tasks=2)
    assert report.problems == []
    assert [part.rows for part in report.parts.values()] == [ROWS, ROWS - 200]
    assert config.tasks["buy"].parent == "click"
    assert (config.tasks["buy"].positive, config.tasks["buy"].negative) == (["yes"], ["no"])
    assert 0.08 < report.parts["train"].tasks["buy"].all.mean < 0.16  # .3 × .4
    if "/" not in names[0]:  # the rows were written by day
        assert config.data.path == str(file.parent / "config-logs")
        written = [pq.read_table(f) for f in sorted((file.parent / "config-logs").glob("ds=*/*.parquet"))]
        assert sum(map(len, written)) == 2 * ROWS - 200


@pytest.mark.ray
def test_from_python(ray_cluster: None, tmp_path: Path) -> None:
    write_parquet(tmp_path / "logs" / "a.parquet", columns(0, ROWS, "2026-01-30"))
    config = raymtl.init_config(
        tmp_path / "logs", tmp_path / "c.yaml", labels=["buy"], ignored=["price"], progress=False
    )
    assert [*config.tasks] == ["buy"]
    assert [*config.features] == ["user_id", "item_id"]
    assert config.data.train.end < config.data.eval.start  # type: ignore[union-attr]
    (tmp_path / "c.yaml").unlink()
    with pytest.raises(
        raymtl.errors.ConfigError, match="c-logs` exists, where logs without days would be written by day"
    ):
        raymtl.init_config(tmp_path / "logs", tmp_path / "c.yaml", progress=False)
    with pytest.raises(raymtl.errors.ConfigError, match="lies in the folder of the logs"):
        raymtl.init_config(tmp_path / "logs", tmp_path / "logs" / "d.yaml", progress=False)
    (tmp_path / "c.yaml").touch()
    with pytest.raises(raymtl.errors.ConfigError, match="exists; remove it"):
        raymtl.init_config(tmp_path / "logs", tmp_path / "c.yaml", progress=False)


def test_a_file_that_cannot_be_written_is_found_before_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymtl.init.run.look", lambda *_, **__: pytest.fail("the logs are read"))
    (tmp_path / "file").touch()
    for folder in ("nowhere", "file"):
        out = tmp_path / folder / "config.yaml"
        with pytest.raises(raymtl.errors.ConfigError, match=f"--out `{out}` lies in no folder; create `{out.parent}`"):
            raymtl.init_config(tmp_path, out, progress=False)
    monkeypatch.setattr(
        "raymtl.init.run.put", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    out = tmp_path / "config.yaml"
    with pytest.raises(raymtl.errors.StorageError, match=f"cannot write --out `{out}`: .*denied.*choose another file"):
        raymtl.init_config(tmp_path, out, progress=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.parametrize("names", [("dt=20260130/a.parquet", "dt=20260131/b.parquet"), ("a.parquet", "b.parquet")])
def test_logs_and_configuration_on_s3(
    names: tuple[str, str], ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, (name, day) in enumerate(zip(names, ("2026-01-30", "2026-01-31"), strict=True)):
        write_parquet(tmp_path / "logs" / name, columns(n, ROWS - 200 * n, day))
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    with s3_server() as server:
        server.upload(str(tmp_path / "logs"), "logs")
        out = server.url("new/config.yaml")
        check_free(out)
        draft = look(server.url("logs"))
        assert draft.profile.rows == 2 * ROWS - 200
        write(draft, out)
        folder = Folder.open(server.url("new"))
        assert set(folder.files()) >= {"config.yaml"}
        config = config_from_dict(yaml.safe_load(folder.read("config.yaml") or b""))
        assert config.data.path == server.url("logs" if "=" in names[0] else "new/config-logs")
        assert check_data(config, "both", read_tasks=2).problems == []
        with pytest.raises(raymtl.errors.ConfigError, match="exists; remove it"):
            check_free(out)


@pytest.mark.ray
def test_mistakes_are_one_sentence(ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        code = run_command(["init", *arguments])
        return code, " ".join(capfd.readouterr().err.split())

    logs, file = tmp_path / "logs", tmp_path / "config.yaml"
    write_parquet(logs / "ds=2026-01-30" / "a.parquet", {"age": np.arange(50) % 7})
    code, text = said(str(tmp_path / "nowhere"), "--out", str(file))
    assert (code, f"PATH `{tmp_path}/nowhere` does not exist; pass the folder" in text) == (65, True)
    code, text = said(str(logs / "ds=2026-01-30" / "a.parquet"), "--out", str(file))
    assert (code, "a.parquet` is a file; pass the folder" in text) == (65, True)
    (tmp_path / "empty").mkdir()
    code, text = said(str(tmp_path / "empty"), "--out", str(file))
    assert (code, "empty` is empty; pass the folder" in text) == (65, True)
    code, text = said(str(logs), "--out", str(file), "--label", "clik")
    assert (code, "has no column `clik`; its columns are age" in text) == (64, True)
    code, text = said(str(logs), "--out", str(file), "--yes")
    assert (code, "has no column that looks like a label" in text) == (65, True)
    assert not file.exists()
    file.touch()
    code, text = said(str(logs), "--out", str(file))
    assert (code, "exists; remove it, or choose another file with --out" in text) == (64, True)


def test_the_footers_alone_are_enough_for_a_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for n, day in enumerate(("2026-01-30", "2026-01-31")):
        write_parquet(
            tmp_path / "logs" / f"ds={day}" / "a.parquet", columns(n, ROWS, day) | {"const": np.ones(ROWS, int)}
        )
    file = tmp_path / "c.yaml"
    assert run_command(["init", str(tmp_path / "logs"), "--out", str(file), "--from-schema", "--yes", "--json"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert {column: entry["use"] for column, entry in found["columns"].items()} == {
        "user_id": "group",
        "item_id": "id",
        "ts": "time",
        "price": "dense",
        "click": "label",
        "buy": "label",
        "const": "ignore",
    }
    config = load_config(str(file))
    assert config.tables["item_id"].rows == 720
    assert config.features["price"].model_dump()["mean"] == 0
    write_parquet(tmp_path / "flat" / "a.parquet", columns(0, ROWS, "2026-01-30"))
    assert run_command(["init", str(tmp_path / "flat"), "--out", str(tmp_path / "d.yaml"), "--from-schema"]) == 64
    assert "only the rows can tell theirs; leave out --from-schema" in " ".join(capfd.readouterr().err.split())


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_from_a_table_to_a_configuration_that_check_passes(kind: str, ray_cluster: None, tmp_path: Path) -> None:
    days = [dt.date(2026, 1, 30), dt.date(2026, 1, 31)]
    root = tmp_path / "logs" / "views"
    tables = [
        pa.table({"dt": pa.array([day] * ROWS, pa.date32()), **columns(n, ROWS, str(day))})
        for n, day in enumerate(days)
    ]
    if kind == "delta":
        deltalake = pytest.importorskip("deltalake")
        for rows in tables:
            deltalake.write_deltalake(str(root), rows, partition_by=["dt"], mode="append")
    else:
        sql = pytest.importorskip("pyiceberg.catalog.sql")
        catalog = sql.SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}")
        catalog.create_namespace("logs")
        made = catalog.create_table("logs.views", tables[0].schema)
        with made.update_spec() as spec:
            spec.add_identity("dt")
        for rows in tables:
            made.append(rows)
    file = tmp_path / "config.yaml"
    assert run_command(["init", str(root), "--out", str(file), "--yes"]) == 0
    config = load_config(str(file))
    assert (config.data.path, config.data.partition.key, config.data.snapshot) == (str(root), "dt", None)
    assert (config.data.train.end, config.data.eval.start) == tuple(days)
    report = check_data(config, "both", read_tasks=2)
    assert report.problems == []
    assert [part.rows for part in report.parts.values()] == [ROWS, ROWS]


def test_several_roots_are_one_data_set(tmp_path: Path) -> None:
    for n, name in enumerate(("country=de", "country=fr")):
        for day in ("2026-01-30", "2026-01-31"):
            write_parquet(tmp_path / name / f"ds={day}" / "a.parquet", columns(n, 50, day))
    roots = [str(tmp_path / "country=de"), str(tmp_path / "country=fr")]
    draft = look(roots, labels=["click"], read_rows=False)
    assert draft.profile.rows == 200
    assert "country" in draft.guesses
    write(draft, str(tmp_path / "config.yaml"))
    assert load_config(str(tmp_path / "config.yaml")).data.roots_of("train") == tuple(roots)
    with pytest.raises(DataError, match="are one folder, whose rows would be read twice; list it once"):
        look([roots[0], f"{roots[0]}/"], read_rows=False)
