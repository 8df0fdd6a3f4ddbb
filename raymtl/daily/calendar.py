"""Which version a day begins with, and which days are still to do."""

import datetime as dt
from dataclasses import dataclass, field

from raymtl.config.daily import Daily
from raymtl.daily.record import Record, read_record, recorded_days
from raymtl.errors import ConfigError
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.store import Listed, list_versions, show
from raymtl.storage.object_store import Store


@dataclass(frozen=True)
class DaySchedule:
    """What a command has to do."""

    days: list[dt.date]
    """In this order; empty: nothing."""
    notes: list[str] = field(default_factory=list)
    """Why days are left out, or that there is nothing to do."""


def known_versions(store: Store) -> list[Listed]:
    """The versions, newest first. Raises VersionError where the current one is damaged: nothing may begin behind its back."""
    found = list_versions(store)
    for version in found:
        if version.current and version.manifest is None:
            show(store, version.id)  # says what is wrong
    return found


def choose_base(versions: list[Listed], day: dt.date) -> Manifest | None:
    """The version that `day` begins with: the current one or, where its data do not end before the day, the nearest of those it
    came from whose data do. Where that line is gone, the version with the newest data that do; None: there is none."""
    current = next((v.manifest for v in versions if v.current), None)
    found = version_before(versions, current, day)
    if found is not None:
        return found
    usable = [v.manifest for v in versions if v.manifest is not None and v.manifest.data_end < day]
    return max(usable, key=lambda m: m.data_end, default=None)  # the last published stands first, and wins among equals


def version_before(versions: list[Listed], start: Manifest | None, day: dt.date) -> Manifest | None:
    """The version whose data end before `day` in the line that leads to `start`; None: it is gone or never was."""
    by_name = {v.id: v.manifest for v in versions if v.manifest is not None}
    while start is not None and start.data_end >= day:
        start = by_name.get(start.parent or "")
    return start


def days_to_do(store: Store, daily: Daily, day: dt.date) -> DaySchedule:
    """The days after the current version's data up to `day`.

    Days that were refused, or whose version was rolled back, are left out: redoing them is a decision for a person (`--from`,
    `--to` and `--force`). So are those of `daily.skip`.
    """
    versions = known_versions(store)
    current = next((v for v in versions if v.current), None)
    if current is None or current.manifest is None:
        return days_between(daily, day, day)
    end = current.manifest.data_end
    if day <= end:
        return DaySchedule([], [what_became_of(store, daily, day, versions)])
    days, notes = [], []
    for between in (end + dt.timedelta(days=n) for n in range(1, (day - end).days + 1)):
        reason = why_left_out(store, daily, between)
        if reason is None:
            days.append(between)
        else:
            notes.append(_left_out(daily, between, reason, day))
    return DaySchedule(days, notes)


def what_became_of(store: Store, daily: Daily, day: dt.date, versions: list[Listed]) -> str:
    """What a day up to the end of the current version's data has become, and the command that does it again.

    Raises ConfigError for a day that this command will never do: one before the store's first, or one that was passed over.
    """
    current = next(v.manifest for v in versions if v.current and v.manifest is not None)
    again = redo_command(day, current.data_end)
    begin = first_day(store, versions)
    if day < begin:
        raise ConfigError(
            f"{day} lies before {begin}, the first day of store {store.path}: its versions cannot learn an earlier day; set "
            f"another daily.store to backfill earlier days, or do every day again in this one: {again}"
        )
    if not was_left_out(store, day, versions):
        # A day that the first version learned beside others is done with them
        roots = [v.manifest.data_end for v in versions if v.manifest is not None and v.manifest.parent is None]
        again = redo_command(max([day, *(end for end in roots if end <= current.data_end)]), current.data_end)
        return f"{day} is done already: version {current.id} has its data; to do it again: {again}"
    if (reason := why_left_out(store, daily, day)) is not None:
        return _left_out(daily, day, reason, current.data_end)
    raise ConfigError(
        f"{day} was passed over: version {current.id} has the days up to {current.data_end} without it; to do it after all: "
        f"{again}"
    )


