"""The workers' part of one day: score the previous versions, train, score the candidate, and write it.

One job does all of it, so that the model is built only once. After a crash the job starts again: saved scores are not repeated,
and training resumes from its last checkpoint.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raymtl.daily.day_job import BASE, CANDIDATE, NEXT_DAY, DayJob
from raymtl.data.ids.id_map import IdMap, MapFile
from raymtl.embeddings.rows import TableRows, decay_state, reset_rows, table_rows, weight_square_sum
from raymtl.errors import VersionError
from raymtl.model_store.draft import Draft
from raymtl.model_store.loader import check_fits, load_version
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.row_ids import changed_map_rows, evicted_ids, reassigned_rows
from raymtl.model_store.store import show
from raymtl.model_store.writer import Delta, dense_weights, write_version
from raymtl.storage.object_store import Store
from raymtl.training.build import TrainState, build
from raymtl.training.distributed import all_gather_or_raise
from raymtl.training.driver import metrics_section
from raymtl.training.progress import Progress
from raymtl.training.row_tracker import TouchedRowTracker
from raymtl.training.shapes import model_entries
from raymtl.training.trainer import Trainer
from raymtl.training.worker import Saver, WorkerProcess, built_facts, open_log, restore, start_vectors, total_steps
from raymtl.words import count_of


def run_day(job: DayJob, process: WorkerProcess) -> dict[str, Any]:
    """Score, train and write a day."""
    return _DailyWorker(job, process).run()


class _DailyWorker:
    def __init__(self, job: DayJob, process: WorkerProcess):
        self.job, self.rank = job, process.rank
        self.worker, self.group = process.worker(job), process.save_group
        assert job.store is not None
        self.store = job.store
        self.measurements = _MeasurementLog(self.store, job.measurements_file, self.rank, self.group)

    def run(self) -> dict[str, Any]:
        job, config = self.job, self.job.config
        self._check_model()
        train_state = build(config, job.base_rates, total_steps(job), self.worker.device, self.worker.group)
        if not job.train_dense:
            train_state.optimizers.freeze_dense()
        row_tracker = TouchedRowTracker(config)
        progress = restore(job, train_state, self.group, row_tracker.load)
        resumed = progress.step > 0 or progress.finished
        progress.starts += 1
        log = open_log(job, progress, self.group)
        try:
            saver = Saver(
                job, train_state, progress, log, self.group, lambda folder: row_tracker.save(folder, self.rank)
            )
            trainer = Trainer(self.worker, config, train_state, job.inputs, progress, log, saver, row_tracker.add)
            if not resumed:
                self._enter("evaluate")
                self._score_previous_versions_and_load_base(train_state, trainer)
            elif log is not None:
                log.notify(note=f"resuming from step {progress.step}, {count_of(progress.rows, 'row')} trained")
            self._enter("train")
            if not progress.finished:
                with saver:
                    trainer.run()
            self._enter("gate")
            trainer.calibrate(job.inputs[CANDIDATE])
            candidate = trainer.measure(job.inputs[CANDIDATE])
            health = self._health(train_state)
            self._enter("write")
            manifest = self._write(train_state, progress, row_tracker, candidate)
        finally:
            if log is not None:
                log.close()
        return {
            "progress": vars(progress),
            "score_seconds": round(trainer.score_seconds, 3),
            "candidate": metrics_section(candidate),
            "group_effects": candidate["group_effects"],
            "norms": {name: (self.measurements.get("norms", {}).get(name), norm) for name, norm in health[0].items()},
            "not_finite": health[1],
            "measured": self.measurements.all(),
            "manifest": manifest.model_dump(mode="json"),
            **built_facts(train_state, trainer),
        }

    def _check_model(self) -> None:
        """Raise what a slot refuses, and VersionError if the model cannot start from the base, before any memory is taken."""
        job = self.job

        def check() -> None:
            if job.base is None:
                model_entries(job.config)
            elif self.rank == 0:
                check_fits(job.config, self.store, show(self.store, job.base))

        all_gather_or_raise(self.group, check)

    def _enter(self, state: str) -> None:
        """Report the session's state to the driver."""
        if self.rank == 0 and self.job.event_queue is not None:
            self.job.event_queue.put.remote({"state": state})

    def _score_previous_versions_and_load_base(self, train_state: TrainState, trainer: Trainer) -> None:
        """Score the previous versions, then load the base and reset the rows whose ID changed."""
        job, loaded = self.job, ""
        for score in job.scores:
            if self.measurements.has(score.name):
                continue
            try:
                loaded = loaded if loaded == score.version else self._load_version(train_state, score.version)
            except VersionError as error:
                if score.version == job.base:
                    raise
                self.measurements.put(score.name, {"note": f"version {score.version} could not be scored: {error}"})
                continue
            found = trainer.measure(job.inputs[score.name], unseen=score.name.startswith(NEXT_DAY))
            effects = {"group_effects": found["group_effects"]} if score.name == BASE else {}
            self.measurements.put(score.name, {"metrics": metrics_section(found), **effects})
        self._set_next_day_gauges()
        if job.base is None:
            self._start_vectors(train_state, None)
            return
        if loaded != job.base:
            self._load_version(train_state, job.base)
        tables = table_rows(train_state.model, self.group)
        if not self.measurements.has("norms"):
            self.measurements.put("norms", self._norms(tables)[0])
        manifest: Manifest = all_gather_or_raise(
            self.group, lambda: show(self.store, job.base) if self.rank == 0 else None
        )[0]
        fresh: dict[str, np.ndarray | None] = {name: None for name in tables if name not in manifest.tables}
        for name, table in tables.items():
            if job.accumulator_decay != 1:
                decay_state(table, job.accumulator_decay)
            if name in job.maps:
                pair = (job.base_maps[name], job.maps[name])
                before, after = self._loaded(pair)
                rows = reassigned_rows(before, after)
                reset_rows(table, rows, job.config.tables[name].init, job.config.train.seed)
                fresh.setdefault(name, rows)
            elif name not in fresh and job.config.tables[name].id_space == "direct":  # it may have grown
                fresh[name] = np.arange(manifest.tables[name].rows, table.rows)
        self._start_vectors(train_state, fresh)

    def _start_vectors(self, train_state: TrainState, only: Mapping[str, np.ndarray | None] | None) -> None:
        """Fill the rows that start from a file."""
        for note in start_vectors(self.job, train_state, self.group, only):
            if self.rank == 0 and self.job.event_queue is not None:
                self.job.event_queue.put.remote({"note": note})

    def _set_next_day_gauges(self) -> None:
        """Set before training: Ray drops the gauges of a process that has ended."""
        for score in self.job.scores:
            delay = score.name.removeprefix(f"{NEXT_DAY} ")
            if self.rank or delay == score.name:
                continue
            for task, found in self.measurements.get(score.name, {}).get("metrics", {}).get("eval", {}).items():
                self.worker.gauges.set("next_day_auc_ratio", found.get("auc"), task=task, delay_days=delay)

    def _load_version(self, train_state: TrainState, version: str) -> str:
        """Fill the model from a version, and the optimizers if training starts from it."""
        is_base = version == self.job.base
        restored = load_version(train_state, self.job.config, self.store, version, self.group, optimizer=is_base)
        if is_base:
            self.measurements.put("notes", restored.notes)
        return version

    def _health(self, train_state: TrainState) -> tuple[dict[str, float], dict[str, int]]:
        """Root mean square of each table, and the count of non-finite numbers by table and dense weight."""
        norms, wrong = self._norms(table_rows(train_state.model, self.group))
        for name, value in dense_weights(train_state).items():
            if value.is_floating_point() and (count := int((~torch.isfinite(value)).sum())):
                wrong[name] = count
        return norms, wrong

    def _norms(self, tables: Mapping[str, TableRows]) -> tuple[dict[str, float], dict[str, int]]:
        sums = torch.zeros(len(tables), 2, dtype=torch.float64)
        for n, table in enumerate(tables.values()):
            sums[n] = torch.tensor(weight_square_sum(table), dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        norms, wrong = {}, {}
        for (name, table), (squares, count) in zip(tables.items(), sums.tolist(), strict=True):
            norms[name] = math.sqrt(squares / (table.rows * table.dim)) if math.isfinite(squares) else squares
            if count:
                wrong[name] = int(count)
        return norms, wrong

    def _write(
        self, train_state: TrainState, progress: Progress, row_tracker: TouchedRowTracker, candidate: dict[str, Any]
    ) -> Any:
        job = self.job
        assert job.draft is not None
        maps = dict(zip(job.maps, self._loaded(job.maps.values()), strict=True))
        delta = None
        if job.delta:
            assert job.base is not None
            before = dict(zip(job.base_maps, self._loaded(job.base_maps.values()), strict=True))
            delta = Delta(
                job.base,
                self._changed(row_tracker, before, maps),
                {name: evicted_ids(before[name], after) for name, after in maps.items()},
                job.accumulator_decay,
            )
        draft = Draft(
            **{
                **vars(job.draft),
                "counts": {"rows": progress.rows, "steps": progress.step},
                "metrics": metrics_section(candidate),
            }
        )
        return write_version(train_state, self.store, draft, self.group, maps=maps, delta=delta)

    def _loaded(self, files: Iterable[MapFile]) -> list[IdMap]:
        """The maps, read by every worker; if one worker fails, all stop."""
        found: list[IdMap] = []
        all_gather_or_raise(self.group, lambda: found.extend(file.load() for file in files))
        return found

    def _changed(
        self, row_tracker: TouchedRowTracker, before: Mapping[str, IdMap], after: Mapping[str, IdMap]
    ) -> dict[str, np.ndarray]:
        """Rows that training looked up, and on the first worker those whose ID, count or day changed."""
        rows = row_tracker.rows()
        if self.rank == 0:
            for name, new in after.items():
                rows[name] = np.union1d(rows[name], changed_map_rows(before[name], new))
        return rows


class _MeasurementLog:
    """The measurements made before training, saved as soon as they are known; the same on all workers."""

    def __init__(self, store: Store, name: str, rank: int, group: dist.ProcessGroup):
        self._store, self._name, self._rank, self._group = store, name, rank, group
        self._values: dict[str, Any] = all_gather_or_raise(group, lambda: self._read() if rank == 0 else None)[0]

    def has(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any) -> Any:
        return self._values.get(key, default)

    def all(self) -> dict[str, Any]:
        return dict(self._values)

    def put(self, key: str, value: Any) -> None:
        """Store a value that is equal on all workers; a collective call."""
        self._values[key] = value
        all_gather_or_raise(self._group, lambda: self._save() if self._rank == 0 else None)

    def _save(self) -> None:
        self._store.write(self._name, json.dumps(self._values))

    def _read(self) -> dict[str, Any]:
        data = self._store.read(self._name)
        return json.loads(data) if data else {}
