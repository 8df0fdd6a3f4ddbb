"""Makes the records of thirty days that never were: a first version, deltas, refusals, a day that is late, a task that is late.

Only for tests, and to look at the pages: `python tests/helpers/fake_records.py FOLDER` writes them there.
"""

import datetime as dt
import math
import random
import sys
from typing import Any

from raymtl.daily.record import Check, Comparison, DayStatistics, GateResult, NextDay, Record, Trained, Written, folder

FIRST = dt.date(2026, 10, 25)
DAYS = 30
REFUSED_BY_GATE = FIRST + dt.timedelta(days=11)
REFUSED_BY_CHECK = FIRST + dt.timedelta(days=19)
SKIPPED = FIRST + dt.timedelta(days=15)
DELAY_DAYS = 3
TASKS = {"click": 0.062, "cart": 0.0121, "buy": 0.00312, "dwell_s": 2.6}
SKILL = {"click": 0.731, "cart": 0.792, "buy": 0.842}
SCENARIOS = {"search": 0.46, "feed": 0.38, "live": 0.13, "other": 0.03}
TABLES = {"user": 410_000, "item": 96_000, "query": 151_000}
FEATURES = [f"f{i}" for i in range(14)]
SETTINGS = {
    "preset": "aitm",
    "batch": "8,192",
    "learning rate": "adam 0.003",
    "learning rate of tables": "adagrad 0.03",
}


def _report(task: str, skill: float, rows: int, chance: random.Random, lift: float = 0.0) -> dict[str, Any]:
    rate = TASKS[task]
    if task == "dwell_s":
        deviance = 1.31 - 0.4 * skill + chance.gauss(0, 0.004)
        return {"kind": "count", "poisson_deviance": deviance, "mse": 3.2, "rmse": 1.79, "mae": 1.34, "nmae": 0.51} | {
            "smape": 0.66, "calibration": chance.gauss(0.99, 0.01), "count": rows, "mean_label": rate, "null_reason": None
        }  # fmt: skip
    positives = round(rows * rate)
    if not positives:
        return {"kind": "binary", "auc": None, "ne": None, "calibration": None, "count": rows, "positives": 0} | {
            "null_reason": f"no positives among {rows:,} observed labels"
        }
    auc = SKILL[task] + 0.03 * skill + lift + chance.gauss(0, 0.0012)
    return {
        "kind": "binary",
        "auc": auc,
        "gauc": auc - 0.02,
        "logloss": 2.9 * rate * (1 - 0.2 * skill),
        "ne": 0.93 - 0.07 * skill - lift + chance.gauss(0, 0.0015),
        "calibration": chance.gauss(1.0, 0.02),
        "count": rows,
        "positives": positives,
        "positive_rate": positives / rows,
        "null_reason": None,
    }


def _unseen(task: str) -> dict[str, Any]:
    """A task that was scored while its labels are not final."""
    key = "poisson_deviance" if task == "dwell_s" else "auc"
    kind = "count" if task == "dwell_s" else "binary"
    return {"kind": kind, key: None, "count": 0, "positives": 0, "null_reason": "no observed labels"}


def _metrics(tasks: list[str], skill: float, rows: int, chance: random.Random, lift: float = 0.0) -> dict[str, Any]:
    scenarios = {
        name: {
            task: _report(task, skill, round(rows * share * (name != "other" or 0.01)), chance, lift) for task in tasks
        }
        for name, share in SCENARIOS.items()
    }
    order = {"click>cart": 0.0012, "cart>buy": 0.0031, "overall": 0.0041}
    return {
        "eval": {task: _report(task, skill, rows, chance, lift) if task in tasks else _unseen(task) for task in TASKS},
        "scenarios": scenarios,
        "order_violation_rate": order,
        "rows": rows,
    }


def _statistics(i: int, day: dt.date, chance: random.Random) -> DayStatistics:
    rows = round(2_400_000 * (1 + 0.12 * (day.weekday() >= 5)) * chance.gauss(1, 0.02))
    tripled = 3.1 if day == REFUSED_BY_CHECK else 1.0
    shares = {name: share * chance.gauss(1, 0.03) for name, share in SCENARIOS.items()}
    shares["live"] *= 1 + 0.02 * i
    total = sum(shares.values())
    return DayStatistics(
        rows=round(rows / tripled),
        files=24,
        columns={"user": "int64", "item": "string", "click": "int8", **dict.fromkeys(FEATURES, "float")},
        nulls={name: 0.02 * n * chance.gauss(1, 0.05) if n < 5 else 0.0 for n, name in enumerate(FEATURES)},
        observed=dict.fromkeys([t for t in TASKS if t != "buy"], 1.0) | {"dwell_s": chance.gauss(0.97, 0.002)},
        labels={
            t: rate * chance.gauss(1, 0.02) * (tripled if t == "click" else 1 + 0.004 * i)
            for t, rate in TASKS.items()
            if t != "buy"
        },
        scenarios={name: share / total for name, share in shares.items()},
        distinct={table: round(ids * chance.gauss(1, 0.01)) for table, ids in TABLES.items()},
        new_ids={
            table: (0.012 + 0.05 * math.exp(-i / 6)) * (1 + n) * chance.gauss(1, 0.06)
            for n, table in enumerate(TABLES if i else ())
        },
    )


