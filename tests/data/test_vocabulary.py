"""Vocabularies in text and parquet: the IDs of the logs' type, and files that are refused before a run starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.root import Config
from raymtl.data.build_id_maps import source_of
from raymtl.data.ids.hashing import to_int64
from raymtl.data.units import plan_input
from raymtl.data.vocabulary import check_id_files, vocabulary_identity, vocabulary_ids
from raymtl.errors import ConfigError, DataError
from raymtl.training.driver import prepare_inputs
from tests.helpers.small_data import DAY, click_rows, make_config, write_file

STRINGS, INTEGERS = frozenset({"string"}), frozenset({"integer"})


def config_of(file: Path, rows: int = 100, **more: Any) -> Config:
    tables = {"item": {"rows": rows, "id_space": "map", "vocabulary": {"path": str(file)}}}
    return make_config(tables=tables, **more)


def ids_of(path: Path, held: frozenset[str], rows: int = 100) -> list[int]:
    return vocabulary_ids("item", config_of(path, rows).tables["item"], held).tolist()


def hashes(*ids: str) -> list[int]:
    return sorted(to_int64(pa.array(ids)).to_pylist())


@pytest.mark.parametrize(
    "content", ["7\n8\n7\n-3", "7\r\n8\r\n-3\r\n", "\ufeff7\n8\n-3\n"], ids=["unix", "windows", "bom"]
)
def test_lines_are_ids_of_the_logs_type(tmp_path: Path, content: str) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(content.encode())
    assert ids_of(path, INTEGERS) == [-3, 7, 8]
    assert ids_of(path, STRINGS) == hashes("7", "8", "-3")
    assert ids_of(path, frozenset()) == [-3, 7, 8]  # no log says


def test_text_and_parquet_of_the_same_ids_are_the_same(tmp_path: Path) -> None:
    ids = ["a", "ä b", "日本"]
    (tmp_path / "v.txt").write_text("\n".join(ids), encoding="utf-8")
    pq.write_table(pa.table({"id": ids}), tmp_path / "v.parquet")
    assert ids_of(tmp_path / "v.txt", STRINGS) == ids_of(tmp_path / "v.parquet", STRINGS) == hashes(*ids)


def test_a_folder_of_text(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"part-{n}.txt").write_text(f"{n}\n9\n")
    (tmp_path / "_SUCCESS").touch()
    assert ids_of(tmp_path, INTEGERS) == [0, 1, 2, 9]
    pq.write_table(pa.table({"id": [1]}), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"leave only `.txt` files or only parquet files"):
        ids_of(tmp_path, INTEGERS)


@pytest.mark.parametrize(
    ("content", "held", "words"),
    [
        (b"", STRINGS, "the file has no IDs; write one per line"),
        (b"a\n\nb\n", STRINGS, "line 2: it is empty"),
        (b"a\nb \n", STRINGS, "line 2: 'b ' begins or ends with a blank"),
        (b"7\nx8\n", INTEGERS, "line 2: 'x8' is no integer, but the logs hold integers"),
        (b"7\n1.5\n", INTEGERS, "line 2: '1.5' is no integer"),
        (b"7\n99999999999999999999\n", INTEGERS, "line 2: 99999999999999999999 is no integer of 64 bits"),
        (b"a\n\xff\xfe\n", STRINGS, "line 2: it is not UTF-8"),
        (b"a\n", frozenset({"UUID"}), "the logs hold UUIDs"),
        (b"a\n", STRINGS | INTEGERS, "the logs hold integer and string IDs for this table"),
        (b"1\n2\n3\n", INTEGERS, "tables.item.rows is 3, which has no room for 1 of the 3 IDs"),
    ],
)
def test_malformed_text_is_refused(tmp_path: Path, content: bytes, held: frozenset[str], words: str) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    with pytest.raises((DataError, ConfigError)) as caught:
        ids_of(path, held, rows=3)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_of_the_same_size_is_another_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    found = []
    for content in ("ab\n", "cd\n"):
        path.write_text(content)
        found.append(vocabulary_identity("item", config_of(path).tables["item"]))
    assert found[0] != found[1]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A day of integer IDs from 0 to 49."""
    write_file(tmp_path / "logs", click_rows(200))
    return tmp_path / "logs"


def test_what_the_logs_hold_decides(logs: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("1\n2\n")
    config = config_of(path, path=str(logs))
    plan = plan_input(config, "train")
    assert plan.held == {"item": INTEGERS}
    assert prepare_inputs(config).plans["train"] == plan
    assert source_of(config, plan, "item") == source_of(config, plan_input(config, "train"), "item")
    path.write_text("1\nb\n")
    with pytest.raises(DataError, match="line 2: 'b' is no integer, but the logs hold integers"):
        prepare_inputs(config)
    path.unlink()
    with pytest.raises(DataError, match=r"tables.item.vocabulary.path is .* does not exist"):
        prepare_inputs(config)


@pytest.mark.parametrize("ids", [["1", "2"], [b"1", b"2"]], ids=["text", "bytes"])
@pytest.mark.parametrize("use", ["vectors", "vocabulary"])
def test_files_of_another_type_than_the_logs_are_refused(logs: Path, tmp_path: Path, ids: list[Any], use: str) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"id": ids, "vector": [[0.0] * 4] * 2}), path)
    table = {"rows": 100, "dim": 4, "id_space": "map", use: {"path": str(path)}}
    config = make_config(tables={"item": table}, path=str(logs))
    with pytest.raises(DataError) as caught:
        prepare_inputs(config)
    assert str(caught.value) == (
        f"{path} (tables.item.{use}): column `id` holds strings, but the logs hold integers, so that no ID would match; write it "
        "with the type of the logs"
    )
    pq.write_table(pa.table({"id": [1.0, np.nan], "vector": [[0.0] * 4] * 2}), path)  # what pandas makes of integers
    prepare_inputs(config)


def test_ids_of_a_bucket_are_integers(tmp_path: Path) -> None:
    rows = click_rows(20).append_column("price", pa.array(np.arange(20.0)))
    write_file(tmp_path / "logs", rows)
    features = {"price": {"kind": "bucket", "edges": [5.0, 10.0]}}
    pq.write_table(pa.table({"id": ["0", "1"], "vector": [[0.0] * 4] * 2}), tmp_path / "v.parquet")
    table = {"rows": 3, "dim": 4, "vectors": {"path": str(tmp_path / "v.parquet")}}
    config = make_config(
        features, tables={"price": table}, path=str(tmp_path / "logs"), train={"start": DAY, "end": DAY}
    )
    with pytest.raises(DataError, match="holds strings, but the logs hold integers"):
        check_id_files(config, plan_input(config, "train").held)


def test_text_under_another_name_is_told_to_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("7\n8\n")
    for call in (lambda: ids_of(path, INTEGERS), lambda: vocabulary_identity("item", config_of(path).tables["item"])):
        with pytest.raises(
            DataError, match=r"v.csv \(tables.item.vocabulary\): it is text, but its name does not end in `.txt`"
        ):
            call()
    pq.write_table(pa.table({"other": [1]}), path)  # parquet under that name is read
    with pytest.raises(DataError, match="the column `id` is missing"):
        ids_of(path, INTEGERS)


def test_a_missing_vocabulary_may_be_text(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none.txt`, which does not exist; name a parquet file, a `.txt` file with an ID per"
    ):
        ids_of(tmp_path / "none.txt", STRINGS)
