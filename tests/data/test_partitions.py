"""Partitions under other names and formats, and the columns that folders stand for."""

import datetime as dt

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raymtl.config.data import DayRange
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.count_ids import count_ids
from raymtl.data.fragments import read_fragment
from raymtl.data.partitions import Layout
from raymtl.data.source import find_files, partitioned_days
from raymtl.data.units import plan_input
from raymtl.data.validation.run import check_data
from raymtl.errors import DataError
from raymtl.serving.plan import plan_scoring
from raymtl.storage.folder import Folder
from tests.helpers.in_process_scan import scan_in_process
from tests.helpers.listed import list_files
from tests.helpers.small_data import DAY, click_rows, make_config

ITEM = {"item": {"kind": "id"}}
COUNTRY = {**ITEM, "country": {"kind": "id"}}
NULL = "__HIVE_DEFAULT_PARTITION__"


def write(root, name, rows=10, **columns):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = click_rows(rows)
    for key, values in columns.items():
        table = table.append_column(key, pa.array(values) if isinstance(values, list) else values)
    pq.write_table(table, path)


def config_of(root, features=ITEM, tables=None, **data):
    return make_config(features, tables=tables, **{"path": str(root), **data})


def read(config, columns):
    """The columns of all training rows as lists, read as training reads them."""
    plan = plan_input(config, "train")
    found = {c: [] for c in columns}
    for unit in plan.units:
        for fragment in unit.fragments:
            for table, _ in read_fragment(plan.root, fragment, columns, 7):
                for c in columns:
                    found[c] += table.column(c).to_pylist()
    return found


@pytest.mark.parametrize(
    ("key", "form", "names"),
    [
        ("dt", "%Y%m%d", ["dt=20260101", "dt=20260102"]),
        ("date", "%Y-%m-%d", ["date=2026-01-01", "date=2026-01-02"]),
        ("p_date", "%Y_%m_%d", ["p_date=2026_01_01", "p_date=2026_01_02"]),
        ("day", "%Y/%m/%d", ["day=2026%2F01%2F01", "day=2026%2F01%2F02"]),
        ("ds", "%d.%m.%Y", ["ds=01.01.2026", "ds=02.01.2026"]),
    ],
)
def test_days_under_other_names(tmp_path, key, form, names):
    for n, name in enumerate(names):
        write(tmp_path, f"{name}/part-0", rows=5 + n)
    config = config_of(tmp_path, partition={"key": key, "format": form}, train={"start": DAY, "end": "2026-01-02"})
    plan = plan_input(config, "train")
    assert (plan.rows, plan.days) == (11, ("2026-01-01", "2026-01-02"))
    days = [fragment.day for unit in plan.units for fragment in unit.fragments]
    assert days == [dt.date(2026, 1, 1), dt.date(2026, 1, 2)]
    layout = Layout.of(config)
    assert [layout.name(day) for day in days] == names
    assert partitioned_days(Folder.open(str(tmp_path)), layout) == days
    suggested = f'set data.partition to {{key: {key}, format: "{form}"}}'
    if key != "ds":
        with pytest.raises(DataError) as caught:
            list_files(Folder.open(str(tmp_path)), None)
        assert f"but partitions such as {names[0]}; {suggested} (`raymtl score`: " in str(caught.value)


def test_the_format_is_in_the_error_if_the_key_is_right(tmp_path):
    write(tmp_path, "ds=20260101/part-0")
    with pytest.raises(DataError, match=r'is not ds=YYYY-MM-DD; set data\.partition\.format to "%Y%m%d"'):
        list_files(Folder.open(str(tmp_path)), None)


def test_folders_that_are_no_days_are_in_the_error(tmp_path):
    write(tmp_path, "country=de/part-0")
    with pytest.raises(
        DataError, match=r"has no `ds=YYYY-MM-DD` partition; it has the folders `country=…`, which are no"
    ):
        list_files(Folder.open(str(tmp_path)), None)


@pytest.mark.parametrize("key", ["ds", "year"])
@pytest.mark.parametrize("below", ["", "year=2026", "year=2026/month=01"])
def test_a_level_each_for_year_month_and_day(tmp_path, below, key):
    write(tmp_path, "year=2026/month=01/day=31/part-0")
    with pytest.raises(DataError, match=r"one level each for year, month and day, .* write one folder for each day"):
        list_files(Folder.open(str(tmp_path / below)), None, Layout(key))


def test_hours_next_to_each_other(tmp_path):
    write(tmp_path, "ds=2026-01-01-07/part-0")
    with pytest.raises(DataError, match="a partition is one day: move its files to ds=2026-01-01/hour=07"):
        list_files(Folder.open(str(tmp_path)), None)


