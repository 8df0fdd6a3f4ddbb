"""`raymtl score` as a user types it: every row once, in whole files, whatever came before."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parent))
from served import DAYS, publish_version, served_config, write_logs

from raymtl.cli import run_command
from raymtl.config.data import DayRange
from raymtl.serving import plan


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs without labels and positions, and two versions."""
    folder = tmp_path_factory.mktemp("score")
    write_logs(folder)
    config = served_config(folder)
    np.save(folder / "v1.npy", publish_version(folder, config))
    publish_version(folder, config, "v2", seed=1)
    for path in (folder / "logs").rglob("*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["click", "buy", "rank"]), path)
    return folder


def score(capfd: pytest.CaptureFixture[str], root: Path, out: Path, *more: str, code: int = 0) -> Any:
    """The JSON of the command, or its sentence."""
    arguments = ["score", "--version", str(root / "store/versions/v1"), "--data", str(root / "logs"), "--out", str(out)]
    assert run_command([*arguments, "--workers", "1", "--json", *more]) == code
    said = capfd.readouterr()
    return said.err if code else json.loads(said.out.splitlines()[-1])


@pytest.mark.ray
def test_a_killed_scoring_goes_on_with_what_is_missing(
    ray_cluster: None,
    root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "UNIT_ROWS", 150)  # a unit for each file
    out = tmp_path / "out"
    first = score(capfd, root, out, "--keys", "item", "--keys", "user")
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
    again = score(capfd, root, out, "--keys", "item", "--keys", "user")
    assert [f["rows"] for f in again["files"]] == [200, 100] * 2
    assert {name for name in names if (out / name).stat().st_mtime_ns == before[name]} == set(names[2:])
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*unit*")) == names
    assert (out / names[1]).read_bytes() == whole


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--version", "V2"], "holds the output of version v1, not v2"),
        (["--days", DAYS[0]], "holds the output of other files"),
        (["--keys", "item"], "holds the output of the key columns"),
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


def done(root: Path, out: Path) -> None:
    """The folder of a scoring by version v1 of all days that has just begun."""
    from raymtl.data.writing import Folder
    from raymtl.serving.score import _begin, _outputs
    from raymtl.serving.version import open_version

    version = open_version(str(root / "store/versions/v1"))
    made = plan.plan_scoring(version.config, str(root / "logs"), None, plan.default_keys(version.config))
    _begin(Folder(str(out)), version, made, ["pred_" + name for name in _outputs(version)])
