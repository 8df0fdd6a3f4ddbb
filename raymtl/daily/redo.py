"""The progress of a `--force`: `<store>/days/redo.json`.

With it the same command resumes after a kill, and starts over after its end.
"""

import datetime as dt
import json

from raymtl.daily.record import FOLDER, read_record
from raymtl.storage.object_store import Store

_NAME = f"{FOLDER}/redo.json"


class RedoProgress:
    """The days of a range that `--force` redoes."""

    def __init__(self, store: Store, first: dt.date, last: dt.date):
        self._store, self._range = store, [str(first), str(last)]
        data = store.read(_NAME)
        found = json.loads(data) if data else {}
        same = found.get("range") == self._range
        self._started: dict[str, int] = found["started"] if same else {}
        """By day, the attempt that this command started."""
        self._done: list[str] = found["done"] if same else []

    def has_done(self, day: dt.date) -> bool:
        """Whether the command finished the day before it was interrupted."""
        return str(day) in self._done

    def must_restart(self, day: dt.date) -> bool:
        """Whether a day must start over; otherwise it resumes what this command started."""
        record = read_record(self._store, day)
        return record is None or self._started.get(str(day)) != record.attempt

    def begin(self, day: dt.date, attempt: int) -> None:
        """Record that the redo of a day starts."""
        self._started[str(day)] = attempt
        self._write()

    def end(self, day: dt.date) -> None:
        """Record that a day is done."""
        self._done.append(str(day))
        self._write()

    def close(self) -> None:
        """All days are done: the next --force of this range starts over."""
        self._store.remove(_NAME)

    def _write(self) -> None:
        content = {"range": self._range, "started": self._started, "done": self._done}
        self._store.write(_NAME, json.dumps(content))