def test_a_format_that_is_not_known(tmp_path):
    write(tmp_path, "ds=310126/part-0")
    with pytest.raises(DataError, match=r"rename the partitions, or set data\.partition\.format to the format of"):
        list_files(Folder.open(str(tmp_path)), None)


def test_two_folders_of_one_day(tmp_path):
    write(tmp_path, "ds=2026-01-01/part-0")
    write(tmp_path, "ds=2026%2D01-01/part-0")
    with pytest.raises(DataError, match="are both the day 2026-01-01; merge the two folders"):
        list_files(Folder.open(str(tmp_path)), None)


@pytest.mark.parametrize("form", ["", "today", "%Y-%m", "%Y-%m-%d %H", "%m-%d", "%y%m%d%M", "%Q"])
def test_a_format_that_is_no_day(form):
    with pytest.raises(ValidationError, match="does not determine a day, and nothing but a day"):
        config_of("/nowhere", partition={"format": form})


@pytest.mark.parametrize("key", ["", "a=b", "a/b"])
def test_a_key_that_no_folder_can_have(key):
    with pytest.raises(ValidationError, match=r"partition\.key"):
        config_of("/nowhere", partition={"key": key})


def test_a_null_partition_does_not_block_the_days(tmp_path):
    write(tmp_path, f"ds={DAY}/part-0")
    for n in range(2):
        write(tmp_path, f"ds={NULL}/part-{n}")
    (tmp_path / f"ds={NULL}" / "_SUCCESS").write_text("")
    plan = plan_input(config_of(tmp_path), "train")
    assert plan.rows == 10
    assert plan.notes == (f"`{tmp_path}`: ds={NULL} belongs to no day; its 2 files are not read",)


def test_a_folder_below_the_day_is_a_column(tmp_path):
    for country, rows in (("de", 3), ("a%20b%2Fc", 2), (NULL, 4), ("Ü", 1)):
        write(tmp_path, f"ds={DAY}/country={country}/part-0.parquet", rows)
    found = read(config_of(tmp_path, COUNTRY), ["country", "row"])
    expected = ds.dataset(str(tmp_path), partitioning="hive").to_table(columns=["country", "row"])
    assert sorted(zip(*found.values(), strict=True), key=repr) == sorted(
        zip(*expected.to_pydict().values(), strict=True), key=repr
    )
    assert set(found["country"]) == {"de", "a b/c", None, "Ü"}


def test_only_columns_of_folders(tmp_path):
    write(tmp_path, f"ds={DAY}/country=de/part-0.parquet", 20)
    assert read(config_of(tmp_path, COUNTRY), ["country"]) == {"country": ["de"] * 20}


def test_the_use_of_a_column_decides_its_type_and_not_its_values(tmp_path):
    """Otherwise the ID "7" would become another one on a day on which all values are numbers."""
    for number in ("07", "8"):
        write(tmp_path, f"ds={DAY}/shard={number}/hour={number}/part-0.parquet", 1)
    as_id = config_of(tmp_path, {**ITEM, "shard": {"kind": "id"}, "hour": {"kind": "dense"}})
    assert read(as_id, ["shard", "hour"]) == {"shard": ["07", "8"], "hour": [7, 8]}
    direct = config_of(tmp_path, {**ITEM, "shard": {"kind": "id"}}, {"shard": {"rows": 9, "id_space": "direct"}})
    assert read(direct, ["shard"]) == {"shard": [7, 8]}
    write(tmp_path, f"ds={DAY}/shard=x/hour=9.5/part-0.parquet", 1)
    assert read(as_id, ["shard", "hour"]) == {"shard": ["07", "8", "x"], "hour": [7, 8, 9.5]}
    with pytest.raises(
        DataError, match=r"column `shard` \(features.shard\) holds strings, but tables.shard.id_space is"
    ):
        read(direct, ["shard"])


def test_text_where_a_number_must_be(tmp_path):
    write(tmp_path, f"ds={DAY}/shard=x/part-0.parquet")
    with pytest.raises(
        DataError, match=r"part-0.parquet: column `shard` \(features.shard\) has type string, expected a num"
    ):
        read(config_of(tmp_path, {"shard": {"kind": "dense"}}), ["shard"])


def test_a_column_that_only_some_folders_have(tmp_path):
    write(tmp_path, f"ds={DAY}/country=de/part-0.parquet")
    write(tmp_path, f"ds={DAY}/part-1.parquet")
    with pytest.raises(DataError, match=r"part-1.parquet: column `country` \(features.country\) is missing"):
        read(config_of(tmp_path, COUNTRY), ["country"])


