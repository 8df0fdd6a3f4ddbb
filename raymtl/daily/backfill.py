"""How far a `--force` has come: `<store>/days/redo.json`.

So the same command resumes after a kill, and restarts after its end.
"""

import datetime as dt
import json

from raymtl.daily.record import FOLDER, read_record
from raymtl.storage.object_store import Store

_NAME = f"{FOLDER}/redo.json"


class Backfill:
    """The days of a range that are done again."""

    def __init__(self, store: Store, first: dt.date, last: dt.date):
        self._store, self._range = store, [str(first), str(last)]
        data = store.read(_NAME)
        found = json.loads(data) if data else {}
        same = found.get("range") == self._range
        self._begun: dict[str, int] = found["begun"] if same else {}
        """By day, the attempt that was begun by this command."""
        self._done: list[str] = found["done"] if same else []

    def has_done(self, day: dt.date) -> bool:
        """Whether the command has done the day before it was cut off."""
        return str(day) in self._done

    def must_begin(self, day: dt.date) -> bool:
        """Whether a day must begin from the start, or resumes what the command had started."""
        record = read_record(self._store, day)
        return record is None or self._begun.get(str(day)) != record.attempt

    def begin(self, day: dt.date, attempt: int) -> None:
        """Note that a day is being done."""
        self._begun[str(day)] = attempt
        self._write()

    def end(self, day: dt.date) -> None:
        """Note that a day is done."""
        self._done.append(str(day))
        self._write()

    def close(self) -> None:
        """All days are done: the next such command does them once more."""
        self._store.remove(_NAME)

    def _write(self) -> None:
        content = {"range": self._range, "begun": self._begun, "done": self._done}
        self._store.write(_NAME, json.dumps(content))
