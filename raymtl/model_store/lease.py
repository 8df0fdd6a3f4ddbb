"""One writer at a time on a store, by nothing but objects that are written, listed, read and deleted.

Lamport's bakery, with claims for his registers: a process writes a claim without a ticket, lists the others, takes the number
after the highest, and writes it. Whoever then finds nobody with a lower number holds the lease, whatever the clocks say; all
others withdraw. It needs storage whose listing shows what was written before (local disks, S3 since 2020, GCS, Azure).

The holder rewrites its claim every `ttl_s` / 6. A claim is dead when its process is known to be gone (same machine), or when its
heartbeat is older than `ttl_s` and stands still while it is watched for `ttl_s` / 2, so that a clock that goes wrong cannot end a
lease that is alive. A dead claim gets a mark before it is deleted: its holder, should it wake up, sees the mark and knows.
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
from raymtl.storage.object_store import Store, names, read_bytes, remove, write_bytes

FOLDER = "lease"
TTL_S = 60.0
_MARK_LIFE_S = 24 * 3600.0


@dataclass(frozen=True)
class Claim:
    """Who wants the lease or holds it."""

    name: str
    """Name of the claim, unique."""
    holder: str
    """What for, such as `publish` or `daily 2026-01-05`."""
    by: str
    """User, host and process."""
    since: float
    """When it was made, seconds since 1970 by its own clock."""
    heartbeat: float
    """When it was last written, by its own clock."""
    place: str
    """Machine and process namespace in which `pid` means something; empty where that is not known."""
    pid: int
    """Process."""
    started: str
    """When the process started, in the system's own count: a number is given to another process later."""
    ticket: int = 0
    """Its number; 0 while it is choosing one."""


@dataclass(frozen=True)
class Clock:
    """Time, which tests replace."""

    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    sleep: Callable[[float], None] = time.sleep
    """Wait so many seconds."""


class Lease:
    """The right to write to a store; made by `acquire`, and a context manager that lets go at its end."""

    def __init__(self, store: Store, claim: Claim, ttl_s: float, clock: Clock):
        self._store, self._claim, self._ttl_s, self._clock = store, claim, ttl_s, clock
        self._beaten = time.monotonic()
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

    def held(self) -> None:
        """Return where the lease is held, seen on the storage now; raise TryLaterError where it is not.

        Called right before each step that others see.
        """
        if time.monotonic() - self._beaten > self._ttl_s:  # this process stood still, or the storage did
            self._look()
            if self._lost is None:
                self._beat_once()
        self._look()
        if self._lost is not None:
            raise LeaseLostError(
                f"store {self._store.path}: this process lost the lease it had since {clock_text(self._claim.since)} "
                f"({self._lost}); nothing was published: run the same command again"
            )

    def was_deleted(self) -> bool:
        """Whether the claim is gone though nobody took it over: somebody removed it, most likely with the whole store."""
        name = self._claim.name
        return all(read_bytes(self._store, of(name)) is None for of in (_claim_name, _mark_name))

    def release(self) -> None:
        """Let go; what it leaves behind is nothing."""
        self._clean_up.close()
        self._let_go()

    def _let_go(self) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(StorageError):  # the claim dies by itself
            remove(self._store, _claim_name(self._claim.name))

    def _beat(self) -> None:
        while not self._stop.wait(self._ttl_s / 6):
            try:
                self._look()
                if self._lost is not None:
                    return
                self._beat_once()
            except (
                Exception
            ):  # whatever a storage's package raises: a heart that stops loses the lease of hours of work
                continue  # tried again

    def _beat_once(self) -> None:
        _write(self._store, replace(self._claim, heartbeat=self._clock.now()))
        self._beaten = time.monotonic()

    def _look(self) -> None:
        if self._lost is not None:
            return
        name = self._claim.name
        if read_bytes(self._store, _mark_name(name)) is not None:
            self._lost = "it did not answer for too long, and another process took it for dead"
        elif read_bytes(self._store, _claim_name(name)) is None:
            self._lost = "its claim was deleted"


def acquire(store: Store, holder: str, *, ttl_s: float = TTL_S, wait_s: float = 0.0, clock: Clock = Clock()) -> Lease:
    """Take the lease of a store.

    Where another has it, keep trying for `wait_s` seconds, then raise TryLaterError that says who, and since when.
    """
    tried = 0.0
    while True:
        found = _attempt(store, holder, ttl_s, clock)
        if isinstance(found, Lease):
            return found
        if tried >= wait_s:
            age = max(0.0, clock.now() - found.heartbeat)
            raise TryLaterError(
                f"store {store.path} is in use: {found.by} holds it for `{found.holder}` since {clock_text(found.since)} "
                f"(last heard of {age:.0f} s ago); try again when it is done, or {ttl_s:.0f} s after it died"
            )
        pause = min(ttl_s / 6, max(wait_s - tried, 0.01))
        clock.sleep(pause)
        tried += pause


def holders(store: Store) -> list[Claim]:
    """All claims, alive or not, the holder's first."""
    return sorted(_claims(store), key=_turn)


