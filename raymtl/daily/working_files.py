"""The folders in which the attempts of a day train, `<store>/days/<date>/run-<attempt>`, and their removal.

Listing the folder of every day that ever was would make each day slower than the one before. So a file says until which day
nothing is left: it is set after a removal, and set back before an earlier day trains again, whatever kills the job in between.
"""

import datetime as dt

from raymtl.daily.record import FOLDER, folder, recorded_days
from raymtl.storage.object_store import Store

_UNTIL = f"{FOLDER}/clean-until"
_ATTEMPT = "run-"


def attempts(store: Store, day: dt.date) -> list[str]:
    """Names of the folders of a day's attempts."""
    return [name for name in store.names(folder(day)) if name.startswith(_ATTEMPT)]


def begin_attempt(store: Store, day: dt.date) -> None:
    """Call this before an attempt writes anything."""
    if (until := _until(store)) is not None and day <= until:
        store.write(_UNTIL, str(day - dt.timedelta(days=1)))


def remove_attempts(store: Store, last: dt.date) -> None:
    """Remove those of all days until `last`, also of killed jobs and of days that were given up."""
    until = _until(store)
    if until is not None and last <= until:
        return
    for day in recorded_days(store):
        if day <= last and (until is None or day > until):
            for name in attempts(store, day):
                store.remove_folder(f"{folder(day)}/{name}")
    store.write(_UNTIL, str(last))


def _until(store: Store) -> dt.date | None:
    """The last day until which no attempt is left; None: not known."""
    data = store.read(_UNTIL)
    try:
        return None if data is None else dt.date.fromisoformat(data.decode())
    except ValueError:
        return None
