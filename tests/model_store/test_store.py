"""The store: what is visible when, damage, the way back, and cleaning up."""

import datetime as dt
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from raymtl.errors import StorageError, TryLaterError, VersionError
from raymtl.model_store import commit_log
from raymtl.model_store.difference import MetricPair, diff
from raymtl.model_store.manifest import NAME, check_id, new_id, parse_manifest
from raymtl.model_store.store import (
    chain,
    clear,
    current,
    file_fault,
    gc,
    list_versions,
    publish,
    published,
    read_unpublished,
    rollback,
    show,
    verify,
)
from raymtl.storage.object_store import Output, Store
from tests.helpers.fake_versions import write

MEMORY = itertools.count()


@pytest.fixture(params=["local", "fsspec", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A local folder, an fsspec storage that refuses a second object itself, and plain storage that does not."""
    if request.param == "local":
        return Store.open(str(tmp_path / "store"))
    memory = fsspec.filesystem("memory")
    if request.param == "plain":
        memory = type("Plain", (type(memory),), {"pipe_file": _without_mode, "cachable": False})()
    root = f"/store-{next(MEMORY)}"
    return Store(f"memory:/{root}", pafs.PyFileSystem(pafs.FSSpecHandler(memory)), root)


def _without_mode(self: Any, path: str, value: bytes) -> None:
    raise NotImplementedError


def test_a_version_exists_once_the_log_names_it(store: Store) -> None:
    assert current(store) is None
    assert list_versions(store) == []
    write(store, "a")
    assert current(store) is None
    assert list_versions(store) == []
    for version in (None, "a"):
        with pytest.raises(VersionError, match="has no version; check its path, or publish a run first"):
            show(store, version)
    publish(store, "a")
    assert current(store) == "a"
    assert show(store).id == "a"
    assert verify(store) == []
    write(store, "b")
    publish(store, "b")
    assert [(v.id, v.current) for v in list_versions(store)] == [("b", True), ("a", False)]
    assert publish(store, "b").number == 2  # again: the first answer was lost
    with pytest.raises(VersionError, match="is already published"):
        publish(store, "a")
    with pytest.raises(VersionError, match="already has a version a"):
        clear(store, "a")


def test_a_half_written_version_cannot_be_published(store: Store) -> None:
    write(store, "a")
    store.filesystem.delete_file(store.inside(f"versions/a/{NAME}"))
    with pytest.raises(VersionError, match=r"manifest.json` is missing.*incomplete"):
        publish(store, "a")
    write(store, "a")
    store.write("versions/a/dense.safetensors", b"wei")
    with pytest.raises(VersionError, match=r"dense.safetensors` has 3 bytes instead of 7"):
        publish(store, "a")
    store.filesystem.delete_file(store.inside("versions/a/dense.safetensors"))
    with pytest.raises(VersionError, match=r"dense.safetensors` is missing"):
        publish(store, "a")
    assert current(store) is None
    clear(store, "a")  # the next writer of that name
    assert store.names("versions/a") == []


def test_a_lost_lease_stops_every_step(store: Store) -> None:
    for name in "abc":
        write(store, name)
        publish(store, name)
    write(store, "d")

    def lost() -> None:
        raise TryLaterError("lost")

    for step in (lambda: publish(store, "d", lost), lambda: rollback(store, "a", lost), lambda: gc(store, 1, (), lost)):
        with pytest.raises(TryLaterError):
            step()
    assert current(store) == "c"
    assert [e.version for e in published(store)] == ["a", "b", "c"]
    assert len(commit_log.entries(store)) == 3


def test_two_that_publish_at_once(store: Store) -> None:
    """Without any lease: the log takes one of them, and the other says who it was."""
    for name in "ab":
        write(store, name)
    last = commit_log.newest(store)
    commit_log.append(store, last, "publish", "a", "a", "")
    with pytest.raises(TryLaterError, match="did `publish a` in between"):
        commit_log.append(store, last, "publish", "b", "b", "")
    assert current(store) == "a"


def test_only_one_of_many_creates_an_object(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    done: list[int] = []

    def attempt(number: int) -> None:
        try:
            store.create("log/x.json", bytes([number]) * 1000)
        except FileExistsError:
            return
        done.append(number)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert store.read("log/x.json") == bytes(done) * 1000
    assert store.names("log") == ["x.json"]
    assert len(list((tmp_path / "log").iterdir())) == 1


def test_damage_is_found(store: Store) -> None:
    write(store, "a")
    publish(store, "a")
    store.write("versions/a/tables/user/part-0-0.parquet", b"rowz")
    assert verify(store) == [
        f"`{store.path}/versions/a/tables/user/part-0-0.parquet` is damaged: its hash differs from the manifest's"
    ]
    store.write("versions/a/tables/user/part-0-0.parquet", b"rows!")
    assert "(5 bytes instead of 4)" in verify(store)[0]
    store.filesystem.delete_file(store.inside("versions/a/dense.safetensors"))
    assert [fault.endswith("missing") for fault in verify(store)] == [True, False]
    name = f"versions/a/{NAME}"
    data = store.read(name)
    assert data is not None
    store.write(name, data.replace(b"0.7", b"0.9"))
    with pytest.raises(VersionError, match="hash differs from the one in the log"):
        show(store)
    assert list_versions(store)[0].manifest is None
    store.write("log/00000001.json", b'{"number": 1')
    with pytest.raises(VersionError, match=r"00000001.json` is damaged"):
        current(store)


def test_the_options_of_a_url_stand_at_the_end_of_what_is_named(tmp_path: Path) -> None:
    store = Store("s3://bucket/model?region=eu", pafs.LocalFileSystem(), str(tmp_path))
    manifest = write(store, "a")
    part = "versions/a/tables/user/part-0-0.parquet"
    store.write(part, b"rowz")
    found = [file_fault(store, "a", manifest.tables["user"].files[0])]
    store.write(part, b"rows!")
    with pytest.raises(VersionError) as unpublished:
        publish(store, "a")
    store.filesystem.delete_file(store.inside(part))
    found += [file_fault(store, "a", manifest.tables["user"].files[0]), str(unpublished.value)]
    for message in found:
        assert message is not None
        assert f"`s3://bucket/model/{part}?region=eu`" in message
    with pytest.raises(VersionError, match=rf"`s3://bucket/model/versions/b/{NAME}\?region=eu` is missing"):
        read_unpublished(store, "b")


def test_rollback(store: Store) -> None:
    with pytest.raises(VersionError, match="publish a run first"):
        rollback(store)
    for name in "abc":
        write(store, name)
        publish(store, name)
    assert rollback(store).current == "b"
    assert current(store) == "b"
    assert rollback(store).current == "a"
    with pytest.raises(VersionError, match="all before a were removed or rolled back"):
        rollback(store)
    assert rollback(store, "c").current == "c"
    assert rollback(store, "c").number == 6  # nothing to do
    assert show(store).id == "c"
    assert [(v.id, v.current) for v in list_versions(store)] == [("c", True), ("b", False), ("a", False)]
    with pytest.raises(VersionError, match="no version `x`; pass one of: a, b, c"):
        rollback(store, "x")
    store.filesystem.delete_file(store.inside("versions/a/dense.safetensors"))
    with pytest.raises(VersionError, match="missing"):
        rollback(store, "a")
    assert current(store) == "c"


def test_gc(store: Store) -> None:
    for name in "abcde":
        write(store, name, base="b" if name == "d" else None)
        publish(store, name)
    write(store, "killed")
    write(store, "candidate")
    rollback(store, "c")
    planned = gc(store, 2, ["candidate"], dry_run=True)
    assert [v.id for v in list_versions(store)] == list("edcba")
    assert gc(store, 2, ["candidate"]) == planned
    assert planned.versions == ["a"]  # e and d are the newest, c is current, d rests on b
    assert planned.leftovers == ["killed"]
    assert store.names("versions") == ["b", "c", "candidate", "d", "e"]
    assert current(store) == "c"
    assert [m.id for m in chain(store, show(store, "d"))] == ["b", "d"]
    for name in "bcde":
        assert verify(store, name) == []
    with pytest.raises(VersionError, match="no version `a`"):
        show(store, "a")
    publish(store, "candidate")
    assert gc(store, 1).versions == ["b", "c", "d", "e"]
    assert store.names("versions") == ["candidate"]
    with pytest.raises(VersionError, match="keep must be 1 or more"):
        gc(store, 0)


def test_gc_keeps_what_the_daily_job_compares_with(store: Store) -> None:
    for name in "abc":
        write(store, name)
        publish(store, name)
    assert gc(store, 1, keep_published=["a", "removed"]).versions == ["b"]
    assert [v.id for v in list_versions(store)] == ["c", "a"]


def test_a_removal_cut_off_is_ended_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(store, name)
        publish(store, name)

    def full(*_: object) -> None:
        raise StorageError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove_folder", full)
        with pytest.raises(StorageError):
            gc(store, 1)
    assert [v.id for v in list_versions(store)] == ["c", "b"]
    removed = gc(store, 1)
    assert (removed.versions, removed.leftovers) == (["b"], ["a"])
    assert store.names("versions") == ["c"]


def test_diff(store: Store) -> None:
    a = write(store, "a")
    b = write(
        store,
        "b",
        rows=b"more rows",
        counts={"rows": 9},
        config={"train": {"lr": 0.1, "workers": 4}},
        metrics={"eval": {"click": {"auc": 0.75}, "buy": {"auc": 0.6}}},
    )
    found = diff(a, b)
    assert found.config == {"train.workers": (2, 4)}
    assert found.counts == {"rows": (5, 9), "bytes": (11, 16)}
    assert found.metrics == {"eval.click.auc": (0.7, 0.75), "eval.buy.auc": (None, 0.6)}
    assert (found.metric_rows, found.same_rows) == ("both on 0 held-out rows of 2026-01-01", True)
    assert found.tables == {}
    assert diff(a, a).config == {}
    curve = {"eval": {"click": {"calibration_curve": [{"label": 0.1}]}}, "rows": 2_000}
    c = write(store, "c", metrics=curve, data_range={"train": ["2026-01-01", "2026-01-02"]})
    later = diff(a, c)
    assert later.metrics == {"eval.click.auc": (0.7, None), "rows": (None, 2_000)}
    assert not later.same_rows
    assert later.metric_rows == (
        "not on the same rows: 0 held-out rows of 2026-01-01, and 2,000 held-out rows of 2026-01-01..2026-01-02"
    )
    assert later.data == {"days.train": ("2026-01-01", "2026-01-01..2026-01-02")}
    same = diff(a, c, MetricPair({"rows": 9, "auc": 0.5}, {"rows": 9, "auc": 0.75}, "both on 9 rows", True))
    assert (same.metrics, same.metric_rows, same.same_rows) == ({"auc": (0.5, 0.75)}, "both on 9 rows", True)


def test_versions_that_rest_on_each_other(store: Store) -> None:
    for name, base in (("a", "b"), ("b", "a")):
        write(store, name, base=base)
        publish(store, name)
    with pytest.raises(VersionError, match="is its own base"):
        verify(store)


def test_manifests_of_other_formats(store: Store) -> None:
    data = write(store, "a").dump()
    for change, message in (
        ({"format": 2}, "format 2, this raymtl reads format 1"),
        ({"surprise": 1}, r"damaged \(surprise"),
        ({"tables": 1}, r"damaged \(tables"),
    ):
        with pytest.raises(VersionError, match=message):
            parse_manifest(json.dumps({**json.loads(data), **change}).encode(), "m", "restore it")
    for damaged in (data[:50], b"[]", b""):
        with pytest.raises(VersionError, match="`m` is damaged"):
            parse_manifest(damaged, "m", "restore it")
    assert parse_manifest(data, "m", "restore it").data_end == dt.date(2026, 1, 1)


def test_names() -> None:
    first, second = new_id(dt.date(2026, 1, 5)), new_id(dt.date(2026, 1, 5))
    assert first != second
    assert check_id(first).startswith("2026-01-05-")
    for bad in ("", "../x", "a/b", ".hidden", "a b"):
        with pytest.raises(VersionError, match="cannot name a version"):
            check_id(bad)


def test_a_full_or_read_only_storage_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for step in (
        lambda s: s.write("a/b", b""),
        lambda s: s.create("a/b", b""),
        lambda s: Output(s, "a/b"),
    ):
        with pytest.raises(StorageError, match=r"cannot write `a/b`: .*published versions are unchanged") as caught:
            step(Store.open(str(tmp_path / "file")))
        assert "\n" not in str(caught.value)
    if Path("/dev/full").exists():
        store = Store.open(str(tmp_path))
        (tmp_path / "full").symlink_to("/dev/full")
        output = Output(store, "full")
        with pytest.raises(StorageError, match="No space left"):
            output.write(b"x" * (1 << 20))


def test_a_version_may_be_named_by_its_date(store: Store) -> None:
    for name in ("2026-01-03-aaaaaa", "2026-01-04-bbbbbb", "2026-01-04-cccccc", "2026-01-05"):
        write(store, name)
        publish(store, name)
    assert show(store, "2026-01-03").id == "2026-01-03-aaaaaa"
    assert show(store, "2026-01-05").id == "2026-01-05"
    assert verify(store, "2026-01-03") == []
    with pytest.raises(
        VersionError, match="has 2 versions of 2026-01-04; pass one of: 2026-01-04-bbbbbb, 2026-01-04-cc"
    ):
        show(store, "2026-01-04")
    for name in ("2026-01", "20260103", "2026-01-03-", "2026-01-06"):
        with pytest.raises(VersionError, match=f"no version `{name}`"):
            show(store, name)
    assert rollback(store, "2026-01-03").current == "2026-01-03-aaaaaa"
    assert current(store) == "2026-01-03-aaaaaa"


def test_versions_say_whether_they_were_rolled_back(store: Store) -> None:
    def statuses() -> list[tuple[str, str]]:
        return [(v.id, v.status) for v in reversed(list_versions(store))]

    for name in "abc":
        write(store, name)
        publish(store, name)
    assert statuses() == [("a", "published"), ("b", "published"), ("c", "current")]
    entry = rollback(store, "a")
    assert statuses() == [("a", "current"), ("b", "rolled back"), ("c", "rolled back")]
    assert [v.rolled_back for v in list_versions(store)] == [entry, entry, None]
    write(store, "d")
    publish(store, "d")
    assert statuses() == [("a", "published"), ("b", "rolled back"), ("c", "rolled back"), ("d", "current")]
    rollback(store, "c")  # c was trained on top of b
    assert statuses() == [("a", "published"), ("b", "published"), ("c", "current"), ("d", "rolled back")]
    gc(store, 1)
    assert statuses() == [("c", "current"), ("d", "rolled back")]