def _ids(i: int, chance: random.Random) -> dict[str, dict[str, Any]]:
    found = {}
    for n, (table, ids) in enumerate(TABLES.items()):
        admitted = round(ids * (0.9 if i == 0 else 0.03 + 0.2 * math.exp(-i / 3)) * chance.gauss(1, 0.05))
        found[table] = {
            "admitted": {"ids": admitted, "lookups": admitted * 5},
            "known": {"ids": ids - admitted if i else 0, "lookups": 2_000_000},
            "below": {"ids": round(ids * 0.08), "lookups": round(ids * 0.08)},
            "outdated": {"ids": 0, "lookups": 0},
            "no_room": {"ids": 1_312 if table == "query" and i > 24 else 0, "lookups": 2_000},
            "evicted": {"ids": max(0, round(ids * 0.02 * (i - 7) / 20)), "lookups": 0},
            "unknown_share": 0.018 * (1 + n / 2) * chance.gauss(1, 0.04),
        }
    return found


def _gate(skill: float, base: bool, refused: bool, chance: random.Random) -> GateResult:
    candidate = _metrics(list(TASKS), skill, 48_213, chance, -0.04 if refused else 0.0)
    before = _metrics(list(TASKS), skill, 48_213, chance) if base else None
    checks = []
    for task in TASKS:
        new = candidate["eval"][task]
        old = before["eval"][task] if before else {}
        for what, worst in (("auc", -0.01), ("ne", 0.05)) if task != "dwell_s" else (("poisson_deviance", 0.05),):
            if not base and what != "auc":  # needs a previous version
                continue
            limit = old[what] + worst if base else 0.5
            good = new[what] >= limit if what == "auc" else new[what] <= limit
            judged = task != "buy"
            word = f"{('≥' if base else '>') if what == 'auc' else '≤'} {limit:.4g}" if judged else ""
            why = "" if judged else "43 positives, fewer than 50"
            checks.append(
                Check(
                    task=task,
                    name=what,
                    base=old.get(what),
                    candidate=new[what],
                    limit=word,
                    passed=good if judged else None,
                    note=why,
                )
            )
        checks.append(
            Check(
                task=task, name="calibration", base=old.get("calibration"), candidate=new["calibration"],
                limit="0.7 to 1.4, or closer to 1 than before", passed=True,
            )
        )  # fmt: skip
    if base:
        checks.append(Check(task=None, name="order", base=0.0041, candidate=0.0043, limit="≤ 0.0541", passed=True))
    checks.append(Check(task=None, name="not finite", base=None, candidate=0.0, limit="none", passed=True))
    norm = {"base": 0.1312, "candidate": 0.1339, "limit": "≤ 0.1968", "passed": True}
    checks += [Check(task=None, name=f"norm {t}", **norm) for t in TABLES if base]
    return GateResult(
        passed=all(check.passed is not False for check in checks),
        checks=checks,
        holdout_rows=48_213,
        base=before,
        candidate=candidate,
    )


def _comparisons(i: int) -> list[Comparison]:
    """The first version, and that of seven days ago."""
    chance = random.Random(i)
    older = {"first": 0, "7 days ago": i - 7}
    return [
        Comparison(
            name=name,
            version=f"{FIRST + dt.timedelta(days=n)}-older",
            metrics={"eval": _metrics(list(TASKS), 1 - math.exp(-(n + 2) / 7), 48_213, chance)["eval"]},
        )
        for name, n in older.items()
        if n >= 0
    ]


