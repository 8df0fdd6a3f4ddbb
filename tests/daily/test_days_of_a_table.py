"""The daily job and a single run on tables of Delta Lake and Iceberg, whose rows change between the days."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict
from raymtl.daily.day import DailyRequest, training_hash
from raymtl.daily.record import Record, write_record
from raymtl.daily.runner import run_daily
from raymtl.model_store import store as versions
from raymtl.model_store.publish_run import publish_run
from raymtl.storage.object_store import Store
from raymtl.training.driver import train
from tests.helpers.daily_world import FILES, daily_raw, day_of, write_day
from tests.helpers.run_logs import small_config

deltalake = pytest.importorskip("deltalake")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]
ROWS = sum(FILES)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days, one commit each; then one user's rows of the last day are deleted."""
    plain, root = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("lake") / "table"
    for number in range(3):
        write_day(plain, number)
        files = sorted((plain / f"ds={day_of(number)}").glob("*.parquet"))
        rows = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
        days = pa.array([day_of(number)] * len(rows), pa.date32())
        deltalake.write_deltalake(str(root), rows.append_column("ds", days), partition_by=["ds"], mode="append")
    user = rows.column("user")[0].as_py()
    deltalake.DeltaTable(str(root)).delete(f"ds = '{day_of(2)}' and user = '{user}'")
    return root


@pytest.fixture(scope="module")
def deleted(table: Path) -> int:
    """Rows of the last day that are deleted."""
    left = deltalake.DeltaTable(str(table)).to_pyarrow_table(filters=[("ds", "=", day_of(2))])
    assert 0 < len(left) < ROWS
    return ROWS - len(left)


def test_each_day_reads_one_version_of_the_table(ray_cluster: None, table: Path, deleted: int, tmp_path: Path) -> None:
    config = config_from_dict(daily_raw(table, tmp_path / "store"))
    assert config.daily is not None
    store = Store.open(config.daily.store)

    def run(number: int, **options: bool) -> Record:
        request = DailyRequest(day_of(number), **options)
        return run_daily(config, request, address=None, on_event=lambda item: None)[-1]

    first = run(1)
    assert (first.status, first.snapshot) == ("published", 3)
    assert versions.show(store).snapshots == {"train": 3}
    assert versions.show(store).config["data"]["snapshot"] == 3
    # A day that was killed before the rows were deleted
    now = dt.datetime.now(dt.UTC)
    killed = Record(date=day_of(2), config_hash=training_hash(config), parent=first.version, snapshot=2, started=now)
    write_record(store, killed)
    resumed = run(2)
    assert resumed.stats is not None
    assert (resumed.status, resumed.snapshot, resumed.stats.rows) == ("published", 2, ROWS)
    assert versions.show(store).snapshots == {"train": 2}
    again = run(2, force=True)
    assert again.stats is not None
    assert (again.status, again.snapshot, again.stats.rows) == ("published", 3, ROWS - deleted)


def test_a_run_and_its_version_name_the_version_of_the_table(ray_cluster: None, table: Path, tmp_path: Path) -> None:
    raw = small_config(table, tmp_path / "runs", "lake", workers=1)
    raw["data"]["train"] = {"start": str(day_of(0)), "end": str(day_of(1))}
    raw["data"]["eval"] = {"start": str(day_of(2)), "end": str(day_of(2))}
    result = train(config_from_dict(raw))
    assert result["snapshots"] == {"train": 3, "eval": 3}
    assert result["rows_trained"] + result["rows_left_out"] == 2 * ROWS
    manifest = publish_run(
        str(tmp_path / "runs" / "lake"),
        Store.open(str(tmp_path / "store")),
        checkpoint=None,
        version=None,
        check_lease=lambda: None,
    )
    assert manifest.snapshots == {"train": 3, "eval": 3}


def test_a_run_on_a_table_of_iceberg(ray_cluster: None, tmp_path: Path) -> None:
    sql = pytest.importorskip("pyiceberg.catalog.sql")
    catalog = sql.SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}")
    catalog.create_namespace("logs")
    made = None
    for number in range(3):
        write_day(tmp_path / "plain", number)
        files = sorted((tmp_path / "plain" / f"ds={day_of(number)}").glob("*.parquet"))
        rows = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
        rows = rows.append_column("ds", pa.array([day_of(number)] * len(rows), pa.date32()))
        if made is None:
            made = catalog.create_table("logs.views", rows.schema)
            with made.update_spec() as spec:
                spec.add_identity("ds")
        made.append(rows)
    assert made is not None
    user = rows.column("user")[0].as_py()
    made.delete(f"user == '{user}'")
    left = [len(made.scan(f"ds == '{day_of(number)}'").to_arrow()) for number in range(3)]
    assert 0 < left[2] < ROWS
    snapshot = made.metadata.current_snapshot_id
    raw = small_config(tmp_path / "logs" / "views", tmp_path / "runs", "lake", workers=1)
    raw["data"]["train"] = {"start": str(day_of(0)), "end": str(day_of(2))}
    raw["data"]["eval"] = None
    result = train(config_from_dict(raw))
    assert result["snapshots"] == {"train": snapshot}
    assert result["rows_trained"] + result["rows_left_out"] == sum(left)
    store = Store.open(str(tmp_path / "store"))
    run = str(tmp_path / "runs" / "lake")
    assert publish_run(run, store, checkpoint=None, version=None, check_lease=lambda: None).snapshots == {
        "train": snapshot
    }
