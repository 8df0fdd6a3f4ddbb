"""Which version a day starts from, and which days remain to be done."""

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
    """The days that a command has to do."""

    days: list[dt.date]
    """In this order; empty: nothing."""
    notes: list[str] = field(default_factory=list)
    """Why days are skipped, or that there is nothing to do."""


def known_versions(store: Store) -> list[Listed]:
    """The versions, newest first. Raises VersionError if the current one is damaged: no day may start while it is unreadable."""
    found = list_versions(store)
    for version in found:
        if version.current and version.manifest is None:
            show(store, version.id)  # raises the error
    return found


def choose_base(versions: list[Listed], day: dt.date) -> Manifest | None:
    """The version that `day` starts from; None: there is none.

    It is the current one. If its data already include the day, it is the nearest ancestor whose data end before the day; if that
    ancestor was removed, the version with the newest data that do.
    """
    current = next((v.manifest for v in versions if v.current), None)
    found = ancestor_before(versions, current, day)
    if found is not None:
        return found
    usable = [v.manifest for v in versions if v.manifest is not None and v.manifest.data_end < day]
    return max(usable, key=lambda m: m.data_end, default=None)  # the newest version comes first, and wins a tie


def ancestor_before(versions: list[Listed], start: Manifest | None, day: dt.date) -> Manifest | None:
    """`start` or its nearest ancestor whose data end before `day`; None: there is none, or it was removed."""
    by_name = {v.id: v.manifest for v in versions if v.manifest is not None}
    while start is not None and start.data_end >= day:
        start = by_name.get(start.parent or "")
    return start


def comparison_versions(versions: list[Listed], base: Manifest, day: dt.date, days_ago: int) -> dict[str, Manifest]:
    """The versions beside which that of `day` is measured, by name: the first one, and that trained up to `days_ago` before.

    Both are at most as new as `base`, and no version has two names. The first is the oldest that exists and was not rolled back.
    """
    usable = [v.manifest for v in versions if v.manifest is not None and v.rolled_back is None]
    usable = [m for m in usable if m.data_end <= base.data_end]
    found = {"first": min(usable, key=lambda m: m.data_end)} if usable else {}
    earlier = [m for m in usable if m.data_end <= day - dt.timedelta(days=days_ago)]
    if earlier and (before := max(earlier, key=lambda m: m.data_end)).id != found["first"].id:
        found["1 day ago" if days_ago == 1 else f"{days_ago} days ago"] = before
    return found


def days_to_do(store: Store, daily: Daily, day: dt.date) -> DaySchedule:
    """The days after the current version's data up to `day`.

    Days that were refused, or whose version was rolled back, are skipped: redoing them is a decision for a person (`--from`,
    `--to` and `--force`). So are those of `daily.skip`.
    """
    versions = known_versions(store)
    current = next((v for v in versions if v.current), None)
    if current is None or current.manifest is None:
        return days_between(daily, day, day)
    end = current.manifest.data_end
    if day <= end:
        return DaySchedule([], [explain_finished_day(store, daily, day, versions)])
    days, notes = [], []
    for between in (end + dt.timedelta(days=n) for n in range(1, (day - end).days + 1)):
        reason = skip_reason(store, daily, between)
        if reason is None:
            days.append(between)
        else:
            notes.append(_skip_note(daily, between, reason, day))
    return DaySchedule(days, notes)


def explain_finished_day(store: Store, daily: Daily, day: dt.date, versions: list[Listed]) -> str:
    """What happened to a day within the current version's data, and the command that redoes it.

    Raises ConfigError for a day that this command will never do: one before the store's first, or one that was never trained.
    """
    current = next(v.manifest for v in versions if v.current and v.manifest is not None)
    again = redo_command(day, current.data_end)
    first = first_day(store, versions)
    if day < first:
        raise ConfigError(
            f"{day} lies before {first}, the first day of store {store.path}, whose versions cannot be trained on an earlier "
            f"day; set another daily.store to backfill earlier days, or redo every day in this one: {again}"
        )
    if not was_left_out(store, day, versions):
        # A day that the first version was trained on with others is redone with them
        roots = [v.manifest.data_end for v in versions if v.manifest is not None and v.manifest.parent is None]
        again = redo_command(max([day, *(end for end in roots if end <= current.data_end)]), current.data_end)
        return f"{day} is already done: version {current.id} has its data; to redo it, run: {again}"
    if (reason := skip_reason(store, daily, day)) is not None:
        return _skip_note(daily, day, reason, current.data_end)
    raise ConfigError(
        f"{day} was not trained, but version {current.id} already has data up to {current.data_end}; to add it, run: {again}"
    )


