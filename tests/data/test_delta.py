"""Tables of Delta Lake: exactly the rows of one version, by the table's own log."""

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import dump_config
from raymtl.config.root import Config
from raymtl.daily.ready import find_not_ready
from raymtl.data.fragments import read_fragment
from raymtl.data.lakehouse.tables import keep_snapshots
from raymtl.data.roots import Roots
from raymtl.data.source import find_files, partitioned_days
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

deltalake = pytest.importorskip("deltalake")
COUNTS = (7, 11, 5)
ALL = [1000 * day.day + n for day, count in zip(DAYS, COUNTS, strict=True) for n in range(count)]
FIRST_TWO = ALL[: sum(COUNTS[:2])]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three days, one commit each, with row groups of three rows."""
    root = tmp_path / "table"
    for day, count in zip(DAYS, COUNTS, strict=True):
        append(root, day_rows(day, count), writer_properties=deltalake.WriterProperties(max_row_group_size=3))
    return root


def append(root: Path, rows: pa.Table, **options: Any) -> None:
    deltalake.write_deltalake(str(root), rows, **{"partition_by": ["ds", "country"], "mode": "append", **options})


def test_a_deleted_row_is_not_read_and_the_others_stay(table: Path) -> None:
    assert items_at(table) == FIRST_TWO
    deltalake.DeltaTable(str(table)).delete("item = 1004")
    assert items_at(table) == [item for item in FIRST_TWO if item != 1004]
    deltalake.DeltaTable(str(table)).optimize.compact()
    assert items_at(table) == [item for item in FIRST_TWO if item != 1004]


def test_an_older_version_has_its_own_rows(table: Path) -> None:
    deltalake.DeltaTable(str(table)).delete("item = 1004")
    append(table, day_rows(DAYS[0], 2, country="fr"))
    assert items_at(table, snapshot=2) == FIRST_TWO
    assert items_at(table, snapshot=3) == [item for item in FIRST_TWO if item != 1004]
    assert items_at(table) == sorted([1000, 1001, *(item for item in FIRST_TWO if item != 1004)])
    config = config_of(table, eval={"start": "2026-01-03", "end": "2026-01-03"})
    assert [plan.snapshot for plan in plan_inputs(config, ["train", "eval"]).values()] == [4, 4]


def test_units_are_row_groups_in_the_order_of_the_days(table: Path) -> None:
    plan = plan_input(config_of(table), "train")
    assert (plan.days, plan.rows) == (("2026-01-01", "2026-01-02"), 18)
    assert [unit.rows for unit in plan.units] == [6, 7, 5]
    assert items_of(plan) == FIRST_TWO


def test_partition_columns_are_columns_of_the_rows(tmp_path: Path) -> None:
    root = tmp_path / "table"
    append(root, day_rows(DAYS[0], 3, country="São Tomé/1 %2"))
    append(root, day_rows(DAYS[0], 2).set_column(1, "country", pa.nulls(2, pa.string())))
    plan = plan_input(config_of(root, (DAYS[0], DAYS[0])), "train")
    read = [
        table.column("country").to_pylist()
        for unit in plan.units
        for fragment in unit.fragments
        for table, _ in read_fragment(plan.root, fragment, ["item", "country"], 10)
    ]
    assert sorted(read, key=len) == [[None] * 2, ["São Tomé/1 %2"] * 3]


@pytest.mark.parametrize(
    ("days", "form"),
    [(["20260101", "20260102"], "%Y%m%d"), ([20260101, 20260102], "%Y%m%d"), (list(DAYS[:2]), "%Y-%m-%d")],
)
def test_days_may_be_text_numbers_or_dates(tmp_path: Path, days: list, form: str) -> None:
    rows = pa.table({"day": days, "item": [1, 2], "click": [0, 1]})
    deltalake.write_deltalake(str(tmp_path / "t"), rows, partition_by=["day"])
    config = make_config(path=str(tmp_path / "t"), train={"start": "2026-01-02", "end": "2026-01-02"})
    with pytest.raises(
        DataError, match=r"not partitioned by a column `ds` with the day, but by day; set data.partition.key"
    ):
        plan_input(config, "train")
    if form != "%Y-%m-%d":
        partition = config.data.partition.model_copy(update={"key": "day"})
        wrong = config.model_copy(update={"data": config.data.model_copy(update={"partition": partition})})
        with pytest.raises(
            DataError, match=f'day=20260101, which is not day=YYYY-MM-DD; set data.partition.format to "{form}"'
        ):
            plan_input(wrong, "train")
    config = make_config(
        path=str(tmp_path / "t"),
        train={"start": "2026-01-02", "end": "2026-01-02"},
        partition={"key": "day", "format": form},
    )
    assert items_of(plan_input(config, "train")) == [2]
    found = find_days(Folder.open(str(tmp_path / "t")))
    assert found is not None
    assert (found.layout.key, found.layout.format, found.days) == ("day", form, list(DAYS[:2]))


def test_rows_without_a_day_are_said(table: Path) -> None:
    append(table, day_rows(DAYS[0], 2).set_column(0, "ds", pa.nulls(2, pa.date32())))
    plan = plan_input(config_of(table), "train")
    assert plan.rows == 18
    assert plan.notes == (
        f"version 3 of the Delta Lake table `{table}`: 1 file of the partition ds=null belong to no day and are not read",
    )


def test_missing_days_are_said(table: Path) -> None:
    with pytest.raises(
        DataError, match=r"version 0 of .* has no partition ds=2026-01-02; it has ds=2026-01-01 to ds=2026-01-01"
    ):
        items_at(table, snapshot=0)
    assert partitioned_days(Folder.open(str(table))) == list(DAYS)


def test_a_version_whose_files_are_gone_is_one_sentence(table: Path) -> None:
    opened = deltalake.DeltaTable(str(table))
    append(table, day_rows(DAYS[0], 4), mode="overwrite", predicate="ds = '2026-01-01'")
    assert items_at(table) == [*ALL[:4], *ALL[7:18]]
    assert items_at(table, snapshot=2) == FIRST_TWO
    opened.update_incremental()
    opened.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(
        DataError, match=r"version 2 of the Delta Lake table .* no longer exists, as after VACUUM; set data"
    ) as caught:
        items_at(table, snapshot=2)
    assert "\n" not in str(caught.value)
    assert items_at(table) == [*ALL[:4], *ALL[7:18]]


def test_a_version_that_the_log_lacks_is_one_sentence(table: Path) -> None:
    with pytest.raises(DataError, match=r"has no version 3, its newest one is 2; set data.snapshot"):
        items_at(table, snapshot=3)
    deltalake.DeltaTable(str(table)).create_checkpoint()
    for number in range(2):
        (table / "_delta_log" / f"{number:020}.json").unlink()
    with pytest.raises(DataError, match=r"no longer has version 1; set data.snapshot .* to a newer one, such as 2"):
        items_at(table, snapshot=1)
    append(table, day_rows(DAYS[1], 2, country="fr"))
    assert items_at(table, snapshot=2) == FIRST_TWO
    assert items_at(table) == sorted([*FIRST_TWO, 2000, 2001])


def test_snapshots_belong_to_tables(table: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(DataError, match=r"data.snapshot is 1, but .* is no table of Delta Lake"):
        items_at(tmp_path / "plain", snapshot=1)
    with pytest.raises(
        DataError, match=r"`.*/ds=2026-01-01` is a part of the table of Delta Lake in `.*/table`; set data.path"
    ):
        items_at(table / "ds=2026-01-01")
    with pytest.raises(ValueError, match=r"eval_snapshot is set without eval_path"):
        config_of(table, eval_snapshot=1)


def test_without_the_package_one_sentence_says_what_to_install(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    with pytest.raises(
        ConfigError, match=r"is a table of Delta Lake, .*install it with `pip install 'raymtl\[delta\]'`"
    ):
        items_at(table)


def test_another_table_in_the_same_folder_is_not_mixed_up(table: Path) -> None:
    assert items_at(table, snapshot=2) == FIRST_TWO
    shutil.rmtree(table)
    for day, count in zip(DAYS, (2, 3, 4), strict=True):
        append(table, day_rows(day, count))
    assert items_at(table, snapshot=2) == [1000, 1001, 2000, 2001, 2002]


def test_a_table_on_other_storage(table: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        for path in table.rglob("*"):
            if path.is_file():
                memory.pipe_file(f"/lake/{path.relative_to(table)}", path.read_bytes())
        assert items_at("memory://lake") == FIRST_TWO
    finally:
        memory.rm("/lake", recursive=True)


def rewritten(table: Path, change: Any, features: list[str]) -> Path:
    """The first version of a table with other actions in its log, and with reader features."""
    entry = table / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            versions = {"minReaderVersion": 3, "minWriterVersion": 7}
            action["protocol"] = {**versions, "readerFeatures": features, "writerFeatures": features}
        change(action)
    entry.write_text("\n".join(json.dumps(action) for action in actions))
    return table


@pytest.mark.parametrize("deleted", [True, False])
def test_deletion_vectors_are_refused(table: Path, deleted: bool) -> None:
    vector = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40}

    def change(action: dict) -> None:
        if deleted and "add" in action:
            action["add"]["deletionVector"] = {**vector, "cardinality": 6}

    rewritten(table, change, ["deletionVectors"])
    if not deleted:  # only the permission to write them
        assert items_at(table) == FIRST_TWO
        return
    with pytest.raises(
        DataError, match=r"deleted rows inside its files \(deletion vectors\).*; rewrite the files with REORG"
    ):
        items_at(table)


def test_other_names_in_the_files_are_refused(table: Path) -> None:
    def change(action: dict) -> None:
        if "metaData" in action:
            schema = json.loads(action["metaData"]["schemaString"])
            for number, field in enumerate(schema["fields"]):
                name = "col-7f" if field["name"] == "item" else field["name"]
                field["metadata"] = {"delta.columnMapping.id": number + 1, "delta.columnMapping.physicalName": name}
            action["metaData"]["schemaString"] = json.dumps(schema)
            action["metaData"]["configuration"] = {
                "delta.columnMapping.mode": "name",
                "delta.columnMapping.maxColumnId": "4",
            }

    rewritten(table, change, ["columnMapping"])
    with pytest.raises(
        DataError, match=r"column `item` has the name `col-7f` in the files .*; write the table again without"
    ):
        items_at(table)


def test_an_unknown_feature_is_one_sentence(table: Path) -> None:
    rewritten(table, lambda action: None, ["zork"])
    with pytest.raises(
        DataError, match=r"cannot be read at version 2 .*zork.*; write the table's rows to another"
    ) as caught:
        items_at(table)
    assert "\n" not in str(caught.value)


def test_a_shallow_clone_is_refused(table: Path) -> None:
    def change(action: dict) -> None:
        if "add" in action:
            action["add"]["path"] = "s3://other/ds=2026-01-01/a.parquet"

    rewritten(table, change, [])
    with pytest.raises(DataError, match=r"files outside its folder, such as `s3://other/ds=2026-01-01/a.parquet`"):
        items_at(table)


def test_a_resumed_run_keeps_its_version(table: Path, tmp_path: Path) -> None:
    config = config_of(table).model_copy(update={"output": str(tmp_path / "runs"), "name": "first"})
    started = prepare(config)
    assert started.config.data.snapshot == 2
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(dump_config(started.config))
    (run / "result.json").write_text("{}")
    deltalake.DeltaTable(str(table)).delete("item = 1004")
    resumed = prepare(config)
    assert resumed.plans["train"].snapshot == 2
    assert resumed.plans["train"].identity == started.plans["train"].identity
    assert items_of(resumed.plans["train"]) == FIRST_TWO
    newer = config.model_copy(update={"data": config.data.model_copy(update={"snapshot": 3})})
    with pytest.raises(ConfigError, match=r"another configuration: data.snapshot was 2 and is now 3"):
        prepare(newer)


def test_a_run_that_continues_keeps_the_snapshots_of_its_paths(table: Path) -> None:
    day = {"start": "2026-01-03", "end": "2026-01-03"}
    before = config_of(table, snapshot=1, eval=day, eval_path=str(table), eval_snapshot=2).data
    kept = keep_snapshots(config_of(table, eval=day, eval_path=str(table)), before).data
    assert (kept.snapshot, kept.eval_snapshot) == (1, 2)
    kept = keep_snapshots(config_of(table, eval=day, snapshot=0), before).data
    assert (kept.snapshot, kept.eval_snapshot) == (0, None)
    assert keep_snapshots(config_of(table), None).data.snapshot is None


def test_scoring_reads_the_version_that_it_is_given(table: Path) -> None:
    config = config_of(table, snapshot=1)  # of the training, which says nothing about the scored rows
    deltalake.DeltaTable(str(table)).delete("item = 1004")
    latest = plan_scoring(config, str(table), None, ["item"])
    assert (latest.snapshot, latest.rows) == (3, sum(COUNTS) - 1)
    assert [output.name[:13] for output in latest.outputs] == [f"ds={day}" for day in DAYS]
    older = plan_scoring(config, str(table), None, ["item"], 2)
    assert (older.snapshot, older.rows) == (2, sum(COUNTS))


def test_a_day_is_ready_when_the_table_has_its_rows(table: Path) -> None:
    config = daily_config(str(table), ready={"marker": "_SUCCESS", "min_rows": 6})
    folder = Roots.open([str(table)])
    assert find_not_ready(config, folder, DAYS[0]) is None
    assert "has 5 rows in 1 file, fewer than the 6" in str(find_not_ready(config, folder, DAYS[2]))
    reason = find_not_ready(config, folder, DAYS[2] + dt.timedelta(days=1))
    assert "version 2 of" in str(reason)
    assert "has no partition ds=2026-01-04" in str(reason)


def test_check_reads_the_table(table: Path, in_process: None) -> None:
    config: Config = config_of(table, eval={"start": "2026-01-03", "end": "2026-01-03"})
    report = check_data(config, "both", read_tasks=2)
    assert report.problems == []
    assert [(part.rows, part.snapshot) for part in report.parts.values()] == [(18, 2), (5, 2)]
    assert "country" not in pq.read_schema(next(table.rglob("*.parquet"))).names


def test_an_evaluation_table_has_its_own_version(table: Path, tmp_path: Path) -> None:
    shutil.copytree(table, tmp_path / "other")
    deltalake.DeltaTable(str(tmp_path / "other")).delete("item = 3001")
    day = {"start": "2026-01-03", "end": "2026-01-03"}
    config = config_of(table, eval=day, eval_path=str(tmp_path / "other"))
    plans = plan_inputs(config, ["train", "eval"])
    assert [plan.snapshot for plan in plans.values()] == [2, 3]
    assert 3001 not in items_of(plans["eval"])
    config = config_of(table, eval=day, eval_path=str(tmp_path / "other"), eval_snapshot=2)
    assert 3001 in items_of(plan_inputs(config, ["train", "eval"])["eval"])
    assert find_files(Folder.open(str(table)), None).snapshot == 2