def _left_out(daily: Daily, day: dt.date, reason: str, end: dt.date) -> str:
    remove = "remove it there and run " if day in daily.skip else ""
    return f"{day} is left out: {reason}; to do it after all: {remove}{redo_command(day, end)}"


def was_left_out(store: Store, day: dt.date, versions: list[Listed]) -> bool:
    """Whether no version in the line of the current one learned a day up to the end of its data."""
    current = next((v.manifest for v in versions if v.current), None)
    nothing_skipped = Daily(store=store.path)
    return day in ExcludedDays(store, nothing_skipped, versions, current)


def redo_command(day: dt.date, end: dt.date) -> str:
    """The options that do a day again, with the days after it up to the end of the current version's data."""
    return f"raymtl daily --date {day} --force" if day >= end else f"raymtl daily --from {day} --to {end} --force"


def first_day(store: Store, versions: list[Listed]) -> dt.date:
    """The first day that a version learned; versions that were removed are known by the records of their days."""
    begins = [dt.date.fromisoformat(v.manifest.data_range["train"][0]) for v in versions if v.manifest is not None]
    for day in recorded_days(store):
        record = read_record(store, day)
        if record is not None and record.status == "published":
            bootstrap = record.trained.days if record.trained is not None and record.base is None else {}
            begins += [day, *map(dt.date.fromisoformat, bootstrap)]
            break
    return min(begins)


def days_between(daily: Daily, first: dt.date, last: dt.date) -> DaySchedule:
    """The days of a range that somebody asks for, without those of `daily.skip`."""
    days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    notes = [
        f"{d} is left out: it stands in daily.skip; to do it after all: remove it there"
        for d in days
        if d in daily.skip
    ]
    return DaySchedule([d for d in days if d not in daily.skip], notes)


def why_left_out(store: Store, daily: Daily, day: dt.date) -> str | None:
    """Why a day is not done by itself, or None."""
    if day in daily.skip:
        return "it stands in daily.skip"
    record = read_record(store, day)
    if record is not None and record.status == "refused":
        return "its candidate was refused"
    if record is not None and record.status == "published":
        return f"its version {record.version} was rolled back"
    return None


class ExcludedDays:
    """The days that a base was not trained on, nor any version before it: refused, rolled back, or passed over; and those of
    `daily.skip`. Days before its first version count where they were refused."""

    def __init__(self, store: Store, daily: Daily, versions: list[Listed], base: Manifest | None):
        """`base` None: there is none yet."""
        self._store, self._daily = store, daily
        self._manifests = {v.id: v.manifest for v in versions if v.manifest is not None}
        self._spans: list[tuple[dt.date, dt.date]] = []
        """First and last day of the base and of the versions before it, as far back as was asked for."""
        self._before = base.id if base is not None else None
        self._records: dict[dt.date, Record | None] = {}

    def __contains__(self, day: object) -> bool:
        assert isinstance(day, dt.date)
        if day in self._daily.skip:
            return True
        while self._before is not None and (not self._spans or day < self._spans[-1][0]):
            self._look_back()
        if any(day == last for _, last in self._spans):
            return False
        record = self._record(day)
        if record is not None and record.status == "refused":
            return True
        in_line = bool(self._spans) and day >= self._spans[-1][0]
        return in_line and not any(first <= day <= last for first, last in self._spans)

    def _look_back(self) -> None:
        """Add the span of one more version: by its manifest, or where it was removed by the record of its day."""
        version, self._before = self._before, None
        manifest = self._manifests.get(version or "")
        if manifest is not None:
            span = (dt.date.fromisoformat(manifest.data_range["train"][0]), manifest.data_end)
            parent = manifest.parent
        else:
            records = (self._record(day) for day in reversed(recorded_days(self._store)))
            record = next((r for r in records if r is not None and r.version == version), None)
            if record is None:
                return
            span, parent = (record.date, record.date), record.base
        if not self._spans or span[1] < self._spans[-1][1]:
            self._spans.append(span)
            self._before = parent

    def _record(self, day: dt.date) -> Record | None:
        if day not in self._records:
            self._records[day] = read_record(self._store, day)
        return self._records[day]
