"""What became of the days' versions since: a rollback changes the commit log and no record."""

from collections.abc import Iterable
from typing import NamedTuple

from raymtl.daily.record import Record
from raymtl.model_store import commit_log
from raymtl.storage.object_store import Store


class Served(NamedTuple):
    """Days, and what the store serves now."""

    records: list[Record]
    """A day whose version was rolled back has the status `rolled back`, and the rollback as its reason."""
    current: str | None
    """The current version."""


def served(store: Store, records: Iterable[Record]) -> Served:
    """The records as reports show them. Raises VersionError if the commit log is damaged."""
    entries = commit_log.entries(store)
    withdrawn = commit_log.rolled_back(entries)
    shown = [_with_rollback(record, withdrawn.get(record.version or "")) for record in records]
    return Served(shown, entries[-1].current if entries else None)


def was_published(record: Record) -> bool:
    """Whether its version was published, rolled back since or not."""
    return record.status in ("published", "rolled back")


def _with_rollback(record: Record, rollback: commit_log.Entry | None) -> Record:
    if rollback is None or record.status != "published":
        return record
    reason = f"version {record.version} was replaced by {rollback.current} on {rollback.time} by {rollback.by}"
    return record.model_copy(update={"status": "rolled back", "reason": reason})