def _skip_note(daily: Daily, day: dt.date, reason: str, end: dt.date) -> str:
    remove = "remove it there, then " if day in daily.skip else ""
    return f"{day} is skipped: {reason}; to do it, {remove}run: {redo_command(day, end)}"


def was_left_out(store: Store, day: dt.date, versions: list[Listed]) -> bool:
    """Whether neither the current version nor an ancestor was trained on a day within its data."""
    current = next((v.manifest for v in versions if v.current), None)
    nothing_skipped = Daily(store=store.path)
    return day in ExcludedDays(store, nothing_skipped, versions, current)


def redo_command(day: dt.date, end: dt.date) -> str:
    """The command that redoes a day, and the days after it up to the end of the current version's data."""
    return f"raymtl daily --date {day} --force" if day >= end else f"raymtl daily --from {day} --to {end} --force"


def first_day(store: Store, versions: list[Listed]) -> dt.date:
    """The first day that any version was trained on; a removed version counts by the record of its day."""
    starts = [dt.date.fromisoformat(v.manifest.data_range["train"][0]) for v in versions if v.manifest is not None]
    for day in recorded_days(store):
        record = read_record(store, day)
        if record is not None and record.status == "published":
            bootstrap = record.trained.days if record.trained is not None and record.parent is None else {}
            starts += [day, *map(dt.date.fromisoformat, bootstrap)]
            break
    return min(starts)


def days_between(daily: Daily, first: dt.date, last: dt.date) -> DaySchedule:
    """The days of a requested range, without those of `daily.skip`."""
    days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    notes = [f"{d} is skipped: it is listed in daily.skip; to do it, remove it there" for d in days if d in daily.skip]
    return DaySchedule([d for d in days if d not in daily.skip], notes)


def skip_reason(store: Store, daily: Daily, day: dt.date) -> str | None:
    """Why the job skips a day unless the user requests it, or None."""
    if day in daily.skip:
        return "it is listed in daily.skip"
    record = read_record(store, day)
    if record is not None and record.status == "refused":
        return "its candidate was refused"
    if record is not None and record.status == "published":
        return f"its version {record.version} was rolled back"
    return None


class ExcludedDays:
    """The days that neither a base nor its ancestors were trained on (refused, rolled back, or never trained), and those of
    `daily.skip`. Days before the first version count if they were refused."""

    def __init__(self, store: Store, daily: Daily, versions: list[Listed], base: Manifest | None):
        """`base` None: there is none yet."""
        self._store, self._daily = store, daily
        self._manifests = {v.id: v.manifest for v in versions if v.manifest is not None}
        self._spans: list[tuple[dt.date, dt.date]] = []
        """First and last day of the base and of its ancestors, as far back as was requested."""
        self._next = base.id if base is not None else None
        self._records: dict[dt.date, Record | None] = {}

    def __contains__(self, day: object) -> bool:
        assert isinstance(day, dt.date)
        if day in self._daily.skip:
            return True
        while self._next is not None and (not self._spans or day < self._spans[-1][0]):
            self._look_back()
        if any(day == last for _, last in self._spans):
            return False
        record = self._record(day)
        if record is not None and record.status == "refused":
            return True
        in_range = bool(self._spans) and day >= self._spans[-1][0]
        return in_range and not any(first <= day <= last for first, last in self._spans)

    def _look_back(self) -> None:
        """Add the span of the next ancestor: from its manifest, or if it was removed, from the record of its day."""
        version, self._next = self._next, None
        manifest = self._manifests.get(version or "")
        if manifest is not None:
            span = (dt.date.fromisoformat(manifest.data_range["train"][0]), manifest.data_end)
            parent = manifest.parent
        else:
            records = (self._record(day) for day in reversed(recorded_days(self._store)))
            record = next((r for r in records if r is not None and r.version == version), None)
            if record is None:
                return
            span, parent = (record.date, record.date), record.parent
        if not self._spans or span[1] < self._spans[-1][1]:
            self._spans.append(span)
            self._next = parent

    def _record(self, day: dt.date) -> Record | None:
        if day not in self._records:
            self._records[day] = read_record(self._store, day)
        return self._records[day]
