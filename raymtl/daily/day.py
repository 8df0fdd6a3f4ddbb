"""The state machine of one day: wait → check → evaluate → train → gate → write → publish → expire.

Every state saves its results in the day's record before the next one starts. So an interrupted job resumes with the same
command, a finished day is not repeated, and the record on the storage shows the current state.
"""

import datetime as dt
import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from raymtl.config.daily import Daily
from raymtl.config.roles import day_fields
from raymtl.config.root import Config
from raymtl.daily.calendar import ExcludedDays, choose_base, comparison_versions, known_versions
from raymtl.daily.data_drift import find_data_drift
from raymtl.daily.day_ends import DayEnds
from raymtl.daily.day_job import BASE, COMPARED, DayJob, day_job, session_config
from raymtl.daily.day_maps import DayMaps, make_day_maps
from raymtl.daily.fall import explain_fall
from raymtl.daily.gate import evaluate_gate, summary
from raymtl.daily.input_plan import DayPlans, plan_day
from raymtl.daily.ready import check_day, not_ready
from raymtl.daily.record import (
    FINAL,
    Comparison,
    DayStatistics,
    NextDay,
    Record,
    StateName,
    Status,
    Trained,
    Written,
    folder,
    read_record,
    recent_versions,
    recorded_days,
    write_record,
)
from raymtl.daily.reports.day import NAME as REPORT
from raymtl.daily.reports.write import write_reports
from raymtl.daily.tracking import add_end, add_results, track_day, untracked
from raymtl.daily.working_files import attempts, begin_attempt, remove_attempts
from raymtl.data.lakehouse.tables import with_snapshots
from raymtl.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LeaseLostError,
    StorageError,
    TryLaterError,
    UserError,
)
from raymtl.explaining.wording import found_causes
from raymtl.model_store import store as versions
from raymtl.model_store.commit_log import utc_now
from raymtl.model_store.lease import Lease
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.register import register_versions
from raymtl.objectives.metrics.changes import differences, reports_of
from raymtl.reports.facts import settings_of
from raymtl.storage.object_store import Store
from raymtl.telemetry.events import Listener
from raymtl.tracking.run_tracking import RunTracking, read_ids
from raymtl.training.cluster import connect
from raymtl.training.resources import ResourceGrant, reading_tasks
from raymtl.training.rundir import RunFolder
from raymtl.training.session import Session
from raymtl.training.start_lines import joining, starting_workers
from raymtl.training.steps import keep_batch_size, planned_steps, steps_line, too_few_steps, with_batch_size
from raymtl.words import count_of

_POLL_S = 30.0


@dataclass(frozen=True)
class DailyRequest:
    """The options of a command."""

    last: dt.date
    first: dt.date | None = None
    """Start with this day, whatever is published; None: after the current version's data."""
    force: bool = False
    """Redo days that are done."""
    ignore_bounds: bool = False
    """Train even if the data-drift check fails."""
    wait_s: float = 0.0
    """Maximum wait for a day's logs, and for another process that holds the lease."""


def section(config: Config) -> Daily:
    """The configuration of the daily job. Raises ConfigError if there is none."""
    if config.daily is None:
        raise ConfigError(
            "the configuration has no section `daily`; add at least daily.store, where versions are published"
        )
    return config.daily


def training_hash(config: Config) -> str:
    """Hash of the fields that determine how a day is trained."""
    return hashlib.sha256(json.dumps(day_fields(config), default=str).encode()).hexdigest()[:16]


