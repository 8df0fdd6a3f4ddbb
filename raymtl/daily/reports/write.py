"""Writing the pages: that of a day when it ends, and that of the last days."""

from raymtl.daily.record import Record, read_record, recorded_days
from raymtl.daily.reports.day import write_day_report
from raymtl.daily.reports.index import write_index
from raymtl.daily.storage import Store
from raymtl.errors import StorageError

DAYS = 30


def write_reports(store: Store, record: Record) -> None:
    """The page of a day and that of the last days; a storage that fails here costs the pages alone."""
    earlier = [r for r in last_records(store) if r.date < record.date]
    try:
        write_day_report(store, record, earlier)
        write_index(store, [*earlier, record])
    except StorageError as error:
        record.notes.append(f"the reports could not be written: {error}")


def last_records(store: Store) -> list[Record]:
    """The records of the last days, in order; empty where the folder is not that of a daily job."""
    days = recorded_days(store)[-DAYS:]
    return [record for day in days if (record := read_record(store, day)) is not None]
