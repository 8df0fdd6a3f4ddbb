"""Reading: every row once whatever the files and workers, a repeatable order, and errors that name the file."""

import functools
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from raymtl.data import fragments
from raymtl.data.blocks import BlockMaker
from raymtl.data.dealer import start_dealers
from raymtl.data.dealing import groups
from raymtl.data.fragments import read_fragment
from raymtl.data.read import Input, SlicesDatasource, deal_of, measured_row_bytes, stream
from raymtl.data.slices import unpacked
from raymtl.data.units import Fragment, plan_input
from raymtl.data.user_slice import UserSlice
from raymtl.errors import DataError, StorageError, find_user_error
from tests.helpers import small_data
from tests.helpers.nested_logs import nested
from tests.helpers.small_data import make_config, write_file

BATCH = 50
DAYS = {"start": "2026-01-01", "end": "2026-01-03"}


def rows(count: int, start: int) -> pa.Table:
    numbers = np.arange(start, start + count)
    return pa.table(
        {
            "row": pa.array(numbers, pa.float32()),
            "user": pa.array(numbers // 3, pa.int64()),
            "item": pa.array([f"i{n % 7}" for n in numbers]),
            "click": pa.array((numbers % 3 == 0).astype(np.int8)),
        }
    )


def write_random(root, seed: int, layout: str = "flat") -> int:
    """Three days of files of random sizes (some empty) and row groups; returns the number of rows."""
    random = np.random.default_rng(seed)
    total = 0

    def write_file(root, table, day, name, group_rows):
        if layout == "nested" and len(table):
            table = nested(table, "user", ["row", "item", "click"])
        elif layout == "nested":
            table = nested(rows(3, 0), "user", ["row", "item", "click"]).slice(0, 0)
        small_data.write_file(root, table, day, name, group_rows)

    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        for n in range(random.integers(1, 5)):
            count = int(random.choice([0, 1, 7, 60, 200]))
            write_file(root, rows(count, total), day, f"part-{n}.parquet", int(random.integers(5, 80)))
            total += count
        write_file(root, rows(50, total), day, "part-9.parquet", 20)
        total += 50
    return total


LAYOUTS = {"flat": {}, "request": {"request": "user"}, "nested": {"impressions": "impressions"}}


def config_of(root, layout="flat", **data):
    features = {"row": {"kind": "dense"}, "item": {"kind": "id"}}
    if layout != "flat":
        features["user"] = {"kind": "id", "side": "user"}
        data |= LAYOUTS[layout]
    config = make_config(features, path=str(root), **{"train": DAYS, "unit_rows": 100, "block_rows": 32, **data})
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": BATCH})})


@functools.cache
def dealers_of(workers: int, block_rows: int) -> list:
    """Processes that deal the streams of these tests, one after another, as those of a run do."""
    return start_dealers(workers, block_rows)


@pytest.fixture(scope="module", autouse=True)
def _end_dealers():
    yield
    dealers_of.cache_clear()


def deliver(
    config, schedule=None, workers=1, evaluation=False, meetings=(), users=None, slow=None
) -> list[list[pa.Table]]:
    """The rows that each worker gets, all workers reading at the same time; an error of a worker is raised. The worker `slow`
    waits before each slice."""
    plan = plan_input(config, "train")
    schedule = schedule if schedule is not None else [(0, n) for n in range(len(plan.units))]
    source = Input(plan, evaluation, users=users)
    ranks = groups(workers, config.data.block_rows)
    dealers = dealers_of(workers, config.data.block_rows)
    streams = stream(source, schedule, config, workers=workers, read_tasks=2, meetings=meetings, dealers=dealers)
    iterators = [iterator for dealt in streams for iterator in dealt.iterators]
    members = [n for group in ranks for n in range(len(group))]
    blocks: list[list[pa.Table]] = [[] for _ in iterators]
    errors: list[BaseException] = []

    def consume(n: int) -> None:
        try:
            slices = iterators[n].iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
            for block in unpacked(slices, members[n]):
                if n == slow:
                    time.sleep(0.02)
                blocks[n].append(block)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=consume, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for dealt in streams:
        dealt.close()
    if errors:
        raise errors[0]
    return blocks


def numbers(blocks: list[pa.Table]) -> list[int]:
    return [int(v) for b in blocks for v in b.column("dense:row").to_pylist()]


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("workers", "block_rows", "layout"),
    [
        *((1, 32, "flat"), (2, 32, "flat"), (3, 32, "flat"), (3, 65536, "flat"), (5, 2 * 4096, "flat")),
        *((2, 32, "request"), (3, 32, "nested"), (3, 65536, "nested"), (5, 2 * 4096, "nested")),
    ],
)
def test_every_row_reaches_exactly_one_worker(ray_cluster, tmp_path, workers, block_rows, layout):
    """Workers of one group and of several, the last of which is slow."""
    total = write_random(tmp_path, workers, layout)
    config = config_of(tmp_path, layout, block_rows=block_rows)
    plan = plan_input(config, "train")
    order = plan.order(5, 0)
    schedule = [(0, n) for n in order]
    shares = deliver(config, schedule, workers, meetings=[2, 4], slow=workers - 1)
    assert sorted(n for share in shares for n in numbers(share)) == list(range(total))
    for share in shares:
        units = [b.column("unit").unique().to_pylist() for b in share if len(b)]
        assert all(len(u) == 1 for u in units)  # no block mixes units
        assert units == sorted(units)
    by_unit: dict[int, int] = {}
    for share in shares:
        for block in share:
            for unit in block.column("unit").to_pylist():
                by_unit[unit] = by_unit.get(unit, 0) + 1
    assert by_unit == {place: plan.units[n].rows for place, n in enumerate(order)}
    deal = deal_of(plan, schedule, [2, 4], config, workers)
    for begin, end in deal.spans:
        rows = sum(plan.units[n].rows for n in order[begin:end])
        for rank, share in enumerate(shares):
            own = sum(begin <= unit < end for block in share for unit in block.column("unit").to_pylist())
            of_step = len(range(rank, BATCH, workers))
            if layout != "flat":  # a group's share of the last step goes to its first members
                assert rows // BATCH * of_step <= own <= -(-rows // BATCH) * of_step
                continue
            assert own == rows // BATCH * of_step + len(range(rank, rows % BATCH, workers))


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("mode", "layout"), [("rows", "flat"), ("none", "flat"), ("rows", "nested")])
def test_a_step_holds_the_same_rows_for_any_number_of_workers(ray_cluster, tmp_path, mode, layout):
    total = write_random(tmp_path, 9, layout)
    config = config_of(tmp_path, layout, block_rows=65536, shuffle={"mode": mode})
    units = len(plan_input(config, "train").units)
    schedule = [(n, unit) for n in range(2) for unit in plan_input(config, "train").order(0, n)]
    meetings = [2, units, units + 3]
    found = []
    for workers in (1, 2, 3, 4):
        shares = deliver(config, schedule, workers, meetings=meetings, slow=0)
        steps = []
        for begin, end in zip([0, *meetings], [*meetings, 2 * units], strict=True):
            own = [
                numbers([b for b in share if len(b) and begin <= b.column("unit")[0].as_py() < end]) for share in shares
            ]
            count = -(-sum(map(len, own)) // BATCH)
            sizes = [len(range(rank, BATCH, workers)) for rank in range(workers)]
            steps += [
                sorted(n for rows, size in zip(own, sizes, strict=True) for n in rows[step * size : (step + 1) * size])
                for step in range(count)
            ]
        found.append(steps)
    assert sum(map(len, found[0])) == 2 * total
    assert all(len(step) == BATCH for step in found[0][: units // 2])
    assert all(other == found[0] for other in found[1:])


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_rows_of_a_slice_of_users_are_shared_evenly(ray_cluster, tmp_path):
    total = write_random(tmp_path, seed=6)
    config = config_of(tmp_path, block_rows=65536)
    selected, others = (
        deliver(config, workers=3, users=UserSlice("user", 0, 0.3, selected=selected)) for selected in (True, False)
    )
    assert sorted(n for shares in (selected, others) for share in shares for n in numbers(share)) == list(range(total))
    blocks = len(plan_input(config, "train").units) * 4
    for shares in (selected, others):
        sizes = [len(numbers(share)) for share in shares]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= blocks


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_fewer_rows_than_workers(ray_cluster, tmp_path):
    write_file(tmp_path, rows(2, 0))
    config = config_of(tmp_path, train={"start": "2026-01-01", "end": "2026-01-01"}, block_rows=2 * 4096)
    assert [numbers(share) for share in deliver(config, workers=5, evaluation=True)] == [[0], [1], [], [], []]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_order_is_repeatable_and_new_in_each_pass(ray_cluster, tmp_path):
    total = write_random(tmp_path, seed=4)
    config = config_of(tmp_path)
    units = len(plan_input(config, "train").units)
    first = [numbers(share) for share in deliver(config, workers=2)]
    assert first == [numbers(share) for share in deliver(config, workers=2)]
    both = numbers(deliver(config, [(0, n) for n in range(units)] + [(1, n) for n in range(units)])[0])
    assert sorted(both[:total]) == sorted(both[total:]) == list(range(total))
    assert both[:total] != both[total:]
    assert sorted(n for share in first for n in share) == list(range(total))


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_evaluation_and_unshuffled_training_read_in_file_order(ray_cluster, tmp_path):
    total = write_random(tmp_path, seed=5)
    assert numbers(deliver(config_of(tmp_path), evaluation=True)[0]) == list(range(total))
    assert numbers(deliver(config_of(tmp_path, shuffle={"mode": "none"}))[0]) == list(range(total))


def damage(path: str) -> None:
    """Overwrite data in the middle of the file; the footer stays as it is, and the checksums of the pages tell."""
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 3)
        file.write(b"\xff" * (size // 3))


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["damaged", "removed", "replaced", "broken value"])
def test_a_fault_in_mid_stream_is_one_sentence_on_every_worker(ray_cluster, tmp_path, fault):
    for n, day in enumerate(("2026-01-01", "2026-01-02", "2026-01-03")):
        write_file(tmp_path, rows(3000, 3000 * n), day, group_rows=500)
    config = config_of(tmp_path, unit_rows=3000)
    plan = plan_input(config, "train")
    path = f"{tmp_path}/ds=2026-01-02/part-0.parquet"
    if fault == "damaged":
        damage(path)
    elif fault == "removed":
        (tmp_path / "ds=2026-01-02" / "part-0.parquet").unlink()
    elif fault == "replaced":
        pq.write_table(rows(2999, 0), path, row_group_size=500)
    else:
        broken = rows(3000, 3000).to_pydict()
        broken["click"][1234] = 5
        pq.write_table(pa.table(broken).cast(rows(1, 0).schema), path, row_group_size=500)
    (dealt,) = stream(
        Input(plan), [(0, n) for n in range(3)], config, workers=1, read_tasks=1, dealers=start_dealers(1, 1)
    )
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(dealt.iterators[0].iter_batches(batch_size=None, batch_format="pyarrow"))
    error = find_user_error(caught.value)
    assert type(error) is DataError
    words = {
        "damaged": "cannot be read from row",
        "removed": "was replaced or removed after the run started",
        "replaced": "was replaced or removed after the run started",
        "broken value": "column `click` (tasks.click.label), row 1234: the label is 5",
    }
    assert str(error).startswith(f"{path}: ")
    assert words[fault] in str(error)
    assert "\n" not in str(error)


# The reading tasks themselves


def source_of(plan, schedule, config):
    deal = deal_of(plan, schedule, [], config, workers=1)
    return SlicesDatasource(plan, schedule, config, BlockMaker(config, evaluation=False), 16.0, deal, group=0)


def tasks_of(config, schedule):
    plan = plan_input(config, "train")
    return source_of(plan, schedule, config).get_read_tasks(1)


@pytest.mark.ray
def test_small_files_share_a_reading_task(ray_cluster, tmp_path):
    for n in range(20):
        write_file(tmp_path, rows(10, 10 * n), name=f"part-{n:02d}.parquet")
    day = {"start": "2026-01-01", "end": "2026-01-01"}
    config = config_of(tmp_path, train=day, unit_rows=200, block_rows=50, shuffle={"mode": "units"})
    tasks = tasks_of(config, [(0, 0)])
    assert len(tasks) == 4
    assert source_of(plan_input(config, "train"), [(0, 0)], config).task_count() == 4
    assert [numbers(list(unpacked(t(), 0))) for t in tasks] == [list(range(n, n + 50)) for n in range(0, 200, 50)]


@pytest.mark.ray
def test_rows_are_permuted_within_their_block_alone(ray_cluster, tmp_path):
    write_file(tmp_path, rows(100, 0))
    day = {"start": "2026-01-01", "end": "2026-01-01"}
    config = config_of(tmp_path, train=day, block_rows=40)
    (task,) = tasks_of(config, [(0, 0)])
    blocks = [numbers([b]) for b in unpacked(task(), 0)]
    assert [sorted(b) for b in blocks] == [list(range(40)), list(range(40, 80)), list(range(80, 100))]
    assert blocks[0] != sorted(blocks[0])
    (again,) = tasks_of(config, [(0, 0)])
    assert [numbers([b]) for b in unpacked(again(), 0)] == blocks


def test_the_size_of_a_row_is_measured_or_guessed_where_the_first_rows_are_broken(tmp_path):
    """An error here would reach one worker alone; the reading task tells all of them."""
    path = write_file(tmp_path, rows(100, 0), group_rows=30)
    config = config_of(tmp_path, train={"start": "2026-01-01", "end": "2026-01-01"})
    plan, maker = plan_input(config, "train"), BlockMaker(config, evaluation=False)
    assert 15 < measured_row_bytes(plan, maker) < 30  # an ID, a feature, a label and the unit
    pq.write_table(rows(99, 0).set_column(3, "click", pa.array([7] * 99, pa.int8())), path)
    assert measured_row_bytes(plan, maker) > 0
    (tmp_path / "ds=2026-01-01" / "part-0.parquet").unlink()
    assert measured_row_bytes(plan, maker) > 0


def test_string_columns_are_read_as_dictionaries_and_row_numbers_count_in_the_file(tmp_path):
    path = write_file(tmp_path, rows(100, 0), group_rows=30)
    tables = list(read_fragment(str(tmp_path), Fragment(path, (1, 2), 30, 60), ["row", "item"], 25))
    assert tables[0][1] == 30
    assert sum(len(t) for t, _ in tables) == 60
    assert all(first == t.column("row")[0].as_py() for t, first in tables)
    assert pa.types.is_dictionary(tables[0][0].column("item").type)


@pytest.mark.parametrize(("start", "stop"), [(0, 70), (0, 1), (25, 50), (30, 60), (29, 31), (69, 70)])
def test_a_range_reads_the_row_groups_that_it_needs(tmp_path, monkeypatch, start, stop):
    path = write_file(tmp_path, rows(110, 0), group_rows=30)
    chosen = []
    whole = fragments._overlapping

    def noted(*arguments):
        chosen.append(whole(*arguments)[0])
        return whole(*arguments)

    monkeypatch.setattr(fragments, "_overlapping", noted)
    fragment = Fragment(path, (1, 2, 3), 30, 80)
    tables = list(read_fragment(str(tmp_path), fragment, ["row"], 20, slice(start, stop)))
    assert [v for t, _ in tables for v in t.column("row").to_pylist()] == list(range(30 + start, 30 + stop))
    assert all(first == t.column("row")[0].as_py() for t, first in tables)
    assert chosen == [[1 + n for n in range(3) if start < 30 * (n + 1) and stop > 30 * n]]


def test_a_file_that_has_grown_is_not_read(tmp_path):
    path = write_file(tmp_path, rows(100, 0))
    with pytest.raises(DataError, match="was replaced or removed after the run started"):
        list(read_fragment(str(tmp_path), Fragment(path, (0,), 0, 90), ["row"], 20))


def test_rows_behind_a_page_without_values_are_not_lost_silently(tmp_path):
    path = str(tmp_path / "file.parquet")
    encoding = {"tags.list.element": "DELTA_BINARY_PACKED"}
    pq.write_table(pa.table({"tags": [[1, 2]]}), path, use_dictionary=False, column_encoding=encoding, data_page_size=1)
    with pytest.raises(
        DataError, match=r"cannot be read from row 0 on \(its pages end before .*; write the file again"
    ):
        list(read_fragment(str(tmp_path), Fragment(path, (0,), 0, 1), ["tags"], 20))


def test_names_with_dots_and_nested_columns_beside_them(tmp_path):
    table = rows(5, 0).append_column("a.b", pa.array(range(5))).append_column("a", pa.array([{"b": 1}] * 5))
    path = write_file(tmp_path, table)
    ((raw, _),) = read_fragment(str(tmp_path), Fragment(path, (0,), 0, 5), ["a.b", "row"], 10)
    assert raw.column("a.b").to_pylist() == list(range(5))


class Flaky:
    """A remote file system whose files fail now and then while they are read."""

    def __init__(self, failures: int, error: str):
        self.failures, self.error, self.opened = failures, error, 0

    def open_input_file(self, path):
        self.opened += 1
        if self.opened <= self.failures:
            raise OSError(self.error)
        return pafs.LocalFileSystem().open_input_file(path)


@pytest.fixture
def flaky(monkeypatch):
    def install(failures: int, error: str = "503 slow down") -> Flaky:
        filesystem = Flaky(failures, error)
        monkeypatch.setattr(fragments, "open_filesystem", lambda root: (filesystem, root))
        monkeypatch.setattr(fragments.time, "sleep", lambda seconds: None)
        return filesystem

    return install


def test_a_remote_storage_that_fails_is_asked_again(tmp_path, flaky):
    path = write_file(tmp_path, rows(100, 0))
    flaky(failures=3)
    tables = [t for t, _ in read_fragment(str(tmp_path), Fragment(path, (0,), 0, 100), ["row"], 30)]
    assert [v for t in tables for v in t.column("row").to_pylist()] == list(range(100))


def test_a_remote_storage_that_keeps_failing_is_an_error(tmp_path, flaky):
    path = write_file(tmp_path, rows(100, 0))
    filesystem = flaky(failures=99)
    with pytest.raises(
        StorageError, match=r"cannot read `.*part-0\.parquet` from row 0 on: 503 slow down .tried 4 times"
    ):
        list(read_fragment(str(tmp_path), Fragment(path, (0,), 0, 100), ["row"], 30))
    assert filesystem.opened == 4


def test_what_parquet_says_of_the_file_is_no_matter_of_asking_again(tmp_path, flaky):
    path = write_file(tmp_path, rows(100, 0))
    filesystem = flaky(failures=99, error="Couldn't deserialize thrift: TProtocolException: Invalid data")
    with pytest.raises(DataError, match=r"part-0\.parquet: cannot be read from row 0 on .Couldn't deserialize"):
        list(read_fragment(str(tmp_path), Fragment(path, (0,), 0, 100), ["row"], 30))
    assert filesystem.opened == 1


def test_a_failure_in_the_middle_delivers_no_row_twice(tmp_path, flaky, monkeypatch):
    path = write_file(tmp_path, rows(100, 0))
    flaky(failures=0)
    whole, calls = fragments._tables, []

    def breaks_off(*arguments):
        calls.append(1)
        for n, table in enumerate(whole(*arguments)):
            if n == 2 and len(calls) == 1:
                raise OSError("connection reset")
            yield table

    monkeypatch.setattr(fragments, "_tables", breaks_off)
    tables = list(read_fragment(str(tmp_path), Fragment(path, (0,), 0, 100), ["row"], 30))
    assert [first for _, first in tables] == [0, 30, 60, 90]
    assert [v for t, _ in tables for v in t.column("row").to_pylist()] == list(range(100))
    assert len(calls) == 2
