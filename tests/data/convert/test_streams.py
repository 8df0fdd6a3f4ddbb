"""Reading text files and writing partitions in batches, whatever their size."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymtl.data.convert import partitions, text_table
from raymtl.data.convert.partitions import (
    DenseMoments,
    PartitionWriter,
    ValueCounts,
    hash_table,
    map_table,
    start_over,
)
from raymtl.data.convert.text_table import TextTable, find_file
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.writing import OutputFolder
from raymtl.errors import DataError

SITE = "https://example.org/data"


@pytest.fixture
def small_blocks(monkeypatch):
    """Batches of a few lines, so that a small file has many."""
    monkeypatch.setattr(text_table, "_BLOCK_BYTES", 40)
    monkeypatch.setattr(text_table, "_BLOCKS", 2)


def table(tmp_path, text: str, name: str = "a.csv", **options) -> TextTable:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return TextTable("shop", str(path), ("item", "click"), SITE, **options)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("header", [False, True])
def test_batches_have_all_lines_and_their_numbers(tmp_path, small_blocks, name, header):
    rows = [(str(10_000 + n), str(n % 2)) for n in range(101)]
    text = "".join(f"{a}\t{b}\n" for a, b in rows)
    if header:  # the columns are found by their names
        text = "price\tclick\titem\n" + "".join(f"9.5\t{b}\t{a}\n" for a, b in rows)
    batches = list(table(tmp_path, text, name, delimiter="\t", header=header).batches())
    assert len(batches) > 5
    assert [b.first for b in batches] == (np.cumsum([0] + [len(b) for b in batches])[:-1] + 1 + header).tolist()
    found = [
        pair
        for b in batches
        for pair in zip(b.columns["item"].to_pylist(), b.columns["click"].to_pylist(), strict=True)
    ]
    assert found == rows
    assert pa.concat_arrays([b.integers("item") for b in batches]).to_pylist() == [int(a) for a, _ in rows]
    assert pa.concat_arrays([b.labels("click") for b in batches]).to_pylist() == [int(b) for _, b in rows]


def values_of(file: TextTable) -> None:
    for lines in file.batches():
        lines.integers("item", high=99)
        lines.labels("click")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "7,1,3",
            r"a.csv`, line 31: 3 fields instead of 2 in '7,1,3'; download the file again from https://example.org",
        ),
        ("7", "a.csv`, line 31: 1 field instead of 2 in '7'"),
        ("", "a.csv`, line 31: item is '', not an integer from 0 to 99; fix the line, or"),
        ("100,1", "a.csv`, line 31: item is '100', not an integer from 0 to 99"),
        ("-1,1", "a.csv`, line 31: item is '-1', not"),
        ("7.0,1", "a.csv`, line 31: item is '7.0', not"),
        ("99999999999999999999,1", "a.csv`, line 31: item is '99999999999999999999', not"),
        ("7,2", "a.csv`, line 31: click is '2', not 0 or 1"),
        ("7,", "a.csv`, line 31: click is '', not 0 or 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, small_blocks, line, message):
    file = table(tmp_path, "5,1\n" * 30 + line + "\n" + "5,0\n" * 30)
    with pytest.raises(DataError, match=message):
        values_of(file)


def test_a_wrong_line_among_quoted_ones_is_named(tmp_path):
    text = "item,price,click\n" + '5,"1,5",1\n' * 3 + '6,"1,5",1,0\n' + '5,"1,5",0\n'
    file = table(tmp_path, text, header=True, quotes=True)
    with pytest.raises(DataError, match="line 5: 4 fields instead of 3 in '6,"):
        values_of(file)
    (lines,) = table(tmp_path, text.replace('6,"1,5",1,0\n', ""), header=True, quotes=True).batches()
    assert lines.labels("click").to_pylist() == [1, 1, 1, 0]


def test_empty_fields_are_null_where_they_may_be(tmp_path):
    (lines,) = table(tmp_path, "5,1.5\n,-2e3\n7,\n-1,half\n").batches()
    assert lines.integers("item", low=-1, nullable=True).to_pylist() == [5, None, 7, -1]
    with pytest.raises(DataError, match="line 4: click is 'half', not a number"):
        lines.numbers("click")
    (lines,) = table(tmp_path, "5,1.5\n6.0,inf\n").batches()
    assert lines.integers("item", nullable=True).to_pylist() == [
        5,
        6,
    ]  # as pandas writes integers of a column with nulls
    with pytest.raises(DataError, match="line 2: click is 'inf', not a number"):
        lines.numbers("click")
    (lines,) = table(tmp_path, "5,1.5\n,-2e3\n7,\n").batches()
    assert lines.numbers("click").to_pylist() == [1.5, -2000, None]


def test_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a.csv` lacks a column of \['item', 'click'\] .*'click'.*; download it again"):
        list(table(tmp_path, "item,price\n1,2\n", header=True).batches())
    with pytest.raises(DataError, match=r"shop: .*a.csv` is not readable as text \(.*\); download it again"):
        list(table(tmp_path, "").batches())
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"1,2\n" * 1000)[:-20])
    with pytest.raises(DataError, match=r"b\.csv\.gz` is not readable as text"):
        list(TextTable("shop", f"{tmp_path}/b.csv.gz", ("item", "click"), SITE).batches())
    assert list(table(tmp_path, "item,click\n", header=True).batches()) == []
    with pytest.raises(DataError, match=r"folder `.*none` does not exist; pass the folder that holds a.csv"):
        find_file("shop", f"{tmp_path}/none", ["a.csv"], SITE)
    with pytest.raises(DataError, match=f"has no c.csv or d.csv; download it from {SITE}"):
        find_file("shop", str(tmp_path), ["c.csv", "d.csv"], SITE)


def test_partitions_keep_the_rows_of_each_day_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "GROUP_ROWS", 50)
    monkeypatch.setattr(partitions, "FILE_ROWS", 100)
    folder = OutputFolder.open(str(tmp_path))
    start_over(folder, "shop", ["logs"])
    writer, ends = PartitionWriter(folder, "logs"), {"2026-01-01": 0, "2026-01-02": 0}
    for n in range(40):
        day = f"2026-01-0{1 + n % 2}"
        count = 0 if n == 5 else 10 + n % 3
        writer.write(day, pa.table({"n": pa.array(range(ends[day], ends[day] + count), pa.int64())}))
        ends[day] += count
    writer.write("2026-01-03", pa.table({"n": pa.array([], pa.int64())}))
    writer.close()
    assert writer.rows == ends | {"2026-01-03": 0}
    for day, end in ends.items():
        files = sorted((tmp_path / "logs" / f"ds={day}").iterdir())
        assert len(files) > 1
        assert [f.name for f in files] == [f"part-{n:05d}.parquet" for n in range(len(files))]
        rows = [pq.read_table(f, partitioning=None)["n"].to_pylist() for f in files]
        assert [n for part in rows for n in part] == list(range(end))
        assert all(100 <= len(r) < 150 for r in rows[:-1])
        assert pq.ParquetFile(files[0]).num_row_groups == 2
    assert [f.name for f in (tmp_path / "logs" / "ds=2026-01-03").iterdir()] == ["part-00000.parquet"]


def test_many_days_share_the_rows_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "GROUP_ROWS", 1000)
    monkeypatch.setattr(partitions, "WAITING_ROWS", 100)
    writer = PartitionWriter(OutputFolder.open(str(tmp_path)), "logs")
    days = pa.array(np.arange("2026-01-01", "2026-01-08", dtype="datetime64[D]").repeat([9, 0, 3, 1, 0, 2, 5]))
    for n in range(30):
        writer.write_days(days, pa.table({"n": np.arange(20) + 100 * n}))
        assert writer._waiting_rows.total() < 100
    assert writer.fill_days() == ["2026-01-02", "2026-01-05"]
    writer.close()
    found = {}
    for folder in sorted((tmp_path / "logs").iterdir()):
        (file,) = folder.iterdir()
        found[folder.name] = pq.read_table(file, partitioning=None)["n"].to_pylist()
    assert list(found) == [f"ds=2026-01-0{n}" for n in range(1, 8)]
    assert found["ds=2026-01-01"] == [100 * n + k for n in range(30) for k in range(9)]
    assert [len(rows) for rows in found.values()] == [270, 0, 90, 30, 0, 60, 150]


def test_an_exact_row_group_leaves_nothing_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "GROUP_ROWS", 10)
    writer = PartitionWriter(OutputFolder.open(str(tmp_path)), "logs")
    writer.write("2026-01-01", pa.table({"n": range(10)}))
    writer.close()
    assert pq.read_table(tmp_path / "logs" / "ds=2026-01-01" / "part-00000.parquet", partitioning=None).num_rows == 10


def test_only_its_own_files_are_replaced(tmp_path):
    folder, old = OutputFolder.open(str(tmp_path)), tmp_path / "logs" / "ds=2025-12-31" / "part-00000.parquet"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"mine")
    with pytest.raises(
        DataError, match=r"shop: .*logs` has files that this converter did not write, such as ds=2025-12-31"
    ):
        start_over(folder, "shop", ["logs"])
    folder.write("config.yaml", "# The shop, converted by `raymtl convert shop`.\n")
    (old.parent / "notes.txt").write_text("mine")
    start_over(folder, "shop", ["logs"])
    assert not old.exists()
    assert (old.parent / "notes.txt").read_text() == "mine"
    old.write_bytes(b"of a conversion that was interrupted")
    start_over(folder, "shop", ["logs"])
    assert not old.exists()


def test_values_are_counted_over_batches():
    random, counts, seen = np.random.default_rng(0), ValueCounts(), []
    assert counts.values().to_pylist() == []
    for _ in range(7):
        values = random.integers(0, 60_000, 40_000)
        seen.append(values)
        counts.add(pa.array(values, mask=random.random(len(values)) < 0))
    unique, often = np.unique(np.concatenate(seen), return_counts=True)
    for least in (1, 5, 9):
        assert counts.values(least).to_pylist() == unique[often >= least].tolist()
    words = ValueCounts()
    for _ in range(1000):  # counts of few values do not pile up
        words.add(pa.array(["c"]))
        assert len(words._recent) <= 65
    words.add(pa.array(["b", None, "a", "b"]))
    assert (words.values().to_pylist(), words.values(2).to_pylist()) == (["a", "b", "c"], ["b", "c"])


def test_tables_fit_their_values():
    few = pa.chunked_array([pa.array(range(250))])
    rows = hash_table(few)["rows"]
    assert len(set(hash_rows(np.arange(250), rows).tolist())) == 250
    assert hash_table(pa.chunked_array([pa.array(range(20_000))])) == {"rows": 131_072}
    assert map_table(few, 3) == {"rows": 400, "id_space": "map", "admit_count": 3}
    assert map_table(few.slice(0, 0), 3)["rows"] == 100


def test_moments_are_those_of_all_batches():
    random = np.random.default_rng(0)
    values, moments = random.normal(3, 2, 1000) ** 2, DenseMoments({"a": "none", "b": "log1p"})
    for part in np.array_split(values, 7):
        moments.add(pa.table({"a": pc.if_else(pa.array(part < 1), None, pa.array(part)), "b": part}))
    a, b = values[values >= 1], np.log1p(values)
    found = moments.features()
    assert (found["a"]["mean"], found["a"]["std"]) == pytest.approx((a.mean(), a.std()), abs=1e-5)
    assert (found["b"]["mean"], found["b"]["std"]) == pytest.approx((b.mean(), b.std()), abs=1e-5)
    assert DenseMoments({"a": "none"}).features()["a"] == {
        "kind": "dense",
        "transform": "none",
        "mean": 0.0,
        "std": 1.0,
    }
