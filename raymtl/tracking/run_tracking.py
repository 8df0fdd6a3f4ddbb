"""Tracks a run from the driver, with a thread per tracker: neither the workers nor the driver ever wait for one.

A tracker that fails is named in one sentence. What it should have got stays in memory, and is sent again when it answers.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from raymtl.config.root import Config
from raymtl.config.track import Track
from raymtl.errors import ConfigError
from raymtl.storage.folder import Folder
from raymtl.telemetry.events import Event, Listener
from raymtl.telemetry.scalars import scalars
from raymtl.tracking.mlflow_run import MlflowRun
from raymtl.tracking.tracker import Outcome, Sample, Tracker
from raymtl.tracking.wandb_run import WandbRun

IDS = "trackers.json"
"""File of the run's folder: the IDs of the run, by the name of the tracker. A resumed run continues them."""
_EVERY_S = 2.0
"""Pause between two requests, so that the log lines of a fast run go together."""
_SOON_S, _RETRY_S = 1.0, 30.0
"""Pause after a first failure, which is not worth a sentence, and after the next ones."""
_END_S = {"finished": 30.0, "failed": 5.0, "stopped": 0.5}
"""Maximum wait for the last requests. A stopped command has seconds for everything."""
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers see it."""

    name: str
    config: Mapping[str, Any]
    facts: Mapping[str, str]
    """Its lineage, by name."""


def check_packages(config: Config) -> None:
    """Raise ConfigError if the package of a tracker is missing."""
    for name in missing_packages(config.train.track):
        raise ConfigError(f"train.track has `{name}`, {install(name)}, or take `{name}` out of train.track")


def missing_packages(track: Track) -> list[str]:
    """Trackers whose package is not installed."""
    # A folder named `wandb` in the current one, as wandb itself makes, is not the package
    return [name for name in track.names if (spec := find_spec(name)) is None or spec.origin is None]


def install(name: str) -> str:
    """The end of a sentence about a tracker whose package is missing."""
    return f"but the package `{name}` is missing; install it with `pip install 'raymtl[{name}]'`"


def trackers_of(track: Track, folder: str | None) -> dict[str, Tracker]:
    """A tracker for one run, by name; `folder` is a local one that stays, for files of a tracker."""
    found: dict[str, Tracker] = {}
    if track.mlflow is not None:
        found["mlflow"] = MlflowRun(track.mlflow)
    if track.wandb is not None:
        found["wandb"] = WandbRun(track.wandb, folder)
    return found


class RunTracking:
    """A run in all its trackers."""

    def __init__(self, trackers: Mapping[str, Tracker], run: TrackedRun, folder: Folder, notify: Callable[[str], None]):
        self._ids = _Ids(folder)
        self._senders = [
            _Sender(tracker, run, self._ids.known(name), _remember(self._ids, name), notify)
            for name, tracker in trackers.items()
        ]

    @property
    def is_on(self) -> bool:
        """Whether there is any tracker."""
        return bool(self._senders)

    def listener(self, on_event: Listener) -> Listener:
        """A listener that also takes the scalars out of the events."""

        def listen(event: Event) -> None:
            if self._senders and (values := scalars(event)):
                self.log(event["step"], values, event["time"])
            on_event(event)

        return listen

    def log(self, step: int, values: Mapping[str, float], now: float | None = None) -> None:
        """Scalars of a step."""
        sample = Sample(step, time.time() if now is None else now, values)
        for sender in self._senders:
            sender.add(sample)

    def add_facts(self, facts: Mapping[str, str]) -> None:
        """What became of the run."""
        for sender in self._senders:
            sender.add(lambda tracker: tracker.add_facts(facts))

    def add_file(self, name: str, text: str | None) -> None:
        """A file of the run; None: there is none."""
        for sender in self._senders if text is not None else ():
            sender.add(lambda tracker: tracker.add_file(name, text or ""))

    def close(self, outcome: Outcome) -> None:
        """End the run, and wait for the trackers, but not for long; nothing may be added any more."""
        end = time.monotonic() + _END_S[outcome]
        for sender in self._senders:
            sender.close(outcome)
        for sender in self._senders:
            sender.join(max(0.0, end - time.monotonic()), quiet=outcome == "stopped")


@contextmanager
def track_run(track: Track, run: TrackedRun, folder: Folder, notify: Callable[[str], None]) -> Iterator[RunTracking]:
    """Track a run inside; an exception ends it as failed, or as stopped."""
    tracking = RunTracking(trackers_of(track, folder.root if folder.is_local else None), run, folder, notify)
    try:
        yield tracking
    except BaseException as error:
        tracking.close("failed" if isinstance(error, Exception) else "stopped")
        raise
    tracking.close("finished")


class _Ids:
    """The IDs that the trackers gave the run, in its folder."""

    def __init__(self, folder: Folder):
        self._folder, self._lock = folder, threading.Lock()

    def known(self, name: str) -> str | None:
        return self._read().get(name)

    def put(self, name: str, run: str) -> None:
        with self._lock:
            self._folder.write(IDS, json.dumps({**self._read(), name: run}))

    def _read(self) -> dict[str, str]:
        return read_ids(self._folder)


def read_ids(folder: Folder) -> dict[str, str]:
    """The IDs of a run in its trackers; empty if it has none."""
    try:
        found = json.loads(folder.read_text(IDS) or "{}")
    except ValueError:  # truncated: the tracker gets another run
        return {}
    return found if isinstance(found, dict) else {}


def _remember(ids: _Ids, name: str) -> Callable[[str], None]:
    return lambda run: ids.put(name, run)


_Work = Callable[[Tracker], None] | Sample


class _Sender:
    """The thread that calls one tracker; it ends after `close`, or with the process."""

    def __init__(
        self,
        tracker: Tracker,
        run: TrackedRun,
        known: str | None,
        remember: Callable[[str], None],
        notify: Callable[[str], None],
    ):
        self._tracker, self._notify = tracker, notify
        self._work: deque[_Work] = deque()
        self._closing = threading.Event()
        self._failures = 0
        self._has_told = self._started = False

        is_new = False

        def start(tracker: Tracker) -> None:
            nonlocal known, is_new
            given = tracker.start(run.name, known)
            is_new |= given != known
            known = given
            remember(given)
            self._started = True
            if is_new:  # a resumed run has its configuration, which MLflow does not let anybody change
                self._work.insert(1, lambda tracker: tracker.log_config(run.config))

        self.add(start)
        self.add(lambda tracker: tracker.add_facts(run.facts))
        self._thread = threading.Thread(target=self._send_all, name=tracker.title, daemon=True)
        self._thread.start()

    def add(self, work: _Work) -> None:
        self._work.append(work)

    def close(self, outcome: Outcome) -> None:
        self.add(lambda tracker: tracker.finish(outcome))
        self._closing.set()

    def join(self, within_s: float, quiet: bool) -> None:
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._has_told |= quiet
            self._tell("it takes too long to answer")

    def _send_all(self) -> None:
        while True:
            is_last = self._closing.is_set()  # before the work is looked at: nothing comes after it
            try:
                while self._work:
                    self._send_next()
                    self._failures = 0
            except Exception as error:  # whatever a client raises, the run goes on
                if self._started and self._tracker.refuses(error):
                    self._tell(reason_of(error))
                    self._work.popleft()
                    continue
                self._failures += 1
                if self._failures > 1:
                    self._tell(reason_of(error))
                    if is_last:
                        return
                self._closing.wait(_SOON_S if self._failures == 1 else _RETRY_S)
                continue
            if is_last:
                return
            self._closing.wait(_EVERY_S)

    def _send_next(self) -> None:
        """Send the oldest piece of work, and only then forget it; samples go together."""
        first = self._work[0]
        if not isinstance(first, Sample):
            first(self._tracker)
            self._work.popleft()
            return
        samples = []
        for work in list(self._work):
            if not isinstance(work, Sample):
                break
            samples.append(work)
        self._tracker.log(samples)
        for _ in samples:
            self._work.popleft()

    def _tell(self, reason: str) -> None:
        if not self._has_told:
            self._has_told = True
            self._notify(
                f"{self._tracker.title} does not take this run ({reason}); metrics.jsonl has every "
                "value, and raymtl keeps trying while the run lasts: check the tracker, or change train.track"
            )


def reason_of(error: BaseException) -> str:
    """What is wrong, in a few words: the operating system's if it caused the error, else the first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (text[:_MOST_CHARACTERS] + "…" if len(text) > _MOST_CHARACTERS else text) or type(error).__name__


def lineage(days: Mapping[str, Sequence[Any]], snapshots: Mapping[str, int]) -> dict[str, str]:
    """The days that each part of the data has, and the snapshots of the tables that they are of."""
    found = {f"days.{part}": "..".join(dict.fromkeys(map(str, range_))) for part, range_ in days.items()}
    return found | {f"snapshot.{part}": str(snapshot) for part, snapshot in snapshots.items()}
