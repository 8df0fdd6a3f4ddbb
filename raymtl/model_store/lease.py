"""The lease of a store, which allows one writer at a time, using only writes, listings, reads and deletions of objects.

Lamport's bakery algorithm, with claims as registers: a process writes a claim without a ticket, lists the others, takes the next
number after the highest, and writes it. The process with the lowest number holds the lease, whatever the clocks say; all others
withdraw. It needs storage with strongly consistent listings (local disks, S3 since 2020, GCS, Azure).

The holder rewrites its claim every `ttl_s` / 6. A claim is dead when its process is known to have ended (same machine), or when
its heartbeat is older than `ttl_s` and does not change while it is watched for `ttl_s` / 2, so that a wrong clock cannot end a
live lease. A dead claim gets a mark before it is deleted: its holder, should it resume, sees the mark and stops.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from raymtl import signals
from raymtl.errors import LeaseLostError, StorageError, TryLaterError
from raymtl.model_store.commit_log import who
from raymtl.storage.object_store import Store

FOLDER = "lease"
TTL_S = 60.0
_MARK_LIFE_S = 24 * 3600.0


@dataclass(frozen=True)
class Claim:
    """A process that holds the lease or waits for it."""

    name: str
    """Name of the claim, unique."""
    purpose: str
    """What the process does, such as `publish` or `daily 2026-01-05`."""
    by: str
    """User, host and process."""
    since: float
    """When it was made, seconds since 1970 by its own clock."""
    heartbeat: float
    """When it was last written, by its own clock."""
    place: str
    """Machine and process namespace of `pid`; empty if unknown."""
    pid: int
    """Process."""
    started: str
    """Start time of the process in the system's clock ticks, since a PID is reused later."""
    ticket: int = 0
    """Its number; 0 while it is choosing one."""


@dataclass(frozen=True)
class Clock:
    """The clock, which tests replace."""

    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    sleep: Callable[[float], None] = time.sleep
    """Wait for some seconds."""


class Lease:
    """The right to write to a store; made by `acquire`, and a context manager that releases it."""

    def __init__(self, store: Store, claim: Claim, ttl_s: float, clock: Clock):
        self._store, self._claim, self._ttl_s, self._clock = store, claim, ttl_s, clock
        self._last_heartbeat = time.monotonic()
        self._stop = threading.Event()
        self._lost: str | None = None
        self._clean_up = ExitStack()
        self._clean_up.enter_context(signals.clean_up_with(self._let_go))
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def check_held(self) -> None:
        """Check on the storage that the lease is still held; raise LeaseLostError if it is not.

        Called right before each step that others see.
        """
        if time.monotonic() - self._last_heartbeat > self._ttl_s:  # this process or the storage was stalled
            self._check_lost()
            if self._lost is None:
                self._write_heartbeat()
        self._check_lost()
        if self._lost is not None:
            raise LeaseLostError(
                f"store {self._store.path}: this process lost the lease it had since {clock_text(self._claim.since)} "
                f"({self._lost}); nothing more was changed; rerun the same command"
            )

    def was_deleted(self) -> bool:
        """Whether the claim was deleted without being taken over, most likely with the entire store."""
        name = self._claim.name
        return all(self._store.read(of(name)) is None for of in (_claim_name, _mark_name))

    def release(self) -> None:
        """Release the lease and delete its claim."""
        self._clean_up.close()
        self._let_go()

    def _let_go(self) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(StorageError):  # the claim expires by itself
            self._store.remove(_claim_name(self._claim.name))

    def _beat(self) -> None:
        while not self._stop.wait(self._ttl_s / 6):
            try:
                self._check_lost()
                if self._lost is not None:
                    return
                self._write_heartbeat()
            except (
                Exception
            ):  # whatever a storage package raises: without a heartbeat the lease, and hours of work, would be lost
                continue  # retry

    def _write_heartbeat(self) -> None:
        _write(self._store, replace(self._claim, heartbeat=self._clock.now()))
        self._last_heartbeat = time.monotonic()

    def _check_lost(self) -> None:
        if self._lost is not None:
            return
        name = self._claim.name
        if self._store.read(_mark_name(name)) is not None:
            self._lost = "its heartbeat was too old, and another process took it for dead"
        elif self._store.read(_claim_name(name)) is None:
            self._lost = "its claim was deleted"


def acquire(store: Store, purpose: str, *, ttl_s: float = TTL_S, wait_s: float = 0.0, clock: Clock = Clock()) -> Lease:
    """Take the lease of a store.

    If another process has it, retry for `wait_s` seconds, then raise TryLaterError with its purpose and start time.
    """
    tried = 0.0
    while True:
        found = _attempt(store, purpose, ttl_s, clock)
        if isinstance(found, Lease):
            return found
        if tried >= wait_s:
            age = max(0.0, clock.now() - found.heartbeat)
            raise TryLaterError(
                f"store {store.path} is in use by {found.by} for `{found.purpose}` since {clock_text(found.since)} "
                f"(last heartbeat {age:.0f} s ago); rerun when that command has ended, or add --wait SECONDS"
            )
        pause = min(ttl_s / 6, max(wait_s - tried, 0.01))
        clock.sleep(pause)
        tried += pause


