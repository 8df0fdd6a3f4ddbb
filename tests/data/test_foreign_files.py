"""Which files are data: by content, not by name; everything else is refused, or skipped and said."""

import gzip
import os

import fsspec
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from raymtl.data.source import find_files
from raymtl.data.units import plan_input, plan_inputs
from raymtl.errors import DataError
from raymtl.storage.folder import Folder
from tests.helpers.listed import list_files
from tests.helpers.small_data import DAY, click_rows, make_config, write_file

NAMES = [
    "000001_0",
    "part-1.PARQUET",
    "part-2.parq",
    "part-3.parquet.snappy",
    "part-4.pq",
    "part-5.zstd",
    "part-00006-c000",
    "tmp/part.7",
    "a b.parquet",
    "data.csv",
]
"""Names of parquet files."""
SKIPPED = [
    "_part.parquet",
    ".part.parquet",
    "_temporary/0/part.parquet",
    "part-0.parquet.tmp",
    "x/part.parquet._COPYING_",
]
MARKERS = ["_SUCCESS", "_metadata", "_common_metadata", ".part-0.parquet.crc", "hour=01_$folder$", "README", "notes.md"]


@pytest.fixture
def day(tmp_path):
    write_file(tmp_path, click_rows(10))
    return tmp_path / f"ds={DAY}"


def plan(day):
    return plan_input(make_config(path=str(day.parent)), "train")


def test_every_row_that_pyarrow_counts_is_planned_whatever_the_names(day):
    for n, name in enumerate(NAMES):
        write_file(day.parent, click_rows(100 + n), name=name)
    for name in [*SKIPPED, *MARKERS]:
        write_file(day.parent, click_rows(1000), name=name)
    expected = sum(pq.read_metadata(day / name).num_rows for name in ["part-0.parquet", *NAMES])
    found = plan(day)
    assert found.rows == expected
    assert [
        n for n in found.notes if "7 files below the days are not read, since the name says that it is no data" in n
    ]


def test_markers_are_skipped_without_a_word(day):
    for name in MARKERS:
        (day / name).write_text("" if "$" in name or name == "README" else "x")
    (day / "complete").write_text("")
    assert (plan(day).rows, plan(day).notes) == (10, ())


def test_the_marker_of_a_complete_day_may_have_any_name_and_content(day):
    (day / "done.json").write_text("{}")
    with pytest.raises(DataError, match=r"done\.json: a text file, which raymtl does not read"):
        plan(day)
    daily = {"daily": {"store": "models", "ready": {"marker": "done.json"}}}
    config = make_config(path=str(day.parent), group="item").model_dump() | daily
    assert plan_input(type(make_config()).model_validate(config), "train").notes == ()


def orc():
    sink = pa.BufferOutputStream()
    pyarrow.orc.write_table(click_rows(3), sink)
    return sink.getvalue().to_pybytes()


def arrow():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, click_rows(3).schema) as writer:
        writer.write_table(click_rows(3))
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("000000_0", orc(), "an ORC file"),
        ("part.parquet", orc(), "an ORC file"),
        ("part.arrow", arrow(), "an Arrow file"),
        ("part.avro", b"Obj\x01\x04\x16avro.schema", "an Avro file"),
        ("part.csv", b"item,click\n1,0\n", "a text file"),
        ("part.json", b'{"item": 1}', "a text file"),
        ("000000_1", b"7\x01\xe4\n", "a file of an unknown format"),
        ("part.parquet.gz", gzip.compress(b"PAR1", mtime=0), "a file compressed with gzip"),
        ("part.zst", b"\x28\xb5\x2f\xfd1234", "a file compressed with zstd"),
        ("part", b"PARE" + bytes(50) + b"PARE", "an encrypted parquet file"),
        ("secret.parquet", b"PAR1" + bytes(9) + b"PARE", "an encrypted parquet file"),
    ],
)
def test_a_file_of_another_format_is_named(day, name, content, words):
    (day / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: {words}, which raymtl does not read; write it as plain") as caught:
        plan(day)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["part", "part.parquet"])
