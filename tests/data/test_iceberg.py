"""Tables of Apache Iceberg: exactly the rows of one snapshot, by the table's own metadata."""

import datetime as dt
import json
import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import dump_config
from raymtl.daily.ready import find_not_ready
from raymtl.data.roots import Roots
from raymtl.data.units import plan_input, plan_inputs
from raymtl.data.validation.run import check_data
from raymtl.errors import ConfigError, DataError
from raymtl.init.days import find_days
from raymtl.serving.plan import plan_scoring
from raymtl.storage.folder import Folder
from raymtl.training.driver import prepare
from tests.helpers.daily_config import daily_config
from tests.helpers.lake_tables import DAYS, config_of, day_rows, items_at, items_of
from tests.helpers.small_data import make_config

pytest.importorskip("pyiceberg")
pytest.importorskip("sqlalchemy")
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestWriterV2
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform
from pyiceberg.typedef import Record

COUNTS = (7, 11, 5)
ALL = [1000 * day.day + n for day, count in zip(DAYS, COUNTS, strict=True) for n in range(count)]
FIRST_TWO = ALL[: sum(COUNTS[:2])]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Three days, one snapshot each, with row groups of three rows."""
    catalog = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}")
    catalog.create_namespace("logs")
    properties = {"write.parquet.row-group-limit": "3"}
    made = catalog.create_table("logs.views", day_rows(DAYS[0], 1).schema, properties=properties)
    with made.update_spec() as spec:
        spec.add_identity("ds")
        spec.add_identity("country")
    for day, count in zip(DAYS, COUNTS, strict=True):
        made.append(day_rows(day, count))
    return made


def root_of(table: Table) -> Path:
    return Path(table.location().removeprefix("file://"))


def snapshots(table: Table) -> list[int]:
    return [snapshot.snapshot_id for snapshot in table.snapshots()]


def test_a_deleted_row_is_not_read_and_the_others_stay(table: Table) -> None:
    assert items_at(root_of(table)) == FIRST_TWO
    table.delete("item = 1004")
    assert items_at(root_of(table)) == [item for item in FIRST_TWO if item != 1004]


def test_an_older_snapshot_has_its_own_rows(table: Table) -> None:
    before = snapshots(table)[-1]
    table.delete("item = 1004")
    table.overwrite(day_rows(DAYS[1], 4), overwrite_filter="ds == '2026-01-02'")
    assert items_at(root_of(table), snapshot=before) == FIRST_TWO
    assert items_at(root_of(table)) == [1000, 1001, 1002, 1003, 1005, 1006, *ALL[7:11]]
    config = config_of(root_of(table), eval={"start": "2026-01-03", "end": "2026-01-03"})
    current = table.metadata.current_snapshot_id
    assert [plan.snapshot for plan in plan_inputs(config, ["train", "eval"]).values()] == [current, current]


def test_units_are_row_groups_in_the_order_of_the_days(table: Table) -> None:
    plan = plan_input(config_of(root_of(table)), "train")
    assert (plan.days, plan.rows) == (("2026-01-01", "2026-01-02"), 18)
    assert [unit.rows for unit in plan.units] == [6, 7, 5]
    assert items_of(plan) == FIRST_TWO


def test_an_expired_snapshot_is_one_sentence(table: Table) -> None:
    first, second, last = snapshots(table)
    table.maintenance.expire_snapshots().by_id(first).commit()
    with pytest.raises(
        DataError, match=rf"has no snapshot {first} \(any more\); set data.snapshot .*, such as {last},"
    ):
        items_at(root_of(table), snapshot=first)
    assert items_at(root_of(table), snapshot=second) == FIRST_TWO
    manifests = table.snapshot_by_id(last).manifest_list.removeprefix("file://")
    Path(manifests).unlink()
    with pytest.raises(
        DataError,
        match=rf"files of snapshot {last} of the Apache Iceberg table .* cannot be read .*No such file.*; set data.snap",
    ) as caught:
        items_at(root_of(table))
    assert "\n" not in str(caught.value)


def test_a_lost_data_file_is_one_sentence(table: Table) -> None:
    before = snapshots(table)[-1]
    removed = next(task.file.file_path for task in table.scan("ds == '2026-01-01'").plan_files())
    table.delete("ds = '2026-01-01'")
    Path(removed.removeprefix("file://")).unlink()
    with pytest.raises(DataError, match=rf"the file of snapshot {before} of .* no longer exists"):
        items_at(root_of(table), snapshot=before)


def test_days_of_a_time_are_partitions_too(table: Table) -> None:
    catalog = table.catalog
    time = pa.array([dt.datetime(2026, 1, 2, 5)] * 2, pa.timestamp("us"))
    rows = pa.table({"ts": time, "item": [1, 2], "click": [0, 1]})
    made = catalog.create_table("logs.timed", rows.schema)
    with made.update_spec() as spec:
        spec.add_field("ts", DayTransform(), "ts_day")
    add_file(made, rows, Record((DAYS[1] - dt.date(1970, 1, 1)).days))
    config = make_config(
        path=str(root_of(made)), train={"start": "2026-01-02", "end": "2026-01-02"}, partition={"key": "ts_day"}
    )
    assert items_of(plan_input(config, "train")) == [1, 2]
    found = find_days(Folder.open(str(root_of(made))))
    assert found is not None
    assert (found.layout.key, found.days) == ("ts_day", [DAYS[1]])


def add_file(
    table: Table,
    rows: pa.Table,
    partition: Record,
    form: FileFormat = FileFormat.PARQUET,
    content: DataFileContent = DataFileContent.DATA,
) -> None:
    """Commit a file of other rows, as another tool writes it."""
    path = root_of(table) / "data" / f"other-{len(table.snapshots())}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(rows, path)
    file = DataFile.from_args(
        content=content,
        file_path=f"file://{path}",
        file_format=form,
        partition=partition,
        record_count=len(rows),
        file_size_in_bytes=path.stat().st_size,
        split_offsets=None,
        sort_order_id=None,
        equality_ids=[3] if content == DataFileContent.EQUALITY_DELETES else None,
        key_metadata=None,
        column_sizes={},
        value_counts={},
        null_value_counts={},
        nan_value_counts={},
        lower_bounds={},
        upper_bounds={},
    )
    file.spec_id = table.spec().spec_id
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        append.append_data_file(file)


def test_a_file_of_another_format_is_refused_on_its_days_only(table: Table) -> None:
    add_file(table, day_rows(DAYS[2], 2), Record((DAYS[2] - dt.date(1970, 1, 1)).days, "de"), FileFormat.ORC)
    assert items_at(root_of(table)) == FIRST_TWO
    with pytest.raises(DataError, match=r"other-3.parquet is ORC, not parquet; set write.format.default to parquet"):
        plan_input(config_of(root_of(table), (DAYS[2], DAYS[2])), "train")


@pytest.mark.parametrize("content", [DataFileContent.POSITION_DELETES, DataFileContent.EQUALITY_DELETES])
def test_rows_that_other_files_delete_are_refused(
    table: Table, content: DataFileContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyiceberg itself writes no delete files, only manifests of data; so its writer is made to call them deletes."""
    deleted = next(task.file.file_path for task in table.scan("ds == '2026-01-02'").plan_files())
    rows = pa.table({"file_path": [deleted], "pos": pa.array([3], pa.int64())})
    by_position = content == DataFileContent.POSITION_DELETES
    with monkeypatch.context() as patch:
        meta = ManifestWriterV2._meta.fget
        patch.setattr(ManifestWriterV2, "content", lambda self: ManifestContent.DELETES)
        patch.setattr(ManifestWriterV2, "_meta", property(lambda self: {**meta(self), "content": "deletes"}))
        partition = Record((DAYS[1] - dt.date(1970, 1, 1)).days, "de")
        add_file(table, rows if by_position else day_rows(DAYS[1], 1), partition, content=content)
    with pytest.raises(
        DataError, match=r"has rows that other files delete \(merge-on-read\), .*; rewrite the data"
    ) as caught:
        items_at(root_of(table))
    assert "\n" not in str(caught.value)
    if by_position:  # the other days have none
        assert items_of(plan_input(config_of(root_of(table), (DAYS[0], DAYS[0])), "train")) == ALL[:7]


