"""The daily job from the driver's side: wait → check → evaluate → train → gate → publish → expire, for one day after the other.

Every state notes what it found in the day's record before the next one begins. So a job that is killed goes on with the same
command, a day that is done is done, and whoever looks at the storage sees where it stands.
"""

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raymtl.config.data import DayRange
from raymtl.config.load import config_hash
from raymtl.config.root import Config
from raymtl.daily import store as versions
from raymtl.daily.bounds import out_of_bounds
from raymtl.daily.calendar import choose_base, days_between, days_to_do, version_before
from raymtl.daily.day_maps import DayMaps, make_day_maps, version_maps
from raymtl.daily.delta import can_rest_on
from raymtl.daily.export import Draft
from raymtl.daily.gate import judge, summary
from raymtl.daily.inputs import DayPlans, held_out_input, plan_day, training_input
from raymtl.daily.lease import Lease, acquire
from raymtl.daily.log import utc_now
from raymtl.daily.manifest import Manifest, new_id
from raymtl.daily.ready import check_day, find_not_ready
from raymtl.daily.record import (
    Figures,
    NextDay,
    Record,
    StateName,
    Trained,
    Written,
    folder,
    read_record,
    recorded_days,
    write_record,
)
from raymtl.daily.reports.write import last_records, write_reports
from raymtl.daily.session import BASE, CANDIDATE, DayJob, Score, run_day_worker
from raymtl.daily.storage import Store, names, open_store, remove_folder
from raymtl.data.read import Input
from raymtl.data.sample import sample_base_rates
from raymtl.errors import ConfigError, DataError, RefusedError, StorageError, TryLaterError, UserError
from raymtl.training.cluster import check_room, connect, reading_tasks
from raymtl.training.run import fit

Listener = Callable[[dict[str, Any]], None]
_POLL_S = 30.0


@dataclass(frozen=True)
class Order:
    """What a command asks for."""

    last: dt.date
    first: dt.date | None = None
    """Begin here, whatever is published; None: after the current version's data."""
    force: bool = False
    """Do days again that are done."""
    ignore_bounds: bool = False
    """Train though the day's figures are not those of the days before."""
    wait_s: float = 0.0
    """Wait so long for a day's logs, and for another process that holds the lease."""


def run_daily(config: Config, order: Order, *, address: str | None, listener: Listener) -> list[Record]:
    """Do what is to be done up to the last day; returns the records of the days asked for.

    Raises RefusedError where the last day's candidate was refused, TryLaterError where a day is not there yet, and other
    UserErrors for anything else that ended it.
    """
    daily = _daily_of(config)
    store = open_store(daily.store)
    if order.first is None and not order.force and (done := _finished(store, order.last)) is not None:
        listener({"note": f"{order.last} is done already: {done.reason or f'version {done.version}'}"})
        return _ended([done])
    with acquire(store, f"daily {order.last}", wait_s=order.wait_s) as lease:
        for day in _published_without_note(store):
            _Day(config, store, day, order, lease, address, listener).run()
        todo = days_to_do(store, daily, order.last)
        if order.first is not None or order.force:
            todo = days_between(daily, order.first or order.last, order.last)
        for note in todo.notes:
            listener({"note": note})
        records = []
        for day in todo.days:
            done = None if order.force else _finished(store, day)
            if done is not None:
                listener({"note": f"{day} is done already: {done.reason or f'version {done.version}'}"})
            records.append(done or _Day(config, store, day, order, lease, address, listener).run())
    return _ended(records)


def look_ahead(config: Config, order: Order) -> list[dict[str, Any]]:
    """What `run_daily` would do, day by day: base, whether the logs are there, and why a day is left out."""
    daily = _daily_of(config)
    store = open_store(daily.store)
    explicit = order.first is not None or order.force
    todo = (
        days_between(daily, order.first or order.last, order.last) if explicit else days_to_do(store, daily, order.last)
    )
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


def _daily_of(config: Config) -> Any:
    if config.daily is None:
        raise ConfigError(
            "the configuration has no section `daily`; add at least daily.store, where versions are published"
        )
    return config.daily


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