def clock_text(seconds: float) -> str:
    """A time of day for a message, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _attempt(store: Store, holder: str, ttl_s: float, clock: Clock) -> Lease | Claim:
    """The lease, or the claim that is before this one."""
    now = clock.now()
    claim = Claim(uuid.uuid4().hex, holder, who(), now, now, *_identity())
    before = _living(store, ttl_s, clock)
    if before:  # spares the doorway most of its visitors; it decides nothing in favour of anybody
        taken = min(before, key=_turn)
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
            with suppress(StorageError):  # it dies by itself
                remove(store, _claim_name(claim.name))
    try:
        lease.held()
    except BaseException:
        lease.release()  # its thread would keep it for as long as the process lives
        raise
    with suppress(StorageError):  # the next one clears them
        _clear_marks(store, clock)
    return lease


def _queued(store: Store, claim: Claim, ttl_s: float, clock: Clock) -> tuple[Claim, Claim | None]:
    """The claim with its ticket, and who is before it."""
    others = _living(store, ttl_s, clock, but=claim.name)
    claim = replace(claim, ticket=1 + max((c.ticket for c in others), default=0), heartbeat=clock.now())
    _write(store, claim)
    while True:
        others = _living(store, ttl_s, clock, but=claim.name)
        if first := [c for c in others if c.ticket and _turn(c) < _turn(claim)]:
            return claim, min(first, key=_turn)
        if all(c.ticket for c in others):
            return claim, None
        clock.sleep(ttl_s / 600)  # somebody is choosing, and may come out with a number as low


def _living(store: Store, ttl_s: float, clock: Clock, but: str = "") -> list[Claim]:
    """The claims of others that are alive; the dead ones are cleared away."""
    claims = [c for c in _claims(store) if c.name != but]
    dead = [c for c in claims if _gone(c)]
    silent = [c for c in claims if c not in dead and abs(clock.now() - c.heartbeat) > ttl_s]
    if silent:
        dead += _unmoved(store, silent, ttl_s, clock)
    for claim in dead:
        write_bytes(
            store, _mark_name(claim.name), json.dumps({"time": clock.now(), "by": who()}).encode(), lasting=False
        )
        remove(store, _claim_name(claim.name))
    return [c for c in claims if c not in dead]


def _unmoved(store: Store, claims: list[Claim], ttl_s: float, clock: Clock) -> list[Claim]:
    """Those whose heartbeat stands still for half of the time to live: three beats of one that is alive."""
    for _ in range(6):
        clock.sleep(ttl_s / 12)
        beats = {c.name: c.heartbeat for c in _claims(store)}
        claims = [c for c in claims if beats.get(c.name) == c.heartbeat]
        if not claims:
            break
    return claims


def _claims(store: Store) -> list[Claim]:
    """All claims that no mark says are dead."""
    there = names(store, FOLDER)
    marked = {name.removesuffix(".dead") for name in there if name.endswith(".dead")}
    found = []
    for name in there:
        key = name.removesuffix(".json")
        if name.endswith(".json") and key not in marked:
            with suppress(ValueError, TypeError):  # not a claim
                data = read_bytes(store, f"{FOLDER}/{name}")
                if data is not None:  # withdrawn since it was listed
                    found.append(Claim(**json.loads(data)))
    return found


def _clear_marks(store: Store, clock: Clock) -> None:
    """Take away marks of long ago, and a claim that its holder wrote once more after it was marked."""
    for name in names(store, FOLDER):
        if not name.endswith(".dead"):
            continue
        data = read_bytes(store, f"{FOLDER}/{name}")
        if data is not None and abs(clock.now() - json.loads(data)["time"]) > _MARK_LIFE_S:
            remove(store, _claim_name(name.removesuffix(".dead")))
            remove(store, f"{FOLDER}/{name}")


def _turn(claim: Claim) -> tuple[bool, int, str]:
    return claim.ticket == 0, claim.ticket, claim.name


def _write(store: Store, claim: Claim) -> None:
    write_bytes(store, _claim_name(claim.name), json.dumps(asdict(claim)).encode(), lasting=False)


def _claim_name(name: str) -> str:
    return f"{FOLDER}/{name}.json"


def _mark_name(name: str) -> str:
    return f"{FOLDER}/{name}.dead"


def _identity() -> tuple[str, int, str]:
    """Where this process is, its number there, and when it started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
        return place, os.getpid(), _start_of(os.getpid()) or ""
    except OSError:
        return "", os.getpid(), ""


def _gone(claim: Claim) -> bool:
    """Whether the process of a claim is known to have ended: it was on this very machine, and is not there any more."""
    place, _, _ = _identity()
    if not place or claim.place != place:
        return False
    try:
        os.kill(claim.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user, and perhaps not to be seen in /proc
        return False
    return _start_of(claim.pid) not in (claim.started, "")


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the machine's start; None where it only waits to be collected, "" if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # the name before may have spaces
    return None if fields[0] in "ZX" else fields[19]
