"""Finding files: partitions, markers, errors that say what is there, and file systems."""

import datetime as dt

import pyarrow.fs as pafs
import pytest

from raymtl.config.data import DayRange
from raymtl.data.source import find_files
from raymtl.errors import ConfigError, DataError
from raymtl.storage.filesystem import open_filesystem
from raymtl.storage.folder import Folder
from raymtl.storage.object_store import Store
from raymtl.storage.paths import join_path
from raymtl.training.rundir import RunFolder, run_folder, run_of
from tests.helpers.listed import list_files
from tests.helpers.small_data import click_rows, make_config, write_file

DAYS = DayRange(start=dt.date(2026, 1, 1), end=dt.date(2026, 1, 3))


@pytest.fixture
def three_days(tmp_path):
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        for name in ("hour=01/b.parquet", "hour=00/a.parquet", "c.pq"):
            write_file(tmp_path, click_rows(1), day, name)
    return tmp_path


def names(root, files):
    return [f.path.removeprefix(f"{root}/") for f in files]


def test_files_of_the_days_in_order_of_their_paths(three_days):
    days = DayRange(start=dt.date(2026, 1, 2), end=dt.date(2026, 1, 3))
    files = list_files(Folder.open(str(three_days)), days)
    expected = ["ds=2026-01-02/c.pq", "ds=2026-01-02/hour=00/a.parquet", "ds=2026-01-02/hour=01/b.parquet"]
    assert names(three_days, files) == expected + [n.replace("01-02", "01-03") for n in expected]
    assert [str(f.day) for f in files] == ["2026-01-02"] * 3 + ["2026-01-03"] * 3
    assert all(f.size > 0 for f in files)


def test_every_day_without_a_range(three_days):
    assert len(list_files(Folder.open(f"{three_days}/"), None)) == 9


def test_markers_and_files_in_the_making_are_left_out(three_days):
    day = three_days / "ds=2026-01-01"
    for name in ("_SUCCESS", "_part.parquet", ".part.parquet.crc", ".hidden.parquet", "README", "notes.md"):
        (day / name).write_text("x")
    write_file(three_days, click_rows(1), name="_temporary/0/part.parquet")
    write_file(three_days, click_rows(1), name=".staging/part.parquet")
    (three_days / "_metadata").mkdir()
    (three_days / "readme.md").write_text("x")
    assert len(list_files(Folder.open(str(three_days)), DAYS)) == 9


def test_relative_paths_become_absolute(three_days, monkeypatch):
    monkeypatch.chdir(three_days.parent)
    files = list_files(Folder.open(f"./{three_days.name}/../{three_days.name}"), DAYS)
    assert files == list_files(Folder.open(str(three_days)), DAYS)


def test_urls(three_days):
    assert names(three_days, list_files(Folder.open(f"file://{three_days}"), DAYS)) == names(
        three_days, list_files(Folder.open(str(three_days)), DAYS)
    )


