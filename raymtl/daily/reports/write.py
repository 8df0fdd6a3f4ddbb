"""Write the reports: that of a day when it ends, and that of the last days."""

from collections.abc import Container
from contextlib import suppress

from raymtl.daily.record import Record, read_record, recorded_days
from raymtl.daily.reports.day import write_day_report
from raymtl.daily.reports.index import DAYS, write_index
from raymtl.errors import StorageError, VersionError
from raymtl.storage.object_store import Store


def write_reports(store: Store, record: Record) -> None:
    """Write the report of a day and that of the last days; a storage error here loses only the reports."""
    records = [r for r in last_records(store) if r.date != record.date] + [record]
    try:
        write_day_report(store, record, [r for r in records if r.date < record.date])
        write_index(store, sorted(records, key=lambda r: r.date))
    except (StorageError, VersionError) as error:
        record.notes.append(f"the reports could not be written: {error}")


def rewrite_reports(store: Store, versions: Container[str]) -> None:
    """Write the report of the last days again, and those of the days that published one of `versions`; storage errors lose only
    the reports."""
    records = last_records(store)
    with suppress(StorageError):
        for n, record in enumerate(records):
            if record.version in versions:
                write_day_report(store, record, records[:n])
        if records:
            write_index(store, records)


def last_records(store: Store) -> list[Record]:
    """The records of the last days, in order; empty if the folder is not that of a daily job. Damaged ones are skipped: a
    command that needs the day reports them."""
    found = []
    for day in recorded_days(store)[-DAYS:]:
        with suppress(StorageError):
            record = read_record(store, day)
            found += [record] if record is not None else []
    return found
