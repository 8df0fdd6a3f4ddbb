"""`raymtl daily --follow`: stay, and run each day as soon as its logs are ready."""

import datetime as dt
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import raymtl
from raymtl.config.data import yesterday
from raymtl.config.root import Config
from raymtl.daily.day import DailyRequest, section
from raymtl.daily.ready import not_ready
from raymtl.daily.reports.table import verdict
from raymtl.daily.runner import DailyJob, days_to_run, finished_record, open_job, raise_if_refused
from raymtl.data.lakehouse.tables import of_latest_snapshot
from raymtl.errors import ConfigError, DataError, LeaseLostError, TryLaterError
from raymtl.model_store import store as versions
from raymtl.storage.object_store import Store
from raymtl.telemetry.events import Listener
from raymtl.tracking.run_tracking import check_packages
from raymtl.training.cluster import leave

_POLL_S = 10.0
_RETRY_S = 300.0
"""A day that turns out to be incomplete is read again after this time."""
_IDLE_S = 900.0
"""Workers that wait for the next day for longer than this are let go, and Ray is left, which ends one that runs here alone: a
new start takes seconds, together they hold more than a GiB, and a cluster may be restarted meanwhile."""


def follow(
    load: Callable[[], Config],
    request: DailyRequest,
    until: dt.date | None,
    *,
    address: str | None,
    on_event: Listener,
) -> None:
    """Run the days to do, then each further day as soon as its logs are ready: the last one is `until`, or, without it, always
    yesterday (UTC). `load` reads the configuration, before each day again.

    `request.first` counts only where there is no version yet. A refused day is said, and the next one follows. Raises
    RefusedError if `until` is reached and was refused, TryLaterError if raymtl's own code or `daily.store` changes, so that a
    new process must take over, and UserErrors as `run_daily` for all that waiting does not repair.
    """
    watched = _Watched(load)
    check_packages(watched.config)
    store = Store.open(section(watched.config).store)
    with open_job(watched.config, store, request, address, on_event, "daily --follow") as job:
        job.finish_interrupted_days()
        said: set[str] = set()

        def say_once(text: str) -> None:
            if text not in said:
                said.add(text)
                on_event({"note": text})

        last_run = time.monotonic()
        looked: dt.date | None = None
        """The last day for which `day` was looked up. Nobody else changes the store under this lease."""
        while True:
            last = until or yesterday()
            if looked != last:
                is_first = not versions.list_versions(store)
                day, looked = _next_day(job, last, is_first, say_once), last
            if day is None and until is not None:
                on_event({"note": f"all days to {until} are done"})
                raise_if_refused(store, [record for record in [finished_record(store, until)] if record is not None])
                return
            waits = f"{last} is done; waiting for the next day" if day is None else _waits(job, day, is_first)
            pause = _POLL_S
            if waits is None and day is not None:
                said.clear()
                pause, last_run, looked = _run(job, day), time.monotonic(), None
            else:
                say_once(waits or "")
                job.ends.wait()
                if time.monotonic() - last_run > _IDLE_S:
                    job.session.close()
                    leave()
            if _pause(job, watched, pause):
                looked = None


def _next_day(job: DailyJob, last: dt.date, is_first: bool, say_once: Callable[[str], None]) -> dt.date | None:
    """The first day that is not done; None: there is none so far."""
    first = job.request.first if is_first else None
    if first is not None and first > last:
        return None
    schedule = days_to_run(job.store, section(job.config), replace(job.request, first=first, last=last))
    if schedule.days:  # else the only note is that all is done
        for note in schedule.notes:
            say_once(note)
    return next((day for day in schedule.days if finished_record(job.store, day) is None), None)


def _waits(job: DailyJob, day: dt.date, is_first: bool) -> str | None:
    """What the day waits for; None: nothing."""
    try:
        reasons = not_ready(of_latest_snapshot(job.config), day, first=is_first)
    except DataError:  # the day meets it too, and records it
        return None
    return f"waiting for {day}: {reasons[0]}" if reasons else None


def _run(job: DailyJob, day: dt.date) -> float:
    """Run a day that is ready; returns how long to wait before the next one."""
    try:
        record = job.day(day).run()
    except LeaseLostError:
        raise
    except TryLaterError as error:
        job.on_event({"note": f"{error}; raymtl tries it again in {_RETRY_S:.0f} s"})
        return _RETRY_S
    job.on_event({"note": verdict(record)})
    return 0.0


def _pause(job: DailyJob, watched: "_Watched", seconds: float) -> bool:
    """Wait, holding the lease, and take over a changed configuration; whether it has changed."""
    end, has_changed = time.monotonic() + seconds, False
    while True:
        job.lease.check_held()
        if watched.has_changed():
            if section(watched.config).store != section(job.config).store:
                raise TryLaterError(
                    "daily.store has changed; rerun the same command, which then takes the lease of the new store"
                )
            job.on_event({"note": "the configuration has changed; the next day uses the new one"})
            job.config, has_changed = watched.config, True
            job.session.close()
        if (left := end - time.monotonic()) <= 0:
            return has_changed
        time.sleep(min(_POLL_S, left))


class _Watched:
    """The configuration and raymtl's own code, which may change while the command runs."""

    def __init__(self, load: Callable[[], Config]):
        self._load = load
        self.config = load()
        self._code = _code()
        self._failed = False

    def has_changed(self) -> bool:
        """Whether the configuration has changed since the last call.

        Raises TryLaterError if the code has changed, and ConfigError if the configuration is wrong twice in a row: an editor may
        be writing it.
        """
        if _code() != self._code:
            raise TryLaterError(
                f"the code of raymtl in {Path(raymtl.__file__).parent} has changed since this command started; rerun the same "
                "command, which then uses the new code"
            )
        try:
            config = self._load()
        except ConfigError:
            if self._failed:
                raise
            self._failed = True
            return False
        self._failed = False
        changed, self.config = config != self.config, config
        return changed


def _code() -> dict[str, tuple[int, int]]:
    """Size and time of change of raymtl's modules."""
    found = {}
    for file in Path(raymtl.__file__).parent.rglob("*.py"):
        with suppress(OSError):  # an upgrade replaces it right now: it differs, then and later
            state = file.stat()
            found[str(file)] = state.st_size, state.st_mtime_ns
    return found
