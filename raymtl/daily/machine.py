"""The command: which days are to do, one after the other under one lease, and what to say where there is nothing to do."""

import datetime as dt
from typing import Any

from raymtl.config.daily import Daily
from raymtl.config.root import Config
from raymtl.daily import store as versions
from raymtl.daily.calendar import Todo, choose_base, days_between, days_to_do
from raymtl.daily.day import Day, Listener, Order, section
from raymtl.daily.lease import acquire
from raymtl.daily.ready import find_not_ready
from raymtl.daily.record import Record, read_record
from raymtl.daily.reports.write import last_records
from raymtl.daily.storage import Store, open_store
from raymtl.errors import RefusedError


def run_daily(config: Config, order: Order, *, address: str | None, listener: Listener) -> list[Record]:
    """Do what is to be done up to the last day; returns the records of the days asked for.

    Raises RefusedError where the last day's candidate was refused, TryLaterError where a day is not there yet, and other
    UserErrors for anything else that ended it.
    """
    daily = section(config)
    store = open_store(daily.store)
    if order.first is None and not order.force and (done := _finished(store, order.last)) is not None:
        listener({"note": f"{order.last} is done already: {done.reason or f'version {done.version}'}"})
        return _ended([done])
    with acquire(store, f"daily {order.last}", wait_s=order.wait_s) as lease:
        for day in _published_without_note(store):
            Day(config, store, day, order, lease, address, listener).run()
        todo = _todo(store, daily, order)
        for note in todo.notes:
            listener({"note": note})
        records = []
        for day in todo.days:
            done = None if order.force else _finished(store, day)
            if done is not None:
                listener({"note": f"{day} is done already: {done.reason or f'version {done.version}'}"})
            records.append(done or Day(config, store, day, order, lease, address, listener).run())
    return _ended(records)


def look_ahead(config: Config, order: Order) -> list[dict[str, Any]]:
    """What `run_daily` would do, day by day: base, whether the logs are there, and why a day is left out."""
    daily = section(config)
    store = open_store(daily.store)
    todo = _todo(store, daily, order)
    base = choose_base(versions.list_versions(store), todo.days[0]) if todo.days else None
    begins = "nothing" if base is None else base.id
    found: list[dict[str, Any]] = [{"note": note} for note in todo.notes]
    for day in todo.days:
        done = None if order.force else _finished(store, day)
        found.append(
            {
                "day": str(day),
                "begins_with": begins,
                "done": done.status if done else None,
                "not_ready": find_not_ready(config, day),
            }
        )
        begins = f"the version of {day}"
    return found


def _todo(store: Store, daily: Daily, order: Order) -> Todo:
    if order.first is not None or order.force:
        return days_between(daily, order.first or order.last, order.last)
    return days_to_do(store, daily, order.last)


def _finished(store: Store, day: dt.date) -> Record | None:
    """The record of a day that is published or refused."""
    record = read_record(store, day)
    return record if record is not None and record.status in ("published", "refused") else None


def _published_without_note(store: Store) -> list[dt.date]:
    """The day of a job that was killed after its version was published and before its record said so."""
    published = {entry.version for entry in versions.published(store)}
    records = last_records(store)
    return [r.date for r in records if r.status == "running" and r.version in published]


def _ended(records: list[Record]) -> list[Record]:
    if records and (last := records[-1]).status == "refused":
        raise RefusedError(
            f"{last.date}: {last.reason}; version {last.base or '(none)'} stays, the candidate {last.version} is kept aside, and "
            f"the page of the day has the comparison"
        )
    return records