def holders(store: Store) -> list[Claim]:
    """All claims, alive or not, the holder's first."""
    return sorted(_claims(store), key=_priority)


def clock_text(seconds: float) -> str:
    """A time of day for a message, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _attempt(store: Store, purpose: str, ttl_s: float, clock: Clock) -> Lease | Claim:
    """The lease, or the claim that precedes this one."""
    now = clock.now()
    claim = Claim(uuid.uuid4().hex, purpose, who(), now, now, *_identity())
    before = _living(store, ttl_s, clock)
    if before:  # a shortcut for the common case; it never grants the lease
        taken = min(before, key=_priority)
        if taken.ticket:
            return taken
    won = False
    try:
        _write(store, claim)
        claim, first = _queued(store, claim, ttl_s, clock)
        if first is not None:
            return first
        lease = Lease(store, claim, ttl_s, clock)
        won = True
    finally:
        if not won:
            with suppress(StorageError):  # it expires by itself
                store.remove(_claim_name(claim.name))
    try:
        lease.check_held()
    except BaseException:
        lease.release()  # its thread would keep it alive until the process ends
        raise
    with suppress(StorageError):  # the next one clears them
        _clear_marks(store, clock)
    return lease


def _queued(store: Store, claim: Claim, ttl_s: float, clock: Clock) -> tuple[Claim, Claim | None]:
    """The claim with its ticket, and the claim that precedes it."""
    others = _living(store, ttl_s, clock, but=claim.name)
    claim = replace(claim, ticket=1 + max((c.ticket for c in others), default=0), heartbeat=clock.now())
    _write(store, claim)
    while True:
        others = _living(store, ttl_s, clock, but=claim.name)
        if first := [c for c in others if c.ticket and _priority(c) < _priority(claim)]:
            return claim, min(first, key=_priority)
        if all(c.ticket for c in others):
            return claim, None
        clock.sleep(ttl_s / 600)  # another process is choosing, and may get a number as low


def _living(store: Store, ttl_s: float, clock: Clock, but: str = "") -> list[Claim]:
    """The live claims of others; dead ones are removed."""
    claims = [c for c in _claims(store) if c.name != but]
    dead = [c for c in claims if _gone(c)]
    silent = [c for c in claims if c not in dead and abs(clock.now() - c.heartbeat) > ttl_s]
    if silent:
        dead += _unmoved(store, silent, ttl_s, clock)
    for claim in dead:
        store.write(_mark_name(claim.name), json.dumps({"time": clock.now(), "by": who()}), lasting=False)
        store.remove(_claim_name(claim.name))
    return [c for c in claims if c not in dead]


def _unmoved(store: Store, claims: list[Claim], ttl_s: float, clock: Clock) -> list[Claim]:
    """The claims whose heartbeat does not change for half the time to live, which is three beats of a live one."""
    for _ in range(6):
        clock.sleep(ttl_s / 12)
        beats = {c.name: c.heartbeat for c in _claims(store)}
        claims = [c for c in claims if beats.get(c.name) == c.heartbeat]
        if not claims:
            break
    return claims


def _claims(store: Store) -> list[Claim]:
    """All claims that are not marked as dead."""
    there = store.names(FOLDER)
    marked = {name.removesuffix(".dead") for name in there if name.endswith(".dead")}
    found = []
    for name in there:
        key = name.removesuffix(".json")
        if name.endswith(".json") and key not in marked:
            with suppress(ValueError, TypeError):  # not a claim
                data = store.read(f"{FOLDER}/{name}")
                if data is not None:  # withdrawn since it was listed
                    found.append(Claim(**json.loads(data)))
    return found


def _clear_marks(store: Store, clock: Clock) -> None:
    """Remove old marks, and claims that their holders rewrote after they were marked."""
    for name in store.names(FOLDER):
        if not name.endswith(".dead"):
            continue
        data = store.read(f"{FOLDER}/{name}")
        if data is not None and abs(clock.now() - json.loads(data)["time"]) > _MARK_LIFE_S:
            store.remove(_claim_name(name.removesuffix(".dead")))
            store.remove(f"{FOLDER}/{name}")


def _priority(claim: Claim) -> tuple[bool, int, str]:
    return claim.ticket == 0, claim.ticket, claim.name


def _write(store: Store, claim: Claim) -> None:
    store.write(_claim_name(claim.name), json.dumps(asdict(claim)), lasting=False)


def _claim_name(name: str) -> str:
    return f"{FOLDER}/{name}.json"


def _mark_name(name: str) -> str:
    return f"{FOLDER}/{name}.dead"


def _identity() -> tuple[str, int, str]:
    """Machine and namespace of this process, its PID, and when it started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
        return place, os.getpid(), _start_of(os.getpid()) or ""
    except OSError:
        return "", os.getpid(), ""


def _gone(claim: Claim) -> bool:
    """Whether the process of a claim is known to have ended: it ran on this machine, and no longer exists."""
    place, _, _ = _identity()
    if not place or claim.place != place:
        return False
    try:
        os.kill(claim.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user, and maybe not visible in /proc
        return False
    return _start_of(claim.pid) not in (claim.started, "")


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the machine's start; None for a zombie, "" if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the process name before it may contain spaces
    return None if fields[0] in "ZX" else fields[19]