def test_renamed_columns_are_refused_in_old_files_only(table: Table) -> None:
    with table.update_schema() as schema:
        schema.rename_column("item", "thing")
    with table.update_schema() as schema:
        schema.rename_column("click", "item")
    rows = day_rows(DAYS[0] + dt.timedelta(days=9), 3).rename_columns(["ds", "country", "thing", "item"])
    table.append(rows)
    with pytest.raises(
        DataError, match=r"column `item` was renamed to `thing` after the file was written; rewrite the"
    ):
        items_at(root_of(table))
    new = dt.date(2026, 1, 10)
    config = make_config(
        {"thing": {"kind": "id"}},
        {"item": {"kind": "binary"}},
        path=str(root_of(table)),
        train={"start": str(new), "end": str(new)},
    )
    assert plan_input(config, "train").rows == 3


def test_a_column_that_was_dropped_and_added_is_another_one(table: Table) -> None:
    with table.update_schema() as schema:
        schema.delete_column("item")
    with table.update_schema() as schema:
        schema.add_column("item", schema._schema.find_type("click"))
    table.append(day_rows(DAYS[2], 1).set_column(2, "item", pa.array([9], pa.int32())).select([0, 1, 3, 2]))
    with pytest.raises(DataError, match=r"column `item` is another one than the table's of that name; rewrite"):
        items_at(root_of(table))


