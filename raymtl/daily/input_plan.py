"""The input of a day: its own rows, older ones whose labels have become final since, and a replayed share of older ones."""

import datetime as dt
from collections.abc import Container
from dataclasses import dataclass, field, replace

import numpy as np

from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.data.partitions import Layout
from raymtl.data.read import Input
from raymtl.data.roots import Roots
from raymtl.data.units import Counted, Fragment, Plan, Unit, join_plans, plan_input
from raymtl.data.user_slice import UserSlice
from raymtl.data.vocabulary import check_id_files
from raymtl.errors import ConfigError


@dataclass(frozen=True)
class DelayedLabels:
    """Tasks whose labels are final some days after their rows, and the days that have become final."""

    delay: int
    """Days."""
    tasks: tuple[str, ...]
    days: list[dt.date]
    """The days whose labels became final since the base was trained, in order."""


@dataclass(frozen=True)
class DayPlans:
    """The plans of one day."""

    day_rows: Plan
    """The day's rows; for a first version, those of all its days."""
    train: Plan
    held_out: Plan
    """The rows that judge the candidate: only those of held-out users."""
    next_day: dict[int, Plan]
    """By delay, the rows whose labels for those tasks became final today; they score the previous version."""
    training_days: dict[str, list[str] | None]
    """The days to train on, with the tasks whose labels count; `buy (early)` if they are not final."""
    notes: list[str] = field(default_factory=list)


def plan_day(config: Config, day: dt.date, base_end: dt.date | None, excluded: Container[dt.date]) -> DayPlans:
    """The plans of `day` after a version whose data end on `base_end` (None: there is none).

    `excluded` are days that no version was trained on, or that are known to be bad. Raises DataError if the day's files are
    missing or damaged.
    """
    daily = config.daily
    assert daily is not None
    logs = Roots.open(config.data.roots_of("train"))
    immediate, delayed = _by_delay(config, day, base_end)
    # A first version waits for all labels: nothing has learned yet how many of them are in time
    early = () if base_end is None else tuple(config.early_tasks())
    notes: list[str] = []
    first = day - dt.timedelta(days=daily.bootstrap_days - 1)
    first_days = [day]
    if base_end is None:
        first_days = [
            d for d in (first + dt.timedelta(days=n) for n in range(daily.bootstrap_days)) if d not in excluded
        ]
    parts: list[tuple[dt.date, Counted]] = [(d, replace(_final(config, d, day), early=early)) for d in first_days]
    matured: list[tuple[dt.date, Counted]] = []
    for group in delayed:
        days = [d for d in group.days if d not in excluded and (base_end is not None or d >= first)]
        there = [d for d in days if _exists(config, logs, d)]
        if gone := [d for d in days if d not in there]:
            notes.append(
                f"the labels of {', '.join(group.tasks)} of {gone[0]} are final now, but the logs of that day no longer exist"
            )
        if base_end is not None:
            own_day = any(name in early for name in group.tasks)
            matured += [(d, Counted(group.tasks, held_out_of_own_day=own_day)) for d in there]
    plans = {d: _plan_of(config, d) for d in dict.fromkeys([d for d, _ in (*parts, *matured)])}
    day_rows = join_plans([(plans[d], counted) for d, counted in parts])
    if base_end is None and all(counted.none for _, counted in parts):
        raise ConfigError(
            f"daily.bootstrap_days is {daily.bootstrap_days}, and no label of any task is final on those days up to {day} yet; "
            f"set it to at least {min(_delays(config).values()) + 1}"
        )
    training_parts = _with_labels([*matured, *parts])
    train = [(plans[d], counted) for d, counted in training_parts]
    read = _described(training_parts)
    if daily.replay is not None and base_end is not None:
        replayed = _replay(config, logs, day, base_end, day_rows.rows, excluded)
        train = [*((plan, counted) for _, plan, counted in replayed), *train]
        read |= {f"{d} (replayed)": _names(counted) for d, _, counted in replayed}
    # A first version has not seen the held-out users on any of its days, and on the last one alone they may be very few.
    judging = parts if base_end is None else [*matured, (day, immediate)]
    held_out = [(plans[d], counted) for d, counted in _with_labels(judging)]
    next_day = {} if base_end is None or immediate.none else {0: join_plans([(plans[day], immediate)])}
    for group in delayed:
        if base_end is not None and group.days and group.days[-1] in plans:
            next_day[group.delay] = join_plans([(plans[group.days[-1]], Counted(group.tasks))])
    check_id_files(config, day_rows.held)
    all_rows = join_plans(train)
    notes += all_rows.notes
    return DayPlans(day_rows, all_rows, join_plans(held_out), next_day, read, notes)


def users_of(config: Config, day: dt.date, *, held_out: bool) -> UserSlice:
    """The users whose rows are held out on `day`, or all others."""
    assert config.daily is not None
    assert config.data.group is not None
    return UserSlice(config.data.group, 0, config.daily.gate.holdout, held_out).of_day(day)


