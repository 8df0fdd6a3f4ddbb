"""`raymtl daily`: what it says and returns where something is wrong around it."""

import shutil
import threading
from pathlib import Path

import pytest
import yaml

from raymtl.cli.main import run_command
from raymtl.daily.record import read_record
from raymtl.storage.object_store import Store
from tests.helpers.daily_world import daily_raw, day_of, write_day
from tests.helpers.pipe import fork

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]


def world(root: Path, **daily: object) -> tuple[list[str], Path]:
    """The command over three small days, and its store."""
    for number in range(3):
        write_day(root / "logs", number)
    store = root / "store"
    file = root / "daily.yaml"
    file.write_text(yaml.safe_dump(daily_raw(root / "logs", store, **daily), sort_keys=False))
    return ["daily", "--config", str(file)], store


def test_a_store_that_is_deleted_under_way(tmp_path: Path) -> None:
    command, store = world(tmp_path)
    process = fork(*command, "--date", str(day_of(1)))
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    for line in process.stdout:
        if line.startswith("starting 1 worker"):
            shutil.rmtree(store)
            break
    process.stdout.read()
    assert process.wait(240) == 74
    reader.join()
    assert errors[0].startswith(
        f"raymtl: the folder of store {store} was deleted while {day_of(1)} was running; nothing was published. Restore"
    )
    assert len(errors[0].splitlines()) == 1
    assert read_record(Store.open(str(store)), day_of(1)) is None
    assert not (store / "log").exists()


def test_a_day_of_next_to_no_rows(ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not published by default; with --ignore-bounds it is, and the record and the page say what was unusual."""
    command, store = world(tmp_path, bounds={}, bootstrap_days=1)
    shutil.rmtree(tmp_path / "logs" / f"ds={day_of(1)}")
    write_day(tmp_path / "logs", 1, (3,))

    def run(*more: str) -> tuple[int, str]:
        code = run_command([*command, *more])
        return code, capfd.readouterr().err

    assert run("--date", str(day_of(0))) == (0, "")
    code, err = run("--date", str(day_of(1)))
    assert (code, len(err.splitlines())) == (75, 1)
    odd = "the day has 3 rows, fewer than 20% of the expected 360 (from 1 earlier day; daily.bounds.min_rows_share)"
    assert odd in err
    record = read_record(Store.open(str(store)), day_of(1))
    assert record is not None
    assert (record.status, record.version) == ("not ready", None)
    assert odd in record.reason
    assert run("--date", str(day_of(1)), "--ignore-bounds") == (0, "")
    record = read_record(Store.open(str(store)), day_of(1))
    assert record is not None
    assert record.status == "published"
    assert f"--ignore-bounds accepted the day: {odd}" in record.notes
    assert "--ignore-bounds accepted the day" in (store / "days" / str(day_of(1)) / "report.html").read_text()