class Day:
    """The state machine of one day."""

    def __init__(
        self,
        config: Config,
        store: Store,
        day: dt.date,
        request: DailyRequest,
        lease: Lease,
        session: Session,
        ends: DayEnds,
        address: str | None,
        on_event: Listener,
        restart: bool = False,
    ):
        """`session` has the workers; `restart`: start over, whatever the record says."""
        self.session = session
        self.ends = ends
        self.config, self.store, self.day, self.request = config, store, day, request
        self.lease, self.address, self.on_event = lease, address, on_event
        self.daily = section(config)
        self.listed = known_versions(store)
        self.base = choose_base(self.listed, day)
        self.chain = versions.chain(store, self.base) if self.base else []
        self.folder = folder(day)
        self.record = self._load_or_create_record(restart)
        self._since: float | None = None
        self._announced = ""
        self._tracking = untracked(self._run_folder)

    def _load_or_create_record(self, restart: bool) -> Record:
        """The record to resume from, or a new one if the day has none, or one of another parent version or configuration."""
        old = None if restart else read_record(self.store, self.day)
        if old is None:
            return self._new_record()
        if old.ended is None and (old.status in FINAL or self._is_published(old.version)):
            return old  # killed before its status was saved, or before the clean-up
        if old.status in FINAL:
            return self._new_record()
        if (old.parent, old.config_hash) != (self.base.id if self.base else None, training_hash(self.config)):
            self.on_event({"note": f"{self.day} restarts: the version it starts from or the configuration has changed"})
            return self._new_record()
        # Logs that were not ready or broken may have been repaired by a later snapshot
        snapshot = old.snapshot if old.status == "running" else None
        return old.model_copy(update={"status": "running", "reason": "", "ended": None, "snapshot": snapshot})

    def _new_record(self) -> Record:
        """The record of a new attempt, with an unused folder."""
        numbers = [name.removeprefix("run-") for name in attempts(self.store, self.day)]
        used = [int(number) for number in numbers if number.isdigit()]
        with suppress(StorageError):  # a damaged record
            old = read_record(self.store, self.day)
            used += [old.attempt] if old else []
        return Record(
            date=self.day,
            attempt=1 + max(used, default=0),
            config_hash=training_hash(self.config),
            parent=self.base.id if self.base else None,
            settings=settings_of(self.config.model_dump(mode="json")),
            started=utc_now().replace(microsecond=0),
        )

    @property
    def work(self) -> str:
        """Folder of the attempt: maps, measurements, the run with its checkpoints."""
        return f"{self.folder}/run-{self.record.attempt}"

    @property
    def _run_folder(self) -> RunFolder:
        """The same folder for the workers."""
        return RunFolder.open(self.store.path_of(self.work))

    def _track(self, config: Config) -> RunTracking:
        return track_day(config, self.record, self.store.path, self._run_folder, self._say)

    def _say(self, line: str) -> None:
        self.on_event({"note": line})

    def _is_published(self, version: str | None) -> bool:
        return any(v.id == version for v in self.listed)

    def run(self) -> Record:
        """Go through the remaining states, and return the record."""
        try:
            return self._run()
        except BaseException as error:
            self._tracking.close("failed" if isinstance(error, Exception) else "stopped")
            if not isinstance(error, Exception) or not self._store_is_gone():
                raise
            raise StorageError(
                f"the folder of store {self.store.path} was deleted while {self.day} was running; nothing was published. Restore "
                f"it from a backup and rerun the same command. Without a backup, the rerun trains a first version on "
                f"daily.bootstrap_days days"
            ) from error

    def _store_is_gone(self) -> bool:
        with suppress(StorageError):  # the storage does not answer; the error at hand says so
            return self.lease.was_deleted()
        return False

    def _run(self) -> Record:
        try:
            if self._is_published(self.record.version):
                self._note(status="published", reason="")
            elif self.record.status != "refused":
                start = f"version {self.record.parent}" if self.record.parent else "no version: it trains the first one"
                self.on_event({"note": f"{self.day}: starts from {start}"})
                if self.record.written is None or not self._is_written():
                    self._states()
                self._decide()
            if self.config.train.track.names and not self._tracking.is_on and read_ids(self._run_folder):
                self._tracking = self._track(self.config)  # trained by a command that was killed since
            self._enter("expire")
            self._explain_fall()
        except LeaseLostError:
            raise  # the record may be another process's by now
        except TryLaterError as error:
            self._end("not ready", str(error))
            raise
        except DataError as error:
            self._end("broken", str(error))
            remedy = "" if self.record.state == "wait" else "; or skip the day with daily.skip"
            raise DataError(f"{self.day}: {error}{remedy}") from error
        except UserError as error:
            if not self._store_is_gone():  # a record alone is not a store
                self._note(reason=str(error))
            raise
        self.ends.wait()  # of the day before, whose reports read what is removed now
        self._expire()
        return self.record

    def _states(self) -> None:
        self._enter("wait")
        begin_attempt(self.store, self.day)
        self._wait()
        excluded = ExcludedDays(self.store, self.daily, self.listed, self.base)
        plans = plan_day(self.config, self.day, self.base.data_end if self.base else None, excluded)
        if self.record.plan not in ("", plans.train.identity):
            self.on_event({"note": f"{self.day} restarts: its logs have changed"})
            self.record = self._new_record()
        self._note(plan=plans.train.identity, snapshot=self.config.data.snapshot)
        if not self.session.has_workers:
            self.on_event({"note": joining(self.address)})
        local = connect(self.config, self.address)
        grant = self.session.request(self.config, local, lambda line: self.on_event({"note": line}))
        try:
            self._check_and_train(plans, grant)
        except CheckpointError as error:  # of this attempt, so a new one loses nothing
            if self._store_is_gone():
                raise
            self._tracking.close("failed")
            self.on_event({"note": f"{self.day} restarts: {error}"})
            self.record = self._new_record()
            self._note(plan=plans.train.identity, snapshot=self.config.data.snapshot)
            self._check_and_train(plans, grant)

    def _check_and_train(self, plans: DayPlans, grant: ResourceGrant) -> None:
        self._enter("check")
        maps = self._check(plans)
        self._enter("evaluate")
        self._train(plans, maps, grant)

    # wait and check

    def _wait(self) -> None:
        waited = 0.0
        while reasons := self._reasons_to_wait():
            if waited >= self.request.wait_s:
                raise TryLaterError(
                    f"{self.day} is not ready: {reasons[0]}; rerun the same command later, or wait with --wait SECONDS"
                )
            time.sleep(min(_POLL_S, self.request.wait_s - waited))
            waited += _POLL_S

    def _reasons_to_wait(self) -> list[str]:
        """Why the day's logs are not complete yet; if they are a complete table, fixes the snapshot that the day reads.

        An interrupted day keeps its own as long as the table has it.
        """
        reasons: list[str] = []
        for snapshot in dict.fromkeys((self.record.snapshot, None)):
            data = self.config.data.model_copy(update={"snapshot": snapshot})
            try:
                config = with_snapshots(self.config.model_copy(update={"data": data}))
                reasons = not_ready(config, self.day, first=self.base is None)
            except DataError:
                if snapshot is None:
                    raise
                continue
            if not reasons:
                self.config = config
                break
        return reasons

    def _check(self, plans: DayPlans) -> DayMaps:
        """Check the day and its drift, record its statistics, and return its ID maps."""
        tasks = reading_tasks(self.config, self.config.train.workers if self.session.has_workers else 0)
        if self.record.stats is None:
            stats, problems = check_day(self.config, self.day, tasks)
            if problems:
                rest = (
                    f"; {count_of(len(problems) - 3, 'more problem')}: list all with `raymtl check --part train --set "
                    f"data.train.start={self.day} --set data.train.end={self.day}`"
                )
                raise DataError("; ".join(problems[:3]) + (rest if len(problems) > 3 else ""))
            self._note(stats=stats)
        maps = make_day_maps(
            self.config,
            self.store,
            f"{self.work}/maps",
            self.chain,
            plans.day_rows,
            tasks,
            lambda line: self.on_event({"note": line}),
        )
        assert self.record.stats is not None
        stats = self.record.stats
        if self.base is not None:
            new = {table: counts["new_share"] for table, counts in maps.stats.items()}
            stats = stats.model_copy(update={"new_ids": new})
        self._note(stats=stats, notes=plans.notes)
        if self.daily.bounds is not None:
            earlier = self._earlier_stats(self.daily.bounds.history_days)
            found = find_data_drift(stats, self.day, earlier, self.daily.bounds)
            if self.request.ignore_bounds:
                accepted = [f"--ignore-bounds accepted the day: {text}" for text in found.without_advice()]
                self._note(notes=[*self.record.notes, *accepted])
                return maps
            if found.broken:
                raise DataError("; ".join(found.broken))
            if found.incomplete:
                raise TryLaterError(f"{self.day} is not ready: {'; '.join(found.incomplete)}")
        return maps

    def _earlier_stats(self, most: int) -> dict[dt.date, DayStatistics]:
        found: dict[dt.date, DayStatistics] = {}
        for day in reversed([d for d in recorded_days(self.store) if d < self.day]):
            record = read_record(self.store, day)
            if record is not None and record.status == "published" and record.stats is not None:
                found[day] = record.stats
            if len(found) == most:
                break
        return found

    # evaluate, train, gate, write: one job of the workers

    def _train(self, plans: DayPlans, maps: DayMaps, grant: ResourceGrant) -> None:
        # A day keeps the batch size of the version it starts from (docs/adr/0028-default-rates-and-batches.md)
        kept = keep_batch_size(self.config, self.base.batch_size if self.base else None)
        user_config = with_batch_size(kept, plans.train.rows)
        self._note(settings=settings_of(user_config.model_dump(mode="json")))
        config = session_config(user_config, plans, self.day, self.store.path_of(self.folder), self.record)
        job, notes = day_job(user_config, config, self.store, self.listed, self.chain, plans, maps, grant, self.record)
        self._note(notes=[*self.record.notes, *notes])
        self.on_event({"total_rows": plans.train.rows * config.train.epochs})
        steps = planned_steps(config, plans.train, evaluates=False)
        self.on_event({"note": steps_line(config, plans.train.rows, steps)})
        if self.base is None and (advice := too_few_steps(config, steps)):
            self.on_event({"note": advice})
        if not self.session.has_workers:
            self.on_event({"note": starting_workers(config)})
        self._tracking = self._track(user_config)
        on_event = self._tracking.listener(self._on_worker_event)
        self._record_results(self.session.run(job, config, on_event), job, plans, maps)
        add_results(self._tracking, self.record)

    def _on_worker_event(self, item: dict[str, Any]) -> None:
        """An event of the workers."""
        if "state" not in item:
            self.on_event(item)
            return
        with suppress(UserError):  # state events may arrive late; the results are recorded at the end
            self._enter(item["state"])

    def _record_results(self, found: dict[str, Any], job: DayJob, plans: DayPlans, maps: DayMaps) -> None:
        """Record the results of the session."""
        measured, progress = found["measured"], found["progress"]
        next_day, compared, notes = [], {}, list(self.record.notes)
        for score in job.scores:
            result = measured.get(score.name, {})
            if "note" in result:
                notes.append(result["note"])
            elif score.name.startswith(COMPARED):
                compared[score.version] = result["metrics"]
            elif score.name != BASE:
                plan = job.inputs[score.name].plan
                day = dt.date.fromisoformat(plan.days[1])
                next_day.append(NextDay(day=day, version=score.version, rows=plan.rows, metrics=result["metrics"]))
        manifest = Manifest.model_validate(found["manifest"])
        candidate, base = found["candidate"], measured.get(BASE, {})
        gate = evaluate_gate(
            self.config,
            base.get("metrics"),
            candidate,
            found["norms"],
            found["not_finite"],
            holdout_rows=candidate.get("rows", 0),
            changes=differences(
                reports_of(base.get("metrics", {})),
                reports_of(candidate),
                base.get("group_effects", {}),
                found["group_effects"],
            ),
        )
        if gate.base is not None and self.base is not None:
            compared[self.base.id] = gate.base
        self._note(
            comparisons=[
                Comparison(
                    name=name, version=older.id, metrics={k: v for k, v in found_there.items() if k != "scenarios"}
                )
                for name, older in self._compared_versions().items()
                if (found_there := compared.get(older.id)) is not None
            ],
            next_day=sorted(next_day, key=lambda n: n.day, reverse=True),
            trained=Trained(
                rows=progress["rows"],
                held_out=plans.train.rows * job.config.train.epochs - progress["rows"],
                steps=progress["step"],
                days=plans.training_days,
                ids=maps.stats,
            ),
            gate=gate,
            work_seconds={"training": round(progress["train_seconds"], 3), "scoring": found["score_seconds"]},
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
            notes=notes + measured.get("notes", []),
        )

    def _compared_versions(self) -> dict[str, Manifest]:
        """Older versions by the name of their comparison."""
        if self.base is None or self.daily.compare_days_ago is None:
            return {}
        return comparison_versions(self.listed, self.base, self.day, self.daily.compare_days_ago)

    # publish and expire

    def _is_written(self) -> bool:
        """Whether the candidate that the record names still exists completely."""
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
            versions.publish(self.store, record.version, self.lease.check_held)
            self._end("published", "")
        else:
            self._end("refused", summary(record.gate))

    def _explain_fall(self) -> None:
        """Record which columns explain that a next-day metric has fallen."""
        if self.record.fall is None and self.base is not None:
            fall, notes = explain_fall(self.config, self.store, self.listed, self.base, self.record)
            self._note(fall=fall, notes=[*self.record.notes, *notes])
            for line in [*notes, *([found_causes(fall)] if fall else [])]:
                self.on_event({"note": f"{self.day}: {line}"})

    def _expire(self) -> None:
        """Remove old versions and the working files of training, and end the day; the next day retries what fails here."""
        try:
            keep = self.daily.keep
            first = [older.id for name, older in self._compared_versions().items() if name == "first"]
            versions.gc(
                self.store, keep, recent_versions(self.store, keep), self.lease.check_held, keep_published=first
            )
            remove_attempts(self.store, self.day)
        except LeaseLostError:
            raise
        except UserError as error:
            self.record.notes.append(f"clean-up failed: {error}")
        self._count_time()
        self.ends.start(self._report)

    def _report(self) -> None:
        """Write the reports, then record that the day has ended."""
        self.record.ended = utc_now().replace(microsecond=0)
        write_reports(self.store, self.record)
        if self._tracking.is_on:
            add_end(self._tracking, self.record, self.store.read_text(f"{self.folder}/{REPORT}"))
        register_versions(self.store, self._say)
        self.lease.check_held()
        write_record(self.store, self.record)

    # the record

    def _enter(self, state: StateName) -> None:
        """Save the state, and the time spent in the previous one."""
        self._count_time()
        self.lease.check_held()
        if state != self._announced:
            self._announced = state
            self.on_event({"state": state, "day": str(self.day)})
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

    def _end(self, status: Status, reason: str) -> None:
        """Save the result of the day; a published or refused day has ended after the clean-up."""
        if status in FINAL:
            self._note(status=status, reason=reason)
            return
        self._note(status=status, reason=reason, ended=utc_now().replace(microsecond=0))
        write_reports(self.store, self.record)