def test_fsspec_file_systems(three_days):
    """`memory://` is a file system that only fsspec knows."""
    import fsspec

    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(three_days), "/logs", recursive=True)
        filesystem, root = open_filesystem("memory://logs")
        assert isinstance(filesystem, pafs.PyFileSystem)
        assert names(root, list_files(Folder.open("memory://logs"), DAYS)) == names(
            three_days, list_files(Folder.open(str(three_days)), DAYS)
        )
    finally:
        memory.rm("/logs", recursive=True)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{root}/nothing", "does not exist; set data.path .* to an existing one"),
        ("{root}/ds=2026-01-01/c.pq", "is a file; set data.path .* to the folder above"),
        ("{root}/ds=2026-01-01", "has no `ds=YYYY-MM-DD` partition"),
    ],
)
def test_no_data_set(three_days, path, words):
    with pytest.raises(DataError, match=words):
        list_files(Folder.open(path.format(root=three_days)), DAYS)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "nosuch://bucket/logs",
            "unknown scheme `nosuch:`; write a local path, or a URL that begins with s3://",
        ),
        ("s3a://bucket/logs", "has the scheme that only Hadoop uses; write s3://bucket/logs"),
        ("s3n://bucket/logs", "write s3://bucket/logs"),
        ("oss://bucket/logs", "needs a package that is not installed: Install ossfs"),
        ("hf://datasets/a", "needs a package that is not installed: Install huggingface_hub"),
    ],
)
def test_a_url_that_nothing_reads_is_one_sentence(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_filesystem(url)
    assert "\n" not in str(caught.value)


def test_a_missing_day_names_the_days_that_are_there(three_days):
    days = DayRange(start=dt.date(2026, 1, 2), end=dt.date(2026, 1, 6))
    with pytest.raises(
        DataError, match=r"no partition ds=2026-01-04 \(and 2 more of .*it has ds=2026-01-01 to ds=2026-01-03, 3"
    ):
        list_files(Folder.open(str(three_days)), days)


def test_a_day_without_files(three_days):
    (three_days / "ds=2026-01-04").mkdir()
    (three_days / "ds=2026-01-04" / "_SUCCESS").write_text("")
    with pytest.raises(DataError, match="ds=2026-01-04` has no parquet file"):
        list_files(Folder.open(str(three_days)), None)


def test_finding_continues_past_missing_days(three_days):
    (three_days / "ds=2026-01-04").mkdir()
    found = find_files(Folder.open(str(three_days)), DayRange(start=dt.date(2026, 1, 3), end=dt.date(2026, 1, 5)))
    assert len(found.files) == 3
    assert ["ds=2026-01-05" in found.problems[0], "ds=2026-01-04" in found.problems[1]] == [True, True]


@pytest.mark.parametrize("name", ["ds=20260104", "ds=2026-W01-1", "ds=today", "ds="])
def test_a_partition_with_an_odd_name(three_days, name):
    (three_days / name).mkdir()
    with pytest.raises(DataError, match=f"{name}` of .* is not ds=YYYY-MM-DD; rename or remove it"):
        list_files(Folder.open(str(three_days)), DAYS)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/tmp/a", "/tmp/a/days/x"),
        ("/tmp/what?#", "/tmp/what?#/days/x"),
        ("/", "/days/x"),
        ("s3://b/m/", "s3://b/m/days/x"),
        (
            "s3://b/m?endpoint_override=localhost:9000&scheme=http",
            "s3://b/m/days/x?endpoint_override=localhost:9000&scheme=http",
        ),
        ("s3://b/m/?endpoint_override=a://b", "s3://b/m/days/x?endpoint_override=a://b"),
        ("gs://b/m#f", "gs://b/m/days/x#f"),
        ("memory://", "memory:///days/x"),
        ("file:///", "file:///days/x"),
    ],
)
def test_a_path_below_a_url_leaves_its_options_at_the_end(folder, expected):
    assert join_path(folder, "days/x") == expected


@pytest.mark.parametrize("folder", ["s3://b/m?endpoint_override=localhost:9000&scheme=http", "memory://b/m", "/b/m"])
def test_what_is_below_a_url_lies_below_it_on_its_file_system(folder):
    assert open_filesystem(join_path(folder, "days/x"))[1] == f"{open_filesystem(folder)[1]}/days/x"


def test_the_paths_of_a_run_and_a_store_on_minio():
    options = "?endpoint_override=localhost:9000&scheme=http"
    config = make_config().model_copy(update={"output": f"s3://b/runs{options}", "name": "first"})
    assert run_folder(config) == f"s3://b/runs/first{options}"
    assert run_of(f"s3://b/runs/first/config.yaml{options}") == run_folder(config)
    assert (
        RunFolder.open(run_folder(config)).path_of("maps/user.parquet")
        == f"s3://b/runs/first/maps/user.parquet{options}"
    )
    assert Store.open(f"s3://b/store{options}").inside("days") == "b/store/days"
