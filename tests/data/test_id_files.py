"""IDs and vectors of files beside the logs: what is read, and what is refused in one sentence; vocabularies of maps."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict, relative_paths
from raymtl.config.root import Config
from raymtl.data.build_id_maps import count_and_admit, source_of
from raymtl.data.id_files import open_id_file, vectors_file
from raymtl.data.ids.hashing import to_int64
from raymtl.data.ids.id_map import IdMap
from raymtl.data.units import Plan
from raymtl.errors import ConfigError, DataError, UserError
from raymtl.storage.folder import Folder
from raymtl.training.driver import prepare_inputs
from tests.helpers.small_data import DAY, click_rows, make_config, write_file

IDS = ["a", None, "b", "ä", "a"]
VECTORS = [[1.0] * 4, [2.0] * 4, None, [3.0] * 4, [4.0] * 4]


def write(path: Path, kind: pa.DataType = pa.list_(pa.float32()), ids: Any = IDS, vectors: Any = VECTORS) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": pa.array(ids), "vector": pa.array(vectors, kind)}), path, row_group_size=2)
    return str(path)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 4), pa.large_list(pa.int8())], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_ids_and_vectors_of_all_files(tmp_path: Path, kind: pa.DataType, rows: int) -> None:
    write(tmp_path / "v" / "part-0.parquet", kind)
    write(tmp_path / "v" / "part-1.parquet", kind, ["c"], [[5.0] * 4])
    (tmp_path / "v" / "_SUCCESS").touch()
    file = open_id_file("tables.x.vectors", str(tmp_path / "v"), "id", "vector", 4)
    assert file.rows == 6
    parts = [*file.vectors("vector", 4, rows)]
    assert max(len(ids) for ids, _ in parts) <= min(rows, 2)  # at most a row group at a time
    assert np.concatenate([ids for ids, _ in parts]).tolist() == to_int64(pa.array(["a", "ä", "a", "c"])).to_pylist()
    assert np.concatenate([vectors for _, vectors in parts])[:, 0].tolist() == [1, 3, 4, 5]
    assert file.ids().tolist() == sorted(to_int64(pa.array(["a", "b", "ä", "c"])).to_pylist())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "tables.x.vectors.path is `{path}`, which does not exist; name a parquet file, or a folder of them"),
        ({"other": [1]}, "the column `id` is missing; set tables.x.vectors.id to one of its columns: other"),
        (
            {"id": [0.5], "vector": [[1.0] * 4]},
            "column `id`, row 0: the value is 0.5, expected a whole number up to 2^53",
        ),
        ({"id": [1], "vector": [["a"]]}, "column `vector` has type list<element: string>, expected a list of numbers"),
        (
            {"id": [1], "vector": pa.array([[1.0] * 3], pa.list_(pa.float32(), 3))},
            "column `vector` holds vectors of 3 numbers, but the dim of the table is 4; a dim is a multiple of 4: "
            "fill the vectors with zeros up to 4 numbers, and set tables.x.dim to 4",
        ),
        (
            {"id": [1], "vector": pa.array([[1.0] * 50], pa.list_(pa.float32(), 50))},
            "fill the vectors with zeros up to 52 numbers, and set tables.x.dim to 52",
        ),
        (
            {"id": [1], "vector": pa.array([[1.0] * 8], pa.list_(pa.float32(), 8))},
            "but the dim of the table is 4; set tables.x.dim to 8, or write vectors of that dim",
        ),
        (
            {"id": [1, 2], "vector": [[1.0] * 4, [1.0]]},
            "a vector has 1 numbers, but the dim of the table is 4; a dim is a multiple of 4",
        ),
        ({"id": [1], "vector": [[1.0, 2.0, np.nan, 3.0]]}, "a vector holds nan, expected finite numbers; write null"),
    ],
    ids=["missing", "column", "id", "type", "width", "width 50", "width 8", "length", "nan"],
)
def test_a_wrong_file_is_refused(tmp_path: Path, table: dict[str, Any], words: str) -> None:
    path = tmp_path / "v.parquet"
    if table:
        pq.write_table(pa.table(table), path)
    with pytest.raises(DataError) as caught:
        [*open_id_file("tables.x.vectors", str(path), "id", "vector", 4).vectors("vector", 4)]
    assert words.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_checks_the_file_before_it_starts(tmp_path: Path) -> None:
    write_file(tmp_path / "logs", click_rows(10))
    vectors = {"path": str(tmp_path / "none")}
    config = make_config(tables={"item": {"rows": 9, "vectors": vectors}}, path=str(tmp_path / "logs"))
    with pytest.raises(UserError, match=r"tables.item.vectors.path is .* does not exist"):
        prepare_inputs(config)
    write(tmp_path / "v.parquet")
    config = make_config(tables={"item": {"rows": 9, "dim": 4, "vectors": {"path": str(tmp_path / "v.parquet")}}})
    assert vectors_file("item", config.tables["item"]).rows == 5


def test_paths_below_names_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = make_config(tables={"item": {"rows": 9, "vectors": {"path": "v.parquet"}}}).model_dump(mode="json")
    vectors = config_from_dict(raw).tables["item"].vectors
    assert vectors is not None
    assert vectors.path == str(tmp_path / "v.parquet")
    assert relative_paths(["tables.item.vectors.path=v.parquet", "output=/out"]) == [
        "tables.item.vectors.path=v.parquet"
    ]


def vocabulary(path: str, rows: int, **more: Any) -> Config:
    return make_config(tables={"item": {"rows": rows, "id_space": "map", "vocabulary": {"path": path}, **more}})


def built(config: Config, folder: Path, before: IdMap, notes: list[str]) -> IdMap:
    plan = Plan(str(folder), (), "identity", (DAY, DAY))
    sources = {"item": source_of(config, plan, "item")}
    files = count_and_admit(
        config,
        plan,
        lambda table: before,
        Folder.open(str(folder)),
        {"item": "map.parquet"},
        sources,
        5,
        1,
        notes.append,
    )
    return files["item"].load()


def test_a_vocabulary_is_the_map_without_counting(tmp_path: Path) -> None:
    path, notes = write(tmp_path / "v.parquet"), list[str]()
    first = built(vocabulary(path, 10), tmp_path, IdMap.empty(10), notes)
    assert first.ids.tolist() == sorted(to_int64(pa.array(["a", "b", "ä"])).to_pylist())
    assert notes == ["table item: 3 IDs of its vocabulary, 3 of them new"]
    write(tmp_path / "v.parquet", ids=["b", "c"], vectors=VECTORS[:2])  # a later file: known IDs keep their rows
    second = built(vocabulary(path, 10), tmp_path, first, notes)
    assert len(second) == 4
    places, known = second.find(first.ids)
    assert known.all()
    assert (second.rows[places] == first.rows).all()
    assert notes[1:] == ["table item: 4 IDs of its vocabulary, 1 of them new"]
    assert second.last_seen.max() == (dt.date.fromisoformat(DAY) - dt.date(1970, 1, 1)).days


def test_a_vocabulary_must_fit_its_table(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet")
    with pytest.raises(ConfigError) as caught:
        built(vocabulary(path, 3), tmp_path, IdMap.empty(3), [])
    assert str(caught.value) == (
        f"tables.item.rows is 3, which has no room for 1 of the 3 IDs of its vocabulary `{path}`; set it to 4 or more"
    )
    with pytest.raises(ValueError, match="has a vocabulary, whose IDs are all admitted and never evicted"):
        vocabulary(path, 10, admit_count=2)
    with pytest.raises(ValueError, match="has a vocabulary, but its id_space is `hash`; set it to `map`"):
        make_config(tables={"item": {"rows": 9, "vocabulary": {"path": path}}})