class _Day:
    """One day's way through the states."""

    def __init__(
        self,
        config: Config,
        store: Store,
        day: dt.date,
        order: Order,
        lease: Lease,
        address: str | None,
        listener: Listener,
    ):
        self.config, self.store, self.day, self.order = config, store, day, order
        self.lease, self.address, self.tell = lease, address, listener
        self.daily = _daily_of(config)
        self.listed = versions.list_versions(store)
        self.base = choose_base(self.listed, day)
        self.chain = versions.chain(store, self.base) if self.base else []
        self.record = self._begun()
        self.folder = folder(day)
        self._since: float | None = None

    def _begun(self) -> Record:
        """The record to go on with, or a new one where the day was not begun, or from another version or configuration."""
        old, digest = read_record(self.store, self.day), config_hash(self.config)
        base = self.base.id if self.base else None
        fresh = self._fresh(old.attempt + 1 if old else 1)
        if old is None:
            return fresh
        if old.version is not None and old.status == "running" and self._is_published(old.version):
            return old  # killed between the publication and its note
        if old.status in ("published", "refused") or (old.base, old.config_hash) != (base, digest):
            if old.status not in ("published", "refused"):
                self.tell(
                    {"note": f"{self.day} begins anew: the version before or the configuration is another one now"}
                )
            return fresh
        return old.model_copy(update={"status": "running", "reason": "", "ended": None})

    def _fresh(self, attempt: int) -> Record:
        return Record(
            date=self.day,
            attempt=attempt,
            config_hash=config_hash(self.config),
            base=self.base.id if self.base else None,
            begun=utc_now().replace(microsecond=0),
        )

    @property
    def work(self) -> str:
        """Folder of the attempt: maps, what was measured, the run with its checkpoints."""
        return f"{self.folder}/run-{self.record.attempt}"

    def _is_published(self, version: str) -> bool:
        return any(v.id == version for v in self.listed)

    def run(self) -> Record:
        begins = f"version {self.record.base}" if self.record.base else "nothing: it is the first one"
        self.tell({"note": f"{self.day}: begins with {begins}"})
        try:
            if self.record.version is None or not self._is_published(self.record.version):
                if self.record.written is None or not self._is_written():
                    self._states()
                self._decide()
            else:
                self.record.status = "published"
            self._enter("expire")
            self._expire()
        except TryLaterError as error:
            self._end("not ready", str(error))
            raise
        except DataError as error:
            self._end("broken", str(error))
            raise DataError(f"{self.day}: {error}; or leave the day out with daily.skip") from error
        except UserError as error:
            self._note(reason=str(error))
            raise
        return self.record

    def _states(self) -> None:
        self._enter("wait")
        self._wait()
        left_out = _LeftOut(self.store, self.daily)
        plans = plan_day(self.config, self.day, self.base.data_end if self.base else None, left_out)
        if self.record.plan not in ("", plans.train.identity):
            self.tell({"note": f"{self.day} begins anew: its logs were written again"})
            self.record = self._fresh(self.record.attempt + 1)
        self._note(plan=plans.train.identity)
        local = connect(self.config, self.address)
        self._enter("check")
        maps = self._check(plans)
        self._enter("evaluate")
        self._train(plans, maps, local)

    # wait and check

    def _wait(self) -> None:
        days = [self.day]
        if self.base is None:
            first = self.day - dt.timedelta(days=self.daily.bootstrap_days - 1)
            days = [d for d in DayRange(start=first, end=self.day).days() if d not in self.daily.skip]
        waited = 0.0
        while reasons := [r for d in days if (r := find_not_ready(self.config, d))]:
            if waited >= self.order.wait_s:
                raise TryLaterError(f"{self.day} is not ready: {reasons[0]}")
            time.sleep(min(_POLL_S, self.order.wait_s - waited))
            waited += _POLL_S

    def _check(self, plans: DayPlans) -> DayMaps:
        """Figures of the day, what is odd about them, and its ID maps."""
        tasks = reading_tasks(self.config, workers=0)
        if self.record.figures is None:
            figures, problems = check_day(self.config, self.day, tasks)
            if problems:
                raise DataError(
                    "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
                )
            self._note(figures=figures)
        maps = make_day_maps(
            self.config,
            self.store,
            f"{self.work}/maps",
            self.chain,
            plans.own,
            tasks,
            lambda line: self.tell({"note": line}),
        )
        assert self.record.figures is not None
        figures = self.record.figures
        if self.base is not None:
            new = {table: found["new_share"] for table, found in maps.facts.items()}
            figures = figures.model_copy(update={"new_ids": new})
        self._note(figures=figures, notes=plans.notes)
        if self.daily.bounds is not None and not self.order.ignore_bounds:
            found = out_of_bounds(figures, self.day, self._earlier_figures(), self.daily.bounds)
            if found.broken:
                raise DataError("; ".join(found.broken))
            if found.late:
                raise TryLaterError(f"{self.day} is not ready: {'; '.join(found.late)}")
        return maps

    def _earlier_figures(self) -> dict[dt.date, Figures]:
        found: dict[dt.date, Figures] = {}
        for day in reversed([d for d in recorded_days(self.store) if d < self.day]):
            record = read_record(self.store, day)
            if record is not None and record.status == "published" and record.figures is not None:
                found[day] = record.figures
            if len(found) == self.daily.bounds.history_days:
                break
        return found

    # evaluate, train, gate: one session of the workers

    def _train(self, plans: DayPlans, maps: DayMaps, local: bool) -> None:
        config = self._session_config(plans)
        room = check_room(config, local)
        inputs = {
            "train": training_input(plans, config, self.day, maps.after),
            CANDIDATE: held_out_input(plans, config, self.day, maps.after),
        }
        scores = self._scores(plans, maps, inputs)
        delta = (
            self.base is not None and len(self.chain) < self.daily.full_every and can_rest_on(self.base, self.config)
        )
        rates = self.base.base_rates if self.base else sample_base_rates(config, plans.own)
        draft = Draft(
            new_id(self.day),
            self.config,
            {"train": [plans.own.days[0], plans.own.days[1]]},
            parent=self.record.base,
            base_rates=rates,
        )
        job = DayJob(
            config,
            inputs,
            {name: rates.get(name, 0.5) for name in config.active_tasks()},
            f"{config.output}/{config.name}",
            None,
            room.read_tasks,
            room.threads,
            self.record.config_hash,
            store=self.store.path,
            notebook=f"{self.work}/measured.json",
            scores=scores,
            base=self.record.base,
            base_maps=maps.before,
            delta=delta,
            accumulator_decay=self.daily.accumulator_decay if self.base else 1.0,
            train_dense=self.base is None or self.daily.dense_lr_factor > 0,
            draft=draft,
        )
        self.tell({"total_rows": inputs["train"].plan.rows * config.train.passes})
        summary_ = fit(run_day_worker, job, room, config, self._heard)
        self._learned(summary_, plans, maps, scores, inputs)

    def _session_config(self, plans: DayPlans) -> Config:
        """The configuration that the workers run: the user's, with what the day changes."""
        config, train = self.config, self.config.train
        changes: dict[str, Any] = {"eval_every_units": None, "early_stop": None, "select": train.select}
        if self.base is not None:
            factor = self.daily.dense_lr_factor or 1.0
            dense = train.dense_optimizer.model_copy(update={"lr": train.dense_optimizer.lr * factor})
            changes |= {"passes": 1, "schedule": self.daily.schedule, "dense_optimizer": dense}
        days = DayRange(start=dt.date.fromisoformat(plans.train.days[0]), end=self.day)
        data = config.data.model_copy(update={"train": days, "eval": None, "eval_path": None})
        return config.model_copy(
            update={
                "train": train.model_copy(update=changes),
                "data": data,
                "output": f"{self.store.path}/{self.folder}",
                "name": f"run-{self.record.attempt}",
            }
        )

    def _scores(self, plans: DayPlans, maps: DayMaps, inputs: dict[str, Input]) -> list[Score]:
        """The versions to score before training, and their inputs; those of the base last."""
        if self.base is None:
            return []
        scores = []
        for delay in sorted(plans.next_day, reverse=True):
            scored = version_before(self.listed, self.day - dt.timedelta(days=delay)) if delay else self.base
            if scored is None:
                self._note(
                    notes=[*self.record.notes, f"the version that could be scored on labels {delay} days old is gone"]
                )
                continue
            before = maps.before
            if scored.id != self.base.id:
                chain = versions.chain(self.store, scored)
                before = version_maps(self.store, chain, self.config, f"{self.work}/maps", f"before-{delay}")
            if set(before) != set(self.config.map_tables()):
                continue
            inputs[f"next day {delay}"] = Input(plans.next_day[delay], True, before)
            scores.append(Score(f"next day {delay}", scored.id))
        inputs[BASE] = held_out_input(plans, self.config, self.day, maps.before)
        return [*scores, Score(BASE, self.base.id)]

    def _heard(self, item: dict[str, Any]) -> None:
        """A line of the workers."""
        if "state" in item:
            self._enter(item["state"])
        else:
            self.tell(item)

    def _learned(
        self, found: dict[str, Any], plans: DayPlans, maps: DayMaps, scores: list[Score], inputs: dict[str, Input]
    ) -> None:
        """Note what the session found."""
        measured, progress = found["measured"], found["progress"]
        next_day, notes = [], list(self.record.notes)
        for score in scores:
            result = measured.get(score.name, {})
            if "note" in result:
                notes.append(result["note"])
            elif score.name != BASE:
                plan = inputs[score.name].plan
                day = dt.date.fromisoformat(plan.days[1])
                next_day.append(NextDay(day=day, version=score.version, rows=plan.rows, metrics=result["metrics"]))
        manifest = Manifest.model_validate(found["manifest"])
        candidate = found["candidate"]
        passes = 1 if self.base else self.config.train.passes
        gate = judge(
            self.config,
            measured.get(BASE, {}).get("metrics"),
            candidate,
            found["norms"],
            found["not_finite"],
            holdout_rows=candidate.get("rows", 0),
        )
        self._note(
            next_day=sorted(next_day, key=lambda n: n.day, reverse=True),
            trained=Trained(
                rows=progress["rows"],
                held_out=plans.train.rows * passes - progress["rows"],
                steps=progress["step"],
                days=plans.days,
                ids=maps.facts,
            ),
            gate=gate,
            version=manifest.id,
            written=Written(
                kind="delta" if manifest.base else "full",
                bytes=manifest.total_bytes,
                rows={name: sum(f.rows or 0 for f in table.files) for name, table in manifest.tables.items()},
                expired={
                    f.path.split("/")[1].removesuffix(".parquet"): f.rows or 0
                    for f in manifest.files
                    if f.path.startswith("expired/")
                },
            ),
            notes=notes + measured.get("said", []),
        )

    # publish and expire

    def _is_written(self) -> bool:
        """Whether the candidate that the record names is still there whole."""
        assert self.record.version is not None
        try:
            versions.read_unpublished(self.store, self.record.version)
        except UserError:
            return False
        return True

    def _decide(self) -> None:
        record = self.record
        assert record.gate is not None
        assert record.version is not None
        self._enter("publish")
        if record.gate.passed:
            versions.publish(self.store, record.version, self.lease.held)
            self._end("published", "")
        else:
            self._end("refused", summary(record.gate))

    def _expire(self) -> None:
        """Remove old versions, what is left of the training, and write the reports; what fails here is tried again tomorrow."""
        spare = [r.version for d in recorded_days(self.store) if (r := read_record(self.store, d)) and r.version]
        try:
            versions.gc(self.store, self.daily.keep, spare[-self.daily.keep :], self.lease.held)
            for name in names(self.store, self.folder):
                if name.startswith("run-"):
                    remove_folder(self.store, f"{self.folder}/{name}")
        except StorageError as error:
            self._note(notes=[*self.record.notes, f"not tidied up: {error}"])
        self._count_time()
        write_record(self.store, self.record)
        write_reports(self.store, self.record)

    # the record

    def _enter(self, state: StateName) -> None:
        """Note the state, and the time spent in the one before."""
        self._count_time()
        self.tell({"state": state, "day": str(self.day)})
        self._note(state=state)

    def _count_time(self) -> None:
        now, state, spent = time.monotonic(), self.record.state, self.record.seconds
        if self._since is not None:
            spent[state] = round(spent.get(state, 0.0) + now - self._since, 3)
        self._since = now

    def _note(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.record, name, value)
        write_record(self.store, self.record)

    def _end(self, status: str, reason: str) -> None:
        self._note(status=status, reason=reason, ended=utc_now().replace(microsecond=0))
        if status != "published":
            write_reports(self.store, self.record)


class _LeftOut:
    """The days that no version was trained on, each looked up once."""

    def __init__(self, store: Store, daily: Any):
        self._store, self._daily, self._known = store, daily, {}  # type: ignore[var-annotated]

    def __contains__(self, day: object) -> bool:
        assert isinstance(day, dt.date)
        if day not in self._known:
            record = read_record(self._store, day)
            refused = record is not None and record.status == "refused"
            self._known[day] = day in self._daily.skip or refused
        return self._known[day]