def test_files_without_the_days_partition_are_refused(table: Table) -> None:
    catalog = table.catalog
    made = catalog.create_table("logs.late", day_rows(DAYS[0], 1).schema)
    made.append(day_rows(DAYS[0], 2))
    with pytest.raises(DataError, match=r"is not partitioned by a column `ds` with the day; set data.partition.key"):
        items_at(root_of(made))
    with made.update_spec() as spec:
        spec.add_identity("ds")
    made.append(day_rows(DAYS[1], 2))
    with pytest.raises(DataError, match=r"was written before the table was partitioned by `ds`; rewrite the table's"):
        items_at(root_of(made))


def test_an_empty_table_is_said(table: Table) -> None:
    made = table.catalog.create_table("logs.empty", day_rows(DAYS[0], 1).schema)
    with pytest.raises(DataError, match=r"has no snapshot; write rows first"):
        items_at(root_of(made))


def test_the_newest_metadata_counts_unless_a_hint_names_another(table: Table) -> None:
    folder = root_of(table) / "metadata"
    names = sorted(path.name for path in folder.glob("*.metadata.json"))
    older = next(name for name in names if len(json.loads((folder / name).read_text()).get("snapshots", [])) == 2)
    (folder / "version-hint.text").write_text(older)
    with pytest.raises(DataError, match=r"has no partition ds=2026-01-03"):
        plan_input(config_of(root_of(table), (DAYS[2], DAYS[2])), "train")
    (folder / "version-hint.text").unlink()
    number = names[-1].partition("-")[0]
    (folder / f"{number}-another.metadata.json").write_text((folder / names[-1]).read_text())
    with pytest.raises(
        DataError, match=r"written at the same time, so that the current state .* is not known; write the name"
    ):
        items_at(root_of(table))


def test_damaged_metadata_is_one_sentence(table: Table) -> None:
    newest = max((root_of(table) / "metadata").glob("*.metadata.json"))
    newest.write_text(newest.read_text()[:100])
    with pytest.raises(
        DataError, match=f"{re.escape(newest.name)}` is no readable metadata .*; restore the table"
    ) as caught:
        items_at(root_of(table))
    assert "\n" not in str(caught.value)


def test_without_the_package_one_sentence_says_what_to_install(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyiceberg.table", None)
    with pytest.raises(
        ConfigError, match=r"is a table of Apache Iceberg, .*install it with `pip install 'raymtl\[iceb"
    ):
        items_at(root_of(table))


def test_a_table_on_other_storage(table: Table) -> None:
    memory, root = fsspec.filesystem("memory"), root_of(table)
    try:
        for path in root.rglob("*"):
            if path.is_file():
                memory.pipe_file(f"/lake/{path.relative_to(root)}", path.read_bytes())
        assert items_at("memory://lake") == FIRST_TWO
    finally:
        memory.rm("/lake", recursive=True)


def test_a_resumed_run_keeps_its_snapshot(table: Table, tmp_path: Path) -> None:
    config = config_of(root_of(table)).model_copy(update={"output": str(tmp_path / "runs"), "name": "first"})
    started = prepare(config)
    assert started.config.data.snapshot == snapshots(table)[-1]
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(dump_config(started.config))
    (run / "result.json").write_text("{}")
    table.delete("item = 1004")
    resumed = prepare(config)
    assert resumed.plans["train"].snapshot == started.config.data.snapshot
    assert items_of(resumed.plans["train"]) == FIRST_TWO


def test_the_other_commands_read_the_same_listing(table: Table, in_process: None) -> None:
    root = root_of(table)
    found = find_days(Folder.open(str(root)))
    assert found is not None
    assert (found.layout.key, found.days) == ("ds", list(DAYS))
    report = check_data(config_of(root), "train", read_tasks=2)
    assert (report.problems, report.parts["train"].rows) == ([], 18)
    assert report.parts["train"].snapshot == snapshots(table)[-1]
    scored = plan_scoring(config_of(root), str(root), None, ["item"], snapshots(table)[1])
    assert (scored.snapshot, scored.rows) == (snapshots(table)[1], 18)
    config = daily_config(str(root), ready={"marker": "_SUCCESS", "min_rows": 6})
    folder = Roots.open([str(root)])
    assert find_not_ready(config, folder, DAYS[1]) is None
    assert "has 5 rows in 1 file, fewer than the 6" in str(find_not_ready(config, folder, DAYS[2]))
