"""Which worker gets which rows: every row once, full steps, the same steps for any number of workers."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from raymtl.data.dealing import Deal, groups, owners
from raymtl.data.slices import cut, unpacked


def random_deal(seed: int, workers: int, block_rows: int) -> tuple[Deal, list[int]]:
    random = np.random.default_rng(seed)
    units = [int(random.choice([1, 7, 100, 3000, 20000])) for _ in range(random.integers(1, 30))]
    meetings = random.integers(0, len(units) + 2, 4).tolist()
    return Deal(units, meetings, batch_size=51, workers=workers, block_rows=block_rows), units


def dealt(deal: Deal, units: list[int]) -> dict[int, dict[int, list[tuple[int, int]]]]:
    """By span and rank, the rows (unit, row) that the reading tasks of all groups would send."""
    found: dict[int, dict[int, list[tuple[int, int]]]] = {
        span: {rank: [] for rank in range(deal.workers)} for span in range(len(deal.spans))
    }
    span_of = [n for n, (begin, end) in enumerate(deal.spans) for _ in range(begin, end)]
    for group, ranks in enumerate(deal.groups):
        for part in deal.ranges(group):
            rows = part.stop - part.start
            for row, owner in enumerate(owners(part.rows_before, rows, deal.local_rows(ranks), len(ranks)), part.start):
                found[span_of[part.place]][ranks[owner]].append((part.place, row))
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("block_rows", [32, 2 * 4096, 65536])
def test_every_row_once_and_every_step_full(workers: int, block_rows: int) -> None:
    for seed in range(8):
        deal, units = random_deal(seed, workers, block_rows)
        found = dealt(deal, units)
        rows = Counter(row for span in found.values() for ranks in span.values() for row in ranks)
        assert rows == Counter((n, row) for n, size in enumerate(units) for row in range(size))
        steps = 0
        for span, by_rank in found.items():
            total = sum(units[slice(*deal.spans[span])])
            for rank, own in by_rank.items():
                full, rest = divmod(total, 51)
                of_step = len(range(rank, 51, workers))
                assert len(own) == full * of_step + len(range(rank, rest, workers))
                assert own == sorted(own)  # in the order of the schedule
            steps += -(-total // 51)
        assert deal.steps == steps


def test_a_step_holds_the_same_rows_for_any_number_of_workers() -> None:
    for seed in range(8):
        steps = []
        for workers in (1, 2, 3, 4):
            deal, units = random_deal(seed, workers, 65536)
            found = dealt(deal, units)
            steps.append(
                [
                    sorted(
                        row
                        for rank, own in by_rank.items()
                        for row in own[step * len(range(rank, 51, workers)) :][: len(range(rank, 51, workers))]
                    )
                    for by_rank in found.values()
                    for step in range(-(-sum(map(len, by_rank.values())) // 51))
                ]
            )
        assert all(other == steps[0] for other in steps[1:])


def test_workers_form_few_and_even_groups() -> None:
    assert [len(g) for g in groups(16, 65536)] == [16]
    assert [len(g) for g in groups(17, 65536)] == [8, 9]
    assert [len(g) for g in groups(5, 2 * 4096)] == [1, 2, 2]
    assert [len(g) for g in groups(3, 10)] == [1, 1, 1]
    assert [rank for g in groups(512, 65536) for rank in g] == list(range(512))


def test_with_groups_a_stretch_is_long_enough_for_all_of_them() -> None:
    deal = Deal([1000] * 20, [11], batch_size=51, workers=3, block_rows=100)
    assert deal.spans == [(0, 11), (11, 20)]
    assert deal.stretches == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
        (8, 10),
        (10, 11),
        (11, 13),
        (13, 15),
        (15, 17),
        (17, 19),
        (19, 20),
    ]
    assert Deal([1000] * 3, [], batch_size=51, workers=3, block_rows=65536).stretches == [(0, 1), (1, 2), (2, 3)]
    assert Deal([], [0], batch_size=51, workers=3, block_rows=100).steps == 0


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_block_is_cut_into_slices_that_are_read_without_loss(members: int, shuffled: bool) -> None:
    for rows in (0, 1, 2, 50):
        lists = pa.array([list(range(n % 4)) for n in range(rows)], pa.list_(pa.int64()))
        some = pa.array([None if n % 3 else n for n in range(rows)], pa.int64())
        block = pa.table({"n": pa.array(range(rows), pa.int64()), "lists": lists, "some": some})
        order = np.random.default_rng(0).permutation(rows) if shuffled else None
        owner = owners(5, rows, 7, members)
        slices = list(cut(block, order, owner, members))
        assert [len(s) for s in slices] == [1] * members
        for member, packed in enumerate(slices):
            (own,) = unpacked([packed], member)
            numbers = (np.arange(rows) if order is None else order)[owner == member]
            assert own.equals(block.take(pa.array(numbers)))


def test_a_slice_of_another_worker_is_kept_and_said(caplog: pytest.LogCaptureFixture) -> None:
    block = pa.table({"n": [1, 2, 3]})
    slices = list(cut(block, None, owners(0, 3, 3, 2), 2))
    with caplog.at_level("WARNING", "raymtl"):
        read = pa.concat_tables(unpacked([slices[1], pa.table({}), slices[1]], 0))
    assert read.column("n").to_pylist() == [2, 2]
    assert caplog.text.count("got the rows of worker 1") == 1
