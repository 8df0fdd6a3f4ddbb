"""The logic of a search: which trial comes next, the status of one that reports, and which is the best."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from raymtl.config.root import Config
from raymtl.config.tune import Grid, Tune
from raymtl.errors import ConfigError
from raymtl.telemetry.events import Listener
from raymtl.tuning import sampler
from raymtl.tuning.objective import ObjectiveEvaluator, front
from raymtl.tuning.space import Params, Space
from raymtl.tuning.trial_store import Kind, Trial, TrialStore
from raymtl.words import count_of

SEARCHED: tuple[Kind, ...] = ("default", "structure", "search")
"""Kinds of trials that count as trials of the search; the rest are repeats."""


class SearchFinished(Exception):
    """There is no trial left to run."""


class Search:
    """Chooses the next trial and receives every report; the trial records are saved before each call returns."""

    def __init__(
        self,
        config: Config,
        space: Space,
        trial_store: TrialStore,
        total_rows: int,
        on_event: Listener,
        searched_s: float = 0.0,
    ):
        """`total_rows` are those of a complete trial, `searched_s` the seconds of search in earlier starts."""
        assert config.tune is not None
        self.config, self.space, self.trial_store, self._total_rows = config, space, trial_store, total_rows
        self.tune: Tune = config.tune
        self.evaluator = ObjectiveEvaluator(self.tune.objective)
        self._on_event = on_event
        self._live: set[int] = set()
        self.outage: str | None = None
        """The storage error of a trial, if any: no new trial starts, and this trial can be resumed."""
        self._started, self._searched_before = time.monotonic(), searched_s
        self._grid = space.grid() if isinstance(self.tune.sampler, Grid) else None

    @property
    def searched_s(self) -> float:
        """Seconds of searching, over all starts."""
        return self._searched_before + time.monotonic() - self._started

    # What comes next

    def next(self) -> Trial | None:
        """The next trial, its record written; None: none until a running trial has ended. Raises SearchFinished."""
        while True:
            trial = self._next()
            if trial is None or trial.status == "running":
                if trial is not None:
                    trial.starts += 1
                    self._live.add(trial.number)
                    self.trial_store.save(trial)
                    self._emit(trial)
                return trial

    def _next(self) -> Trial | None:
        if self.outage is not None or self.default_failed is not None:
            raise SearchFinished
        waiting = [t for t in self.trial_store.trials.values() if not t.ended and t.number not in self._live]
        if waiting:  # still running when an earlier start of the command ended
            return waiting[0]
        searched = self.trial_store.of_kind(*SEARCHED)
        if not searched:
            return self._add("default", self.space.default() or {}, {})
        if self._may_search(len(searched)):
            structures = self.tune.structure_trials
            if structures and len(searched) < structures:
                return self._sample("structure", searched, lambda dimension: not dimension.couples, {})
            if structures:
                if self._running("default", "structure"):
                    return None
                best = self.best(self.trial_store.of_kind("default", "structure"))
                couples = {dimension.name for dimension in self.space.dimensions if dimension.couples}
                fixed = {k: v for k, v in (best.params if best else {}).items() if k not in couples}
                return self._sample("search", searched, lambda dimension: dimension.couples, fixed)
            if self._grid is None:
                return self._sample("search", searched, lambda dimension: True, {})
            tried = [t.params for t in searched]
            if left := [point for point in self._grid if point not in tried]:
                return self._add("search", left[0], {})
        if self._running(*SEARCHED):
            return None
        return self._repeat()

    @property
    def default_failed(self) -> str | None:
        """Why the default configuration cannot be trained, so every trial would fail."""
        default = self.trial_store.default
        return default.reason if default is not None and default.status == "failed" else None

    def is_over(self) -> bool:
        """Whether every trial has ended and no more would start."""
        searched = self.trial_store.of_kind(*SEARCHED)
        if not searched or self._running(*SEARCHED, "repeat"):
            return False
        if self.default_failed is not None:
            return True
        left = self._grid is None or any(point not in [t.params for t in searched] for point in self._grid)
        return not (left and self._may_search(len(searched))) and self._repeats_left() is None

    def _may_search(self, trials: int) -> bool:
        budget = self.tune.time_budget_s
        return trials < self.tune.max_trials and (budget is None or self.searched_s < budget)

    def _running(self, *kinds: Kind) -> bool:
        return any(not t.ended for t in self.trial_store.of_kind(*kinds))

    def _sample(self, kind: Kind, trials: list[Trial], takes: Callable[[Any], bool], fixed: Params) -> Trial:
        dimensions = [dimension for dimension in self.space.dimensions if takes(dimension)]
        params, state = sampler.sample(self.space, dimensions, fixed, self.tune, trials, self.trial_store.next_number())
        return self._add(kind, params, state)

    def _repeat(self) -> Trial:
        left = self._repeats_left()
        if left is None:
            raise SearchFinished
        trial, seed = left
        return self._add("repeat", trial.params, {}, seed, trial.number)

    def _repeats_left(self) -> tuple[Trial, int] | None:
        """The default and the best trial in turn, each with a new seed."""
        default, best = self.trial_store.default, self.best(self.trial_store.of_kind(*SEARCHED))
        if default is None or best is None or best is default or default.metrics is None:
            return None
        done = {(t.of, t.seed) for t in self.trial_store.of_kind("repeat")}
        for n in range(1, self.tune.repeats + 1):
            for trial in (default, best):
                if (trial.number, trial.seed + n) not in done:
                    return trial, trial.seed + n
        return None

    def _add(
        self, kind: Kind, params: Params, noted: dict[str, Any], seed: int | None = None, of: int | None = None
    ) -> Trial:
        number = self.trial_store.next_number()
        default = self.trial_store.default
        own = {} if default is None or of == default.number else params
        trial = Trial(
            number,
            kind,
            params,
            self.space.fields(own),
            {},
            self.config.train.seed if seed is None else seed,
            of,
            sampler=noted,
        )
        try:
            trial.config = self.space.config(own, seed).model_dump(mode="json")
        except ConfigError as error:
            trial.status, trial.reason = "failed", f"invalid combination of values: {error}"
        self.trial_store.add(trial)
        if trial.ended:
            self._emit(trial)
        return trial

    # What becomes of a trial

    def reported(self, report: dict[str, Any]) -> None:
        """Save what a trial reported, and whether it must stop: it reads that in its record."""
        trial = self.trial_store.trials[report["number"]]
        if start := report.get("start"):
            trial.start_seconds += start["seconds"]
            trial.from_scratch += start["from_row"] == 0
            trial.processes.append(start["process"])
        trial.rows = report.get("rows", trial.rows)
        trial.train_seconds = report.get("train_seconds", trial.train_seconds)
        evaluation = report.get("evaluation")
        behind = False
        if evaluation is not None and all(e["rows"] != evaluation["rows"] for e in trial.history):
            trial.history.append(evaluation)
            trial.rows = evaluation["rows"]
            if trial.kind in ("structure", "search") and trial.rows < self._total_rows:
                behind = sampler.should_prune(self.tune, list(self.trial_store.trials.values()), trial)
        if "outage" in report:
            self.outage = report["outage"]
        elif trial.ended:
            pass  # already stopped; this report only adds its cost
        elif "failed" in report:
            trial.status, trial.reason = "failed", report["failed"]
        elif behind:
            trial.status, trial.reason = "stopped", f"behind the others after {count_of(trial.rows, 'row')}"
        elif report.get("ended"):
            trial.status = "finished"
            if trial.metrics is None or self.evaluator.values(trial.metrics) is None:
                trial.status, trial.reason = "failed", "the objective is null on its evaluation rows"
        self.trial_store.save(trial)
        self._emit(trial)

    def ended(self, number: int, crashed: bool) -> None:
        """Ray Tune reports that the trial's process has ended."""
        trial = self.trial_store.trials[number]
        self._live.discard(number)
        if not trial.ended and self.outage is None:
            trial.status = "failed"
            trial.reason = "its process died twice" if crashed else "it ended without a last report"
            self.trial_store.save(trial)
            self._emit(trial)

    def _emit(self, trial: Trial) -> None:
        self._on_event({"trial": trial})

    # What came of it

    def best(self, trials: list[Trial]) -> Trial | None:
        """The trial to recommend: among finished trials that meet the limits, the one with the highest objective; with several
        objectives, the one on the front with the highest sum, each scaled by its standard deviation over the trials."""
        found = self.candidates(trials)
        if not found:
            return next((t for t in trials if t.kind == "default" and t.status == "finished"), None)
        points = {t.number: self.evaluator.values(t.metrics) or [] for t in found}
        if len(self.evaluator.names) == 1:
            return max(found, key=lambda t: (points[t.number][0], -t.number))
        on_front = front(points)
        spreads = [statistics.pstdev(values) or 1.0 for values in zip(*points.values(), strict=True)]
        return max(
            (t for t in found if t.number in on_front),
            key=lambda t: sum(v / s for v, s in zip(points[t.number], spreads, strict=True)),
        )

    def candidates(self, trials: list[Trial]) -> list[Trial]:
        """Finished trials that meet the limits."""
        default = self.trial_store.default
        usual = default.metrics if default is not None else None
        return [
            t
            for t in trials
            if t.status == "finished" and t.metrics is not None and self.evaluator.meets_limits(t.metrics, usual)
        ]