def test_a_truncated_parquet_file_without_suffix_is_an_error_too(day, name):
    whole = (day / "part-0.parquet").read_bytes()
    (day / name).write_bytes(whole[:-20])
    with pytest.raises(DataError, match=f"{name}: not a readable parquet file .*truncated"):
        plan(day)


@pytest.mark.parametrize("below", ["", "/part"])
@pytest.mark.parametrize(
    ("marker", "tool"),
    [
        (".hoodie/hoodie.properties", "Apache Hudi"),
    ],
)
def test_a_table_of_another_tool_is_refused_by_name(day, below, marker, tool):
    os.makedirs((day.parent / marker).parent)
    (day.parent / marker).write_text("{}")
    root = day.parent
    if below:
        root = day.parent / "part"
        write_file(root, click_rows(3))
    with pytest.raises(DataError, match=f"is a table of {tool}, which also has files that were removed"):
        list_files(Folder.open(str(root)), None)


def test_a_part_of_a_table_of_iceberg_is_refused(day):
    (day.parent / "metadata").mkdir()
    (day.parent / "metadata/00000-a.metadata.json").write_text("{}")
    with pytest.raises(DataError, match=rf"is a part of the table of Apache Iceberg in `{day.parent}`; set data.path"):
        list_files(Folder.open(str(day)), None)


def test_a_log_without_an_entry_is_no_plain_folder(day):
    (day.parent / "_delta_log").mkdir()
    with pytest.raises(DataError, match="_delta_log` has no entry of a Delta Lake table; restore the log, or remove"):
        list_files(Folder.open(str(day.parent)), None)


@pytest.mark.parametrize("link", [False, True])
def test_a_partition_of_a_table_is_refused_at_any_level(tmp_path, link):
    (tmp_path / "tab/_delta_log").mkdir(parents=True)
    root = tmp_path / "tab/region=eu/kind=a"
    write_file(root, click_rows(3))
    if link:
        (tmp_path / "logs").symlink_to(root)
        root = tmp_path / "logs"
    with pytest.raises(
        DataError, match=f"`{root}` is a part of the table of Delta Lake in `{tmp_path}/tab`; set data.path"
    ):
        list_files(Folder.open(str(root)), None)


def test_a_partition_of_a_table_is_refused_on_other_storage():
    memory = fsspec.filesystem("memory")
    try:
        for name in ("tab/_delta_log/0.json", f"tab/region=eu/kind=a/ds={DAY}/part-0.parquet"):
            memory.pipe_file(f"/{name}", b"x")
        with pytest.raises(DataError, match="is a part of the table of Delta Lake in `"):
            list_files(Folder.open("memory://tab/region=eu/kind=a"), None)
    finally:
        memory.rm("/tab", recursive=True)


@pytest.mark.parametrize("name", [".hoodie_partition_metadata", "hour=1/.hoodie_partition_metadata.parquet"])
def test_a_partition_of_hudi_is_refused_by_name(day, name):
    (day / "hour=1").mkdir()
    (day / name).write_text("x")
    with pytest.raises(DataError, match=f"`{day.parent}` is a table of Apache Hudi"):
        plan(day)


def test_another_folder_metadata_is_no_iceberg_table(day):
    (day.parent / "metadata").mkdir()
    (day.parent / "metadata" / "schema.json").write_text("{}")
    assert plan(day).rows == 10


@pytest.mark.parametrize("name", ["base_3", "delta_4_4", "delete_delta_0000005_0000005_0000", "base_3_v2"])
def test_a_transaction_of_hive_is_refused_by_name(day, name):
    write_file(day.parent, click_rows(3), name=f"{name}/bucket_00000")
    with pytest.raises(DataError, match=f"the folder `{name}` of a transactional Hive table"):
        plan(day)