@pytest.mark.parametrize(
    ("folder", "values"),
    [
        ("country=de", ["de"] * 10),
        ("country=de", pa.array(["de"] * 10).dictionary_encode()),
        ("country=07", [7] * 10),
        (f"country={NULL}", pa.nulls(10, pa.string())),
    ],
)
def test_a_column_of_both_file_and_folder(tmp_path, folder, values):
    write(tmp_path, f"ds={DAY}/{folder}/part-0.parquet", country=values)
    found = read(config_of(tmp_path, COUNTRY), ["country"])["country"]
    assert found == (values if isinstance(values, list) else values.to_pylist())


@pytest.mark.parametrize(
    ("folder", "values", "words"),
    [
        ("country=de", ["de"] * 9 + ["fr"], "holds 'fr', but the folder of the file says country=de"),
        ("country=de", ["de"] * 9 + [None], "holds None, but the folder of the file says country=de"),
        ("country=de", [7] * 10, "holds 7, but the folder of the file says country=de"),
        (f"country={NULL}", ["de"] * 10, f"holds 'de', but the folder of the file says country={NULL}"),
    ],
)
def test_a_column_that_file_and_folder_give_different_values(tmp_path, folder, values, words):
    write(tmp_path, f"ds={DAY}/{folder}/part-0.parquet", country=values)
    assert read(config_of(tmp_path), ["item"])  # nothing uses the column
    with pytest.raises(DataError, match=f"part-0.parquet: column `country` {words}; write the same value in both"):
        read(config_of(tmp_path, COUNTRY), ["country"])


def test_everything_that_reads_sees_the_columns_of_folders(tmp_path, in_process):
    for country in ("de", "fr"):
        write(tmp_path, f"dt=20260101/country={country}/scene=1/part-0.parquet", 50)
    config = config_of(
        tmp_path,
        {**COUNTRY, "scene": {"kind": "dense", "column": "shard"}},
        {"country": {"rows": 9, "id_space": "map", "admit_count": 1}},
        partition={"key": "dt", "format": "%Y%m%d"},
        group="country",
        scenario={"column": "scene", "values": [1, 2]},
    )
    with pytest.raises(DataError, match=r"column `shard` \(features.scene\) is missing; .* or write the column"):
        plan_input(config, "train")
    config = config.model_copy(update={"features": {k: config.features[k] for k in COUNTRY}})
    report = check_data(config, "train")
    assert report.problems == []
    part = report.parts["train"]
    assert (part.rows_by_day, part.scenario.listed) == ({DAY: 100}, {"1": 100, "2": 0})
    assert (part.types["country"], part.features["country"].distinct, part.features["country"].nulls) == (
        "string",
        2,
        0,
    )
    plan = plan_input(config, "train")
    maker = BlockMaker(config, evaluation=True, maps={"country": None})
    fragment = plan.units[0].fragments[0]
    raw, row = next(read_fragment(plan.root, fragment, maker.raw_columns(), 100))
    block = maker(raw, Place(fragment.path, row), 0)
    assert (len(block), set(block["scenario"].to_pylist())) == (50, {0})
    scores = plan_scoring(config, str(tmp_path), None, ["country", "item"])
    assert (scores.rows, scores.outputs[0].name) == (100, f"ds={DAY}/unit-00000.parquet")
    assert scores.keys == pa.schema([("country", pa.string()), ("item", pa.int64())])


def test_ids_are_counted_on_the_day_of_their_folder(tmp_path, monkeypatch):
    from raymtl.data import count_ids as counting

    monkeypatch.setattr(counting, "scan", scan_in_process)
    write(tmp_path, "dt=20260101/country=de/part-0", 4)
    write(tmp_path, "dt=20260102/country=fr/part-0", 5)
    config = config_of(
        tmp_path,
        COUNTRY,
        {"country": {"rows": 9, "id_space": "map", "admit_count": 1}},
        partition={"key": "dt", "format": "%Y%m%d"},
        train={"start": DAY, "end": "2026-01-02"},
    )
    counts = count_ids(config, plan_input(config, "train"), 1)["country"]
    days = [dt.date(1970, 1, 1) + dt.timedelta(days=int(day)) for day in counts.last_seen]
    assert sorted(zip(counts.counts.tolist(), days, strict=True)) == [
        (4, dt.date(2026, 1, 1)),
        (5, dt.date(2026, 1, 2)),
    ]


def test_a_missing_day_is_named_as_its_folder_would_be(tmp_path):
    write(tmp_path, "dt=20260101/part-0")
    days = DayRange(start=dt.date(2026, 1, 1), end=dt.date(2026, 1, 2))
    found = find_files(Folder.open(str(tmp_path)), days, Layout("dt", "%Y%m%d"))
    assert found.problems == [
        f"`{tmp_path}` has no partition dt=20260102; it has dt=20260101 to dt=20260101, 1 day; write the missing days, or choose "
        "days that exist"
    ]
