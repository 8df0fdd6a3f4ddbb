"""One writer at a time: races, dead holders, holders that were taken for dead."""

import multiprocessing as mp
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from raymtl.errors import TryLaterError
from raymtl.model_store import lease
from raymtl.model_store.lease import Clock, acquire, holders
from raymtl.storage.object_store import Store

ROUNDS = 30


def claims(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "lease").glob("*.json"))


def race(root: str, start: Any, number: int, answers: Any) -> None:
    """Try once in every round; the winner holds it until all have tried."""
    for turn in range(ROUNDS):
        start.wait()
        try:
            held = acquire(Store.open(f"{root}/{turn}"), f"racer {number}", ttl_s=60)
        except TryLaterError as error:
            answers.put((turn, number, str(error)))
            start.wait()
            continue
        answers.put((turn, number, None))
        start.wait()
        held.check_held()
        held.release()


def test_of_three_that_race_exactly_one_wins(tmp_path: Path) -> None:
    processes = mp.get_context("forkserver")
    start, answers = processes.Barrier(3, timeout=120), processes.Queue()
    racers = [processes.Process(target=race, args=(str(tmp_path), start, n, answers)) for n in range(3)]
    for racer in racers:
        racer.start()
    seen = [answers.get(timeout=120) for _ in range(3 * ROUNDS)]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    for turn in range(ROUNDS):
        said = [message for t, _, message in seen if t == turn]
        assert said.count(None) == 1, said
        assert all("is in use by " in m and "racer" in m and " since 20" in m for m in said if m)
        assert claims(tmp_path / str(turn)) == []


def hold(root: str, ready: Any) -> None:
    acquire(Store.open(root), "a long job")
    ready.set()
    time.sleep(600)


@pytest.fixture
def killed(tmp_path: Path) -> Store:
    """A store whose holder was killed; its claim is still there."""
    processes = mp.get_context("forkserver")
    ready = processes.Event()
    holder = processes.Process(target=hold, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(TryLaterError, match=rf"process {holder.pid} for `a long job`") as caught:
        acquire(Store.open(str(tmp_path)), "another")
    assert caught.value.exit_code == 75
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    assert len(claims(tmp_path)) == 1
    return Store.open(str(tmp_path))


def test_a_killed_holder_of_this_machine_does_not_block(killed: Store) -> None:
    with acquire(killed, "next") as held:
        held.check_held()
        assert [c.purpose for c in holders(killed)] == ["next"]
    assert holders(killed) == []


class FakeClock:
    """Time that passes only by waiting; `while_waiting` runs at each wait."""

    def __init__(self, now: float):
        self.time, self.while_waiting = now, lambda: None

    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.while_waiting()


def elsewhere(store: Store) -> lease.Claim:
    """Rewrite the only claim as that of another machine."""
    claim = replace(holders(store)[0], place="another machine")
    lease._write(store, claim)
    return claim


def test_a_killed_holder_of_another_machine_blocks_for_its_time_to_live(killed: Store) -> None:
    claim = elsewhere(killed)
    fake = FakeClock(claim.heartbeat + 59)
    with pytest.raises(TryLaterError, match="last heartbeat 59 s ago"):
        acquire(killed, "too early", ttl_s=60, clock=fake.clock())
    fake.time = claim.heartbeat + 61
    with acquire(killed, "next", ttl_s=60, clock=fake.clock()):
        assert fake.time == pytest.approx(claim.heartbeat + 61 + 30)  # it was watched before it was taken for dead
        assert [c.purpose for c in holders(killed)] == ["next"]


def test_waiting_for_a_dead_holder(killed: Store) -> None:
    claim = elsewhere(killed)
    fake = FakeClock(claim.heartbeat)
    with acquire(killed, "patient", ttl_s=60, wait_s=120, clock=fake.clock()):
        assert fake.time < claim.heartbeat + 120


def test_a_clock_that_goes_wrong_ends_no_lease_that_is_alive(killed: Store) -> None:
    claim = elsewhere(killed)
    fake = FakeClock(claim.heartbeat + 7200)
    beats = iter(range(1, 1000))

    def beat() -> None:
        lease._write(killed, replace(claim, heartbeat=claim.heartbeat + next(beats)))

    fake.while_waiting = beat
    with pytest.raises(TryLaterError, match="a long job"):
        acquire(killed, "next", ttl_s=60, clock=fake.clock())


def test_a_holder_taken_for_dead_knows_it(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    old = acquire(store, "sleeper", ttl_s=600)
    claim = elsewhere(store)
    fake = FakeClock(claim.heartbeat + 601)
    new = acquire(store, "next", ttl_s=600, clock=fake.clock())
    lease._write(store, claim)  # the sleeper's heartbeat was under way
    with pytest.raises(TryLaterError, match=r"lost the lease.*nothing more was changed"):
        old.check_held()
    new.check_held()
    with pytest.raises(TryLaterError, match="next"):
        acquire(store, "third", clock=fake.clock())
    new.release()
    old.release()
    fake.time += 25 * 3600
    acquire(store, "next day", clock=fake.clock()).release()
    assert list((tmp_path / "lease").iterdir()) == []  # the mark of the dead is gone as well


def test_the_heartbeat_moves(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with acquire(store, "job", ttl_s=0.6) as held:
        first = holders(store)[0].heartbeat
        limit = time.monotonic() + 30
        while holders(store)[0].heartbeat == first:
            assert time.monotonic() < limit
            time.sleep(0.02)
        held.check_held()


def test_a_deleted_claim_is_a_lost_lease(tmp_path: Path) -> None:
    with acquire(Store.open(str(tmp_path)), "job", ttl_s=600) as held:
        next((tmp_path / "lease").glob("*.json")).unlink()
        with pytest.raises(TryLaterError, match=r"lost the lease.*its claim was deleted"):
            held.check_held()


def test_a_stalled_holder_continues_if_it_was_not_taken_for_dead(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with acquire(store, "job", ttl_s=600) as held:
        first = holders(store)[0].heartbeat
        held._last_heartbeat -= 601
        held.check_held()
        assert holders(store)[0].heartbeat > first  # and says so at once


def test_a_process_that_is_still_choosing_is_waited_for(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    acquire(store, "x").release()
    claim = replace(
        lease.Claim("0" * 32, "slow", "somebody", 1e9, 1e9, "another machine", 1, ""), heartbeat=2e9, since=2e9
    )
    lease._write(store, claim)
    fake = FakeClock(2e9)
    fake.while_waiting = lambda: lease._write(store, replace(claim, ticket=1))
    with pytest.raises(TryLaterError, match="slow"):
        acquire(store, "quick", clock=fake.clock())
    assert len(claims(tmp_path)) == 1


def test_on_storage_without_rename() -> None:
    memory = fsspec.filesystem("memory")
    store = Store("memory://lease-test", pafs.PyFileSystem(pafs.FSSpecHandler(memory)), "/lease-test")
    with acquire(store, "first") as held:
        with pytest.raises(TryLaterError, match="first"):
            acquire(store, "second")
        held.check_held()
    assert holders(store) == []
    store.write("lease/odd.json", b"not a claim")
    acquire(store, "third").release()