def training_input(plans: DayPlans, config: Config, day: dt.date, maps: dict) -> Input:
    """The rows to train on."""
    return Input(plans.train, False, maps, users_of(config, day, held_out=False))


def held_out_input(plans: DayPlans, config: Config, day: dt.date, maps: dict) -> Input:
    """The rows that judge the candidate."""
    return Input(plans.held_out, True, maps, users_of(config, day, held_out=True))


def _by_delay(config: Config, day: dt.date, base_end: dt.date | None) -> tuple[Counted, list[DelayedLabels]]:
    """The tasks whose labels are final on the day itself, and the others by their delay."""
    delay_of = _delays(config)
    delays = sorted(set(delay_of.values()) - {0})
    delayed = []
    for delay in delays:
        last = day - dt.timedelta(days=delay)
        count = (day - base_end).days if base_end is not None else 1
        days = [last - dt.timedelta(days=n) for n in reversed(range(count))]
        delayed.append(DelayedLabels(delay, tuple(n for n, own in delay_of.items() if own == delay), days))
    immediate = tuple(n for n, own in delay_of.items() if not own)
    return Counted(None if not delayed else immediate), delayed


def _final(config: Config, rows_of: dt.date, day: dt.date) -> Counted:
    """The tasks whose labels for the rows of one day are final at the end of another."""
    delays = _delays(config)
    final = tuple(n for n, delay in delays.items() if rows_of + dt.timedelta(days=delay) <= day)
    return Counted(None if len(final) == len(delays) else final)


def _delays(config: Config) -> dict[str, int]:
    """Days until the labels of each active task are final."""
    return {name: days for name, days in config.label_delays().items() if name in config.active_tasks()}


def _with_labels(parts: list[tuple[dt.date, Counted]]) -> list[tuple[dt.date, Counted]]:
    """The parts in which any task's labels count; all parts if there is none, so that there are rows to read."""
    return [(d, counted) for d, counted in parts if not counted.none] or parts


def _described(parts: list[tuple[dt.date, Counted]]) -> dict[str, list[str] | None]:
    found: dict[str, list[str] | None] = {}
    for day, counted in parts:
        known, names = found.get(str(day), []), _names(counted)
        found[str(day)] = None if names is None or known is None else [*known, *names]
    return found


def _names(counted: Counted) -> list[str] | None:
    """The tasks that count, in the words of the reports; None: all, with final labels."""
    if counted.final is None:
        return None
    return [*counted.final, *(f"{n} (early)" for n in counted.early)]


def _exists(config: Config, logs: Roots, day: dt.date) -> bool:
    found = logs.find_files(DayRange(start=day, end=day), Layout.of(config))
    return bool(
        found.files or found.faults
    )  # what is there but cannot be read is an error, and not a day that was removed


def _plan_of(config: Config, day: dt.date) -> Plan:
    data = config.data.model_copy(update={"train": DayRange(start=day, end=day)})
    return plan_input(config.model_copy(update={"data": data}), "train")


def _replay(
    config: Config, logs: Roots, day: dt.date, base_end: dt.date, day_rows: int, excluded: Container[dt.date]
) -> list[tuple[dt.date, Plan, Counted]]:
    """Randomly chosen row groups of earlier days, up to the replay share of the day's rows; the same on every call for a day.

    Only the tasks count whose labels the base was trained on: those that became final since are read anyway.
    """
    assert config.daily is not None
    replay = config.daily.replay
    assert replay is not None
    days = [day - dt.timedelta(days=n) for n in range(1, replay.days + 1)]
    counted = {d: _final(config, d, base_end) for d in days}
    fine = config.model_copy(update={"data": config.data.model_copy(update={"unit_rows": 1})})  # each row group a unit
    plans = {
        d: _plan_of(fine, d) for d in days if not counted[d].none and d not in excluded and _exists(config, logs, d)
    }
    groups = [(d, chunk) for d, plan in plans.items() for unit in plan.units for chunk in unit.fragments]
    order = np.random.default_rng([config.data.shuffle.seed, day.toordinal()]).permutation(len(groups))
    wanted = replay.share * day_rows
    chosen: dict[dt.date, list[Fragment]] = {}
    for n in order:
        if wanted <= 0:
            break
        of, chunk = groups[n]
        chosen.setdefault(of, []).append(chunk)
        wanted -= chunk.rows
    parts: list[tuple[dt.date, Plan, Counted]] = []
    for of in sorted(chosen):
        chunks = sorted(chosen[of], key=lambda chunk: (chunk.path, chunk.first_row))
        plan = replace(plans[of], units=(Unit(tuple(chunks)),), identity=f"{plans[of].identity} {chunks}")
        parts.append((of, plan, counted[of]))
    return parts