def _record(i: int, base: str | None, versions: dict[dt.date, str], chance: random.Random) -> Record:
    day = FIRST + dt.timedelta(days=i)
    skill = 1 - math.exp(-(i + 2) / 7)
    started = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(2, 10), dt.UTC)
    record = Record(date=day, config_hash="9f2c61d07be45a1c3d", parent=base, started=started, settings=SETTINGS)
    record.stats = _statistics(i, day, chance)
    record.seconds = {"wait": 2.1, "check": chance.gauss(64, 5)}
    if day == REFUSED_BY_CHECK:
        record.status, record.state = "refused", "check"
        record.reason = "the mean label of `click` is 0.192, and the days before it are between 0.058 and 0.066"
        record.ended = started + dt.timedelta(seconds=67)
        return record
    if base is not None:
        now = [task for task in TASKS if task != "buy"]
        rows = record.stats.rows
        record.next_day = [NextDay(day=day, version=base, rows=rows, metrics=_metrics(now, skill, rows, chance))]
        late = day - dt.timedelta(days=DELAY_DAYS)
        if late in versions and late != REFUSED_BY_CHECK:
            metrics = _metrics(["buy"], skill, rows - 9_000, chance)
            record.next_day.append(NextDay(day=late, version=versions[late], rows=rows - 9_000, metrics=metrics))
        record.seconds["evaluate"] = chance.gauss(95, 8)
    days = [day - dt.timedelta(days=n) for n in range(6, -1, -1)] if base is None else [day]
    record.trained = Trained(
        rows=record.stats.rows * len(days) - 48_213,
        held_out=48_213,
        steps=record.stats.rows * len(days) // 8192,
        days={
            **{str(d): [t for t in TASKS if t != "buy"] for d in days},
            str(day - dt.timedelta(days=DELAY_DAYS)): ["buy"],
        },
        ids=_ids(i, chance),
    )
    record.seconds |= {"train": chance.gauss(520, 40) * len(days) ** 0.5, "gate": chance.gauss(41, 4)}
    refused = day == REFUSED_BY_GATE
    record.gate = _gate(skill, base is not None, refused, chance)
    if base is not None:
        record.comparisons = _comparisons(i)
    kind = "full" if i % 7 == 0 else "delta"
    touched = {t: round(ids * (1 if kind == "full" else 0.11)) for t, ids in TABLES.items()}
    record.version = f"{day}-{chance.randrange(16**6):06x}"
    record.written = Written(
        kind=kind, bytes=sum(touched.values()) * 280, rows=touched, expired=dict.fromkeys(TABLES, 31)
    )
    record.seconds |= {"write": chance.gauss(11, 2), "publish": 0.8, "expire": 1.4}
    record.ended = started + dt.timedelta(seconds=sum(record.seconds.values()))
    record.status, record.state = "published", "expire"
    if refused:
        record.status, record.state = "refused", "gate"
        record.reason = f"{day}: the candidate {record.version} was refused: the gate refuses the candidate: …"
    if i == 4:
        record.notes = ["The job was killed in `train` and went on from step 120."]
        record.attempt = 2
    return record


def thirty_days(seed: int = 0) -> list[Record]:
    """A bootstrap, one day skipped, one refused by the gate and one by the check, the newest not ready."""
    chance = random.Random(seed)
    records: list[Record] = []
    base, versions = None, {}
    for i in range(DAYS - 1):
        day = FIRST + dt.timedelta(days=i)
        if base:
            versions[day] = base
        if day == SKIPPED:
            continue
        record = _record(i, base, versions, chance)
        records.append(record)
        if record.status == "published":
            base = record.version
    day = FIRST + dt.timedelta(days=DAYS - 1)
    started = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(2, 10), dt.UTC)
    late = Record(
        date=day, config_hash="9f2c61d07be45a1c3d", parent=base, started=started, status="not ready", state="wait"
    )
    late.reason = f"{day} is not ready: `logs/ds={day}` has no `_SUCCESS` yet"
    late.seconds = {"wait": 0.4}
    return [*records, late]


def with_intervals(records: list[Record]) -> list[Record]:
    """The records with an interval at every next-day metric, about as wide as independent rows would make it."""
    found = [record.model_copy(deep=True) for record in records]
    for entry in (entry for record in found for entry in record.next_day):
        for tasks in (entry.metrics["eval"], *entry.metrics["scenarios"].values()):
            for report in tasks.values():
                half = 0.7 / math.sqrt(report.get("positives") or report["count"] or 1)
                values = {
                    name: v for name in ("auc", "ne", "calibration", "poisson_deviance") if (v := report.get(name))
                }
                report["intervals"] = {name: [v * (1 - half), v * (1 + half)] for name, v in values.items()}
    return found


if __name__ == "__main__":
    from rich.console import Console

    from raymtl.daily.record import write_record
    from raymtl.daily.reports.day import write_day_report
    from raymtl.daily.reports.index import write_index
    from raymtl.daily.reports.table import day_table, verdict
    from raymtl.storage.object_store import Store

    store = Store.open(sys.argv[1])
    made = with_intervals(thirty_days())
    for n, one in enumerate(made):
        write_record(store, one)
        print(f"{store.path}/{folder(one.date)}", verdict(one))
        write_day_report(store, one, made[:n])
    print(write_index(store, made))
    Console(width=180).print(day_table(made))