def test_data_next_to_the_partitions_is_said(day):
    for name in ("part-0.parquet", "loose"):
        pq.write_table(click_rows(3), day.parent / name)
    for name in ("dt=2026-01-02", "backup", "2026-01-02"):
        (day.parent / name).mkdir()
    assert plan(day).notes == (f"`{day.parent}`: 2026-01-02 and 4 more next to the `ds=` partitions are not read",)


def test_what_is_no_data_next_to_the_partitions_is_skipped_without_a_word(day):
    for name in ("_SUCCESS", ".crc", "README.md", "config.yaml"):
        (day.parent / name).write_text("x")
    (day.parent / "_old").mkdir()
    (day.parent / ".tmp").mkdir()
    assert plan(day).notes == ()


def test_a_link_that_leads_nowhere_is_an_error(day):
    (day / "part-1.parquet").symlink_to("/not/mounted/part-1.parquet")
    with pytest.raises(
        DataError, match=f"`{day}/part-1.parquet` is a link to `/not/mounted/part-1.parquet`, which does not"
    ):
        plan(day)
    (day / "part-1.parquet").unlink()
    (day.parent / "ds=2026-01-02").symlink_to("/not/mounted")
    with pytest.raises(DataError, match="ds=2026-01-02` is a link to `/not/mounted`, which does not exist; restore"):
        list_files(Folder.open(str(day.parent)), None)
    assert plan(day).rows == 10  # another day


def test_links_to_other_files_and_folders_are_read(day, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_file(elsewhere, click_rows(20))
    write_file(elsewhere, click_rows(30), name="hour=01/part.parquet")
    (day / "part-1.parquet").symlink_to(elsewhere / f"ds={DAY}" / "part-0.parquet")
    (day / "hour=01").symlink_to(elsewhere / f"ds={DAY}" / "hour=01")
    assert plan(day).rows == 60
    (day.parent / "link").symlink_to(day.parent)
    assert plan(day.parent / "link" / f"ds={DAY}").rows == 60


def test_a_circle_of_links_is_an_error(day, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "back").symlink_to(day)
    for target in ("..", ".", elsewhere):
        (day / "link").symlink_to(target)
        with pytest.raises(
            DataError, match=r"is a link to `.*`, a folder above it, so its rows would be read again and"
        ):
            plan(day)
        (day / "link").unlink()


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_two_names_of_one_file_are_an_error(day, make):
    make(day / "part-0.parquet", day / "part-1.parquet")
    with pytest.raises(DataError, match=r"part-0.parquet` and `.*part-1.parquet` are two names of one file"):
        plan(day)


def test_a_day_that_is_a_link_to_another_day_is_an_error(day):
    write_file(day.parent, click_rows(10), name="part-1.parquet")
    (day.parent / "ds=2026-01-02").symlink_to(day)
    found = find_files(Folder.open(str(day.parent)), None)
    assert "(and 1 more such pairs) are two names of one file" in found.problems[0]
    assert plan(day).rows == 20


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_file_of_both_training_and_evaluation_is_an_error(day, make):
    write_file(day.parent, click_rows(10), "2026-01-02")
    days = {"train": {"start": DAY, "end": DAY}, "eval": {"start": "2026-01-02", "end": "2026-01-02"}}
    config = make_config(path=str(day.parent), group="item", **days)
    assert plan_inputs(config, ["train", "eval"])["eval"].rows == 10
    make(day / "part-0.parquet", day.parent / "ds=2026-01-02" / "link.parquet")
    same = "part-0.parquet` and `.*link.parquet` are two names of one file.* evaluated on rows that it was trained on"
    with pytest.raises(DataError, match=same):
        plan_inputs(config, ["train", "eval"])


def test_an_evaluation_on_a_training_day_is_allowed(day):
    config = make_config(path=str(day.parent), group="item", eval={"start": DAY, "end": DAY})
    assert plan_inputs(config, ["train", "eval"])["eval"].rows == 10


def test_a_pipe_is_refused_and_not_opened(day):
    os.mkfifo(day / "pipe.parquet")
    with pytest.raises(DataError, match=r"pipe.parquet` is not a regular file"):
        plan(day)
