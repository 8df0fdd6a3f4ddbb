"""The map of a table: lookups, saved files, the copy that a host shares, and where the logs are read."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.ids import id_map as ids_id_map
from raymtl.data.ids import id_map_lookup
from raymtl.data.ids.hashing import hash_strings
from raymtl.data.ids.id_map import IdMap, MapFile, MapRows, find_map, save_map
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.errors import CheckpointError, StorageError
from raymtl.storage import retry
from raymtl.storage.folder import Folder
from tests.helpers.faulty_storage import Faults, register
from tests.helpers.small_data import make_config

PLACE = Place("part.parquet", 0)
BORDERS = [0, 1, -1, 2**63 - 1, -(2**63)]


def made(ids: list[int], rows: list[int], capacity: int = 100) -> IdMap:
    return IdMap.of(capacity, np.array(ids, np.int64), np.array(rows), np.arange(len(ids)) + 1, np.full(len(ids), 7))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shared copies go to a folder of the test."""
    monkeypatch.setattr(id_map_lookup, "_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(ids_id_map, "_in_use", {})
    return tmp_path / f"raymtl-maps-{os.getuid()}"


@given(st.sets(st.integers(-(2**63), 2**63 - 1) | st.sampled_from(BORDERS)), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_every_id_has_its_row_and_any_other_has_row_0(held: set[int], asked: list[int]) -> None:
    ids = np.array(sorted(held), np.int64)
    rows = np.random.default_rng(0).permutation(len(ids)) + 1
    lookup = IdLookup.build(ids, rows)
    assert lookup.rows(ids).tolist() == rows.tolist()
    known = dict(zip(ids.tolist(), rows.tolist(), strict=True))
    asked += BORDERS
    assert lookup.rows(np.array(asked, np.int64)).tolist() == [known.get(i, 0) for i in asked]


def test_ids_that_crowd_one_place_and_the_end_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that all have one home, at the start, in the middle and at the very end, run past the last home slot."""
    monkeypatch.setattr(id_map_lookup, "mix64", lambda ids: ids.view(np.uint64))
    monkeypatch.setattr(id_map_lookup, "_CHUNK", 7)
    for start in (0, 2**62, -60):
        ids = np.arange(start, start + 40, dtype=np.int64)
        lookup = IdLookup.build(ids, ids - start + 1)
        assert lookup.rows(ids).tolist() == list(range(1, 41))
        assert not lookup.rows(np.arange(start + 40, start + 55)).any()
        assert not lookup.rows(np.arange(1000, 1100)).any()
    last = np.array([-1], np.int64)  # the hash that also marks an empty slot
    assert IdLookup.build(np.array([5]), np.array([1])).rows(last).tolist() == [0]
    assert IdLookup.build(last, np.array([3])).rows(last).tolist() == [3]
    assert IdLookup.build(last, np.array([3])).rows(np.array([5, -2])).tolist() == [0, 0]


def test_a_map_refuses_what_would_give_one_row_to_two() -> None:
    for ids, rows, match in (
        ([1, 2], [5, 5], "the row 5 is held by two IDs"),
        ([1, 1], [5, 6], "the ID 1 occurs twice"),
        ([1], [0], "the ID 1 has row 0, expected 1 to 99"),
        ([1], [100], "the ID 1 has row 100, expected 1 to 99"),
    ):
        with pytest.raises(ValueError, match=match):
            made(ids, rows)
    assert made([3, -1], [1, 2]).ids.tolist() == [-1, 3]


def test_a_saved_map_comes_back_and_names_its_content(tmp_path: Path) -> None:
    first, second = made([5, -3, 9], [1, 99, 50]), made([5, -3, 9], [1, 99, 51])
    folder, name = Folder.open(str(tmp_path)), "maps/user.parquet"
    path = folder.path_of(name)
    assert find_map(folder, name) is None
    file = save_map(first, folder, name, {"admitted": 3})
    assert find_map(folder, name) == file
    assert find_map(folder, name).notes == {"admitted": 3}
    loaded = file.load()
    for part in ("ids", "rows", "counts", "last_seen"):
        assert getattr(loaded, part).tolist() == getattr(first, part).tolist()
        assert getattr(loaded, part).dtype == getattr(first, part).dtype
    assert pq.read_schema(path).field("last_seen").type == pa.date32()
    assert len({made([1], [1]).digest, made([1], [2]).digest, made([2], [1]).digest, made([1], [1], 99).digest}) == 4
    save_map(second, folder, name)
    assert os.listdir(tmp_path / "maps") == ["user.parquet"]
    with pytest.raises(CheckpointError, match=r"is not the one that was saved.*restore the file"):
        file.load()
    text = Path(path).read_bytes()
    Path(path).write_bytes(text[: len(text) // 2])
    for read in (lambda: find_map(folder, name), file.load):
        with pytest.raises(CheckpointError, match=r"user.parquet` is missing or damaged"):
            read()
    os.remove(path)
    with pytest.raises(CheckpointError, match=r"missing or damaged"):
        file.load()
    empty = save_map(IdMap.empty(10), folder, name).load()
    assert len(empty) == 0
    assert empty.lookup.rows(np.array(BORDERS)).tolist() == [0] * 5


def test_storage_that_fails_is_asked_again_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(tmp_path / "faults")
    monkeypatch.setenv(*faults.variable)
    register()
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda seconds: None))
    folder, name = Folder.open(f"faulty://{tmp_path}/maps"), "user.parquet"
    made_map = made([5], [7])
    faults.add("close", error="ENOSPC")
    with pytest.raises(
        StorageError, match=r"user.parquet` cannot be written: .*No space left.*free space on the storage"
    ):
        save_map(made_map, folder, name)
    assert find_map(folder, name) is None
    file = save_map(made_map, folder, name)
    for operation in ("info", "open", "read"):
        faults.add(operation, "*/user.parquet", "EIO", times=2)
        assert find_map(folder, name) == file
    faults.add("read", "*/user.parquet", "EIO", times=2)
    assert file.load().digest == made_map.digest
    for operation in ("info", "open", "read"):
        faults.clear()
        faults.add(operation, "*/user.parquet", "EIO", times=None)
        with pytest.raises(StorageError, match=r"cannot read the ID map `.*user.parquet`: .*tried 4 times"):
            find_map(folder, name)
    with pytest.raises(StorageError, match=r"cannot read the ID map"):
        file.load()


def test_a_host_holds_one_copy_of_a_map(folders: Path, tmp_path: Path) -> None:
    file = save_map(made([5, -3, 9], [1, 99, 50]), Folder.open(str(tmp_path)), "user.parquet")
    assert file.shared().rows(np.array([9, 4, -3])).tolist() == [50, 0, 99]
    os.remove(file.path)  # the next one does not read the file again
    again = file.shared()
    assert again.rows(np.array([9, 4, -3])).tolist() == [50, 0, 99]
    assert not again.words.flags.writeable
    assert sorted(os.listdir(folders)) == ["lock", f"map-{file.digest}"]
    # mapped files stay, unmapped ones are removed when the next map is written
    other = save_map(made([1], [1]), Folder.open(str(tmp_path)), "other.parquet")
    kept = other.shared()
    assert sorted(os.listdir(folders)) == sorted(["lock", f"map-{file.digest}", f"map-{other.digest}"])
    del again
    third = save_map(made([2], [1]), Folder.open(str(tmp_path)), "third.parquet")
    third.shared()
    assert sorted(os.listdir(folders)) == sorted(["lock", f"map-{other.digest}", f"map-{third.digest}"])
    assert kept.rows(np.array([1])).tolist() == [1]


def test_only_the_first_to_come_makes_the_copy(folders: Path) -> None:
    made_by: list[int] = []

    def make() -> IdLookup:
        made_by.append(1)
        time.sleep(0.2)
        return IdLookup.build(np.array([5]), np.array([7]))

    with ThreadPoolExecutor(4) as pool:
        lookups = list(pool.map(lambda _: id_map_lookup.shared_lookup("one", make), range(4)))
    assert [lookup.rows(np.array([5, 6])).tolist() for lookup in lookups] == [[7, 0]] * 4
    assert len(made_by) == 1


def test_no_room_for_the_shared_copy_still_gives_the_right_rows(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    file = save_map(made([5], [7]), Folder.open(str(tmp_path)), "user.parquet")
    assert file.shared().rows(np.array([5, 6])).tolist() == [7, 0]
    assert os.listdir(folders) == ["lock"]


_WRITER = """
import os, sys, time
import numpy as np
from raymtl.data.ids import id_map_lookup
id_map_lookup._FOLDERS = (sys.argv[1],)
from raymtl.data.ids.id_map import find_map
from raymtl.storage.folder import Folder
def slow(*a):
    open(sys.argv[1] + "/writing", "w").close()
    time.sleep(60)
if sys.argv[3] == "slow":
    os.posix_fallocate = slow
lookup = find_map(Folder.open(sys.argv[1]), sys.argv[2]).shared()
print(lookup.rows(np.array([5, 6])).tolist(), open("/proc/self/maps").read().count("raymtl-maps-"), flush=True)
"""


def test_a_killed_writer_leaves_nothing_and_others_share(folders: Path, tmp_path: Path) -> None:
    file = save_map(made([5], [7]), Folder.open(str(tmp_path)), "user.parquet")

    def start(kind: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), "user.parquet", kind], stdout=subprocess.PIPE, text=True
        )

    first = start("slow")
    limit = time.monotonic() + 60
    while not (tmp_path / "writing").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    waiting = [start("plain") for _ in range(2)]
    first.send_signal(signal.SIGKILL)
    first.wait()
    answers = [process.communicate(timeout=60)[0].split("\n")[0] for process in waiting]
    assert answers == ["[7, 0] 1"] * 2
    assert sorted(os.listdir(folders)) == ["lock", f"map-{file.digest}"]


def block_of(ids: pa.Array, kind: str, id_map: IdMap, tmp_path: Path, **feature: int) -> list:
    """The rows of one feature, through a pickled maker as a reading task gets it."""
    file = save_map(id_map, Folder.open(str(tmp_path)), "item.parquet")
    tables = {"item": {"rows": 100, "id_space": "map"}}
    config = make_config(features={"item": {"kind": kind, **feature}}, tables=tables)
    pickled = pickle.dumps(BlockMaker(config, evaluation=False, maps={"item": file}))
    assert len(pickled) < 20_000  # names, not arrays
    raw = pa.table({"item": ids, "click": pa.array([0.0] * len(ids))})
    block = pickle.loads(pickled)(raw, PLACE, 0)
    return block.column("id:item" if kind == "id" else "ids:item").to_pylist()


def test_where_the_logs_are_read_an_unknown_id_is_row_0_and_null_stays_null(folders: Path, tmp_path: Path) -> None:
    id_map = made([5, -3, 9], [1, 99, 50])
    assert block_of(pa.array([9, None, 4, -3], pa.int32()), "id", id_map, tmp_path) == [50, None, 0, 99]
    lists = pa.array([[5, None, 8], None, [], [9, 9]])
    assert block_of(lists, "ids", id_map, tmp_path) == [[1, 0], [], [], [50, 50]]
    assert block_of(pa.array([[5, 8, 9]]), "sequence", id_map, tmp_path, max_length=2) == [[0, 50]]
    words = made(hash_strings(pa.array(["a", "b"])).tolist(), [3, 4])
    plain = pa.array(["b", "c", None, "a", "b"])
    for ids in (plain, plain.dictionary_encode(), plain.cast(pa.large_string())):
        assert block_of(ids, "id", words, tmp_path) == [4, 0, None, 3, 4]
    large = IdMap.of(10**6, np.arange(50_000), np.arange(50_000) + 1, np.ones(50_000), np.ones(50_000))
    assert block_of(pa.array([49_999, 50_000]), "id", large, tmp_path) == [50_000, 0]


def test_a_table_without_its_map_is_a_mistake_of_the_caller(folders: Path) -> None:
    config = make_config(tables={"item": {"rows": 100, "id_space": "map"}})
    with pytest.raises(ValueError, match=r"no map is given for the tables \['item'\]"):
        BlockMaker(config, evaluation=False)
    raw = pa.table({"item": pa.array([1, None, 2]), "click": pa.array([0.0] * 3)})
    block = BlockMaker(config, evaluation=False, maps={"item": None})(raw, PLACE, 0)
    assert block.column("id:item").to_pylist() == [0, None, 0]


def test_a_process_lets_go_of_the_maps_of_other_runs(folders: Path, tmp_path: Path) -> None:
    files = [save_map(made([n], [n]), Folder.open(str(tmp_path)), f"{n}.parquet") for n in (1, 2, 3)]
    asked = np.array([1, 2, 3])
    run: dict[str, MapFile | None] = {"user": files[0], "item": files[1]}
    both = MapRows(run)
    assert both.rows("user", asked).tolist() == [1, 0, 0]
    assert both.rows("item", asked).tolist() == [0, 2, 0]
    assert set(ids_id_map._in_use) == {files[0].digest, files[1].digest}
    assert MapRows({"user": files[2]}).rows("user", asked).tolist() == [0, 0, 3]
    assert set(ids_id_map._in_use) == {files[2].digest}
