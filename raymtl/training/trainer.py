"""The training loop of one worker: steps over the units of each epoch, evaluation and checkpoints at the ends of units."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.data.read import Input, Schedule, deal_of
from raymtl.errors import DataError
from raymtl.objectives.metrics.choose import signed_value
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.telemetry import logs
from raymtl.telemetry.collectives import CollectiveSampler
from raymtl.telemetry.metrics import Gauges
from raymtl.training.build import TrainState
from raymtl.training.distributed import compute_metrics
from raymtl.training.expert_use import use_record, use_sums
from raymtl.training.fill import fill_of
from raymtl.training.model import PENALTIES
from raymtl.training.pipeline import make_pipeline
from raymtl.training.progress import Progress
from raymtl.training.recalibration import recalibration_of
from raymtl.training.runlog import RunLogger
from raymtl.training.steps import epoch_schedule, meeting_points
from raymtl.training.synced_loader import Step, SyncedLoader


@dataclass(frozen=True)
class StopCallback:
    """Evaluations after which the caller may end the run."""

    after_units: frozenset[int]
    """Also evaluate after these units, counted over all epochs."""
    should_continue: Callable[[dict[str, Any]], bool]
    """Called with every evaluation after checkpoints are saved, by all workers together, with the same answer on all."""


@dataclass
class Member:
    """One worker among the others."""

    rank: int
    workers: int
    device: torch.device
    group: dist.ProcessGroup
    """All workers, with the backend of the device."""
    train_loader_group: dist.ProcessGroup | None
    """All workers over gloo, for the training loader alone; None with a single worker."""
    eval_loader_group: dist.ProcessGroup | None
    """The same for the evaluation loader: both loaders may run at a time."""


@dataclass
class Worker(Member):
    """A worker in a job."""

    open_stream: Callable[[Input, Schedule, Sequence[int]], Iterable[pa.Table]]
    """Opens this worker's slices of an input, with the numbers of units after which all workers meet; called by all workers
    together."""
    must_save: Callable[[], bool] = lambda: False
    """Whether this worker knows that a node or the driver is about to stop: then all save a checkpoint at the end of the unit
    that they have come to. Asked by the loader's thread, about once a second."""
    gauges: Gauges = field(default_factory=Gauges)
    """This worker's metrics."""


class Trainer:
    """Trains from `progress` to the end of the last epoch."""

    def __init__(
        self,
        worker: Worker,
        config: Config,
        train_state: TrainState,
        inputs: dict[str, Input],
        progress: Progress,
        log: RunLogger | None,
        save: Callable[[], None],
        on_batch: Callable[[Batch], None] | None = None,
        stop_callback: StopCallback | None = None,
    ):
        """`inputs` are those of `train` and, for evaluations, `eval`; `log` is None except on the first worker; `save()`
        writes a checkpoint, called by all workers together; `on_batch` gets this worker's training batches; `stop_callback`
        adds evaluations and decides whether to continue."""
        self._worker, self._config, self._train_state, self._on_batch, self._stop_callback = (
            worker,
            config,
            train_state,
            on_batch,
            stop_callback,
        )
        self._inputs, self.progress, self._log, self._save = inputs, progress, log, save
        # The same shapes on all workers; if the batch does not divide evenly, the last workers fill one row less
        rows = -(-config.train.rows_per_step // worker.workers)
        self._local_rows = (config.train.rows_per_step + worker.workers - 1 - worker.rank) // worker.workers
        self._collators = {evaluation: Collator(config, rows, evaluation) for evaluation in (False, True)}
        self._tasks = config.active_tasks()
        self._window = _Window(len(self._tasks), worker.device)
        self._collectives = CollectiveSampler(worker.device, worker.workers, config.train.log_every_steps)
        self.device = worker.device
        self.score_seconds = 0.0
        """Of all evaluations, each from its first batch to its metrics."""
        self.peak_private_bytes = 0
        """Largest memory of this process alone, seen at the ends of windows; pages shared with Ray do not count."""
        self.first_step_time: float | None = None
        self.last_step_time: float | None = None
        """When the first and the last step ended, by the clock."""
        self._pipeline = self._make_pipeline()
        self._calibration = recalibration_of(config, train_state, worker.device)

    def run(self) -> None:
        """Train the remaining units of all epochs, as one stream: the next epoch is read while the previous ends."""
        config, progress = self._config, self.progress
        train = config.train
        schedule = epoch_schedule(self._inputs["train"].plan, config)
        units = len(self._inputs["train"].plan.units)
        first = progress.epoch * units + progress.units_done
        self._train_state.model.train()
        after_units = self._stop_callback.after_units if self._stop_callback is not None else frozenset()
        meetings = meeting_points(config, self._inputs["train"].plan, "eval" in self._inputs, after_units)
        loader = self._loader(self._inputs["train"], schedule[first:], [m - first for m in meetings], training=True)

        def is_due(done: int) -> bool:
            return done % units == 0 or _is_due(done % units, train.eval_every_units)

        def evaluates_after(step: Step) -> bool:
            done = first + step.done
            return "eval" in self._inputs and step.done > 0 and (done in after_units or is_due(done))

        for step in self._steps(loader, evaluates_after):
            if not step.done:
                continue
            done = first + step.done
            progress.epoch, progress.units_done = divmod(done, units)
            progress.finished = done == len(schedule)
            ends_epoch = progress.units_done == 0
            stop = False
            if evaluates_after(step):
                self._close_window()
                self.evaluate((done - 1) // units, for_stop_callback=not is_due(done))
                stop = is_due(done) and self._out_of_patience()
                progress.finished |= stop
            is_saved = ends_epoch or stop or _is_due(progress.units_done, train.checkpoint.every_units)
            if is_saved or step.must_save:
                self._close_window()
                self._checkpoint()
            if self._stop_callback is not None and evaluates_after(step):
                stop |= not self._stop_callback.should_continue(progress.evaluations[-1])
            if stop:
                loader.close()
                return
        self._close_window()
        if not progress.finished:  # the last units had no rows of the training users
            progress.epoch, progress.units_done, progress.finished = train.epochs, 0, True
            self._checkpoint()

    def _checkpoint(self) -> None:
        started = time.perf_counter()
        self._save()
        seconds = time.perf_counter() - started
        self._worker.gauges.set("checkpoint_seconds", seconds)
        logs.log.info("checkpoint: training paused for %.3f s", seconds)

    def _loader(
        self, source: Input, schedule: Schedule, meetings: Sequence[int] = (), training: bool = False
    ) -> SyncedLoader:
        evaluation, worker = source.evaluation, self._worker
        group = worker.eval_loader_group if evaluation else worker.train_loader_group
        replicated = self._train_state.replicated
        # An evaluation changes no rows, so no worker needs the rows that others touch
        touched_group = None if evaluation else group
        return SyncedLoader(
            worker.open_stream(source, schedule, meetings),
            self._collators[evaluation],
            group,
            self._on_batch if training else None,
            self._local_rows,
            deal_of(source.plan, schedule, meetings, self._config, worker.workers),
            worker.must_save if training else lambda: False,
            None if replicated is None else partial(replicated.touched_rows.prepare, group=touched_group),
        )

    # Training steps

    def _make_pipeline(self) -> TrainPipelineSparseDist | None:
        if self._config.train.pipeline == "none":
            return None
        return make_pipeline(self._train_state, self._worker.device)

    def _steps(self, loader: SyncedLoader, pause_after: Callable[[Step], bool]) -> Iterator[Step]:
        """Train on every step of the loader; each is yielded after the weights are updated.
        After a step to pause at, the pipeline is empty, so the model can be used for other work.
        """
        steps = iter(loader)
        in_flight: deque[Step] = deque()
        waited, ended = 0.0, False
        started = False  # the wait for the very first batch is start-up, not training

        def batches() -> Iterator[Batch]:
            nonlocal waited, ended
            while True:
                start = time.perf_counter()
                step = next(steps, None)
                waited += time.perf_counter() - start
                if step is None:
                    ended = True
                    return
                in_flight.append(step)
                yield step.batch
                if pause_after(step):
                    return

        while not ended:
            source = batches()
            while True:
                start, waited = time.perf_counter(), 0.0
                try:
                    with self._collectives.step(self.progress.step):
                        output = self._pipeline.progress(source) if self._pipeline else self._plain_step(next(source))
                except StopIteration:
                    break
                step = in_flight.popleft()
                self.progress.step += 1
                self.progress.rows += step.rows
                self.last_step_time = time.time()
                self.first_step_time = self.first_step_time or self.last_step_time
                if not started:
                    start, waited, started = start + waited, 0.0, True
                self._window.add(output, step.rows, time.perf_counter() - start, waited)
                if self.progress.step % self._config.train.log_every_steps == 0:
                    self._close_window()
                yield step

    def _plain_step(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """One step without a pipeline: the place for a debugger."""
        optimizers = self._train_state.optimizers
        optimizers.zero_grad()
        loss, output = self._train_state.model(batch.to(self._worker.device, non_blocking=True))
        loss.backward()
        optimizers.step()
        return output

    def _close_window(self) -> None:
        """Log the steps since the last log line; the only place of the loop that waits for the device."""
        window = self._window
        if window.steps == 0:
            return
        self.peak_private_bytes = max(self.peak_private_bytes, private_bytes())
        head = self._train_state.model.module.head
        mixtures = head.ranker.trunk.mixtures
        sums = torch.cat((window.sums, use_sums(mixtures, head.last_valid).to(window.sums.device)))
        dist.all_reduce(sums, group=self._worker.group)
        read = sums.tolist()
        values = [value / (window.steps * self._worker.workers) for value in read[: len(window.sums)]]
        experts = use_record(read[len(window.sums) :], [(m.shape[1], m.shape[2]) for m in mixtures], list(self._tasks))
        losses = dict(zip(self._tasks, values, strict=False))
        for name, loss in losses.items():
            if loss != loss or loss in (float("inf"), float("-inf")):
                raise DataError(
                    f"the loss of task `{name}` became {loss} in the steps {self.progress.step - window.steps + 1} to "
                    f"{self.progress.step}; check for extreme values with `raymtl check`, or lower "
                    f"train.dense_optimizer.lr or set train.clip_grad_norm (`raymtl train` then needs another `name`)"
                )
        penalties = dict(zip(PENALTIES, values[len(self._tasks) :], strict=True))
        self.progress.train_seconds += window.seconds
        rows_per_s, data_wait = window.rows / max(window.seconds, 1e-9), window.waited / max(window.seconds, 1e-9)
        fill = fill_of(self._config, window.rows, window.steps)
        self._report(losses, rows_per_s, data_wait, fill)
        if self._log is not None:
            total = sum(t.weight * losses[n] for n, t in self._tasks.items()) + sum(penalties.values())
            self._log.train(
                {
                    "step": self.progress.step,
                    "rows": self.progress.rows,
                    "epoch": self.progress.epoch,
                    "loss": total,
                    "losses": losses,
                    **penalties,
                    "lr": self._config.train.dense_optimizer.lr * self._train_state.optimizers.factor,
                    "rows_per_s": rows_per_s,
                    "data_wait": data_wait,
                    "fill": fill,
                    **({} if experts is None else {"experts": experts}),
                    **(self._train_state.balancer.report() if self._train_state.balancer else {}),
                }
            )
        self._window = _Window(len(self._tasks), self._worker.device)

    def _report(self, losses: dict[str, float], rows_per_s: float, data_wait: float, fill: float) -> None:
        """Report a window of steps to Prometheus and this worker's log."""
        gauges, progress, window = self._worker.gauges, self.progress, self._window
        logs.at(step=progress.step, unit=progress.units_done)
        logs.log.info("%.4f s a step, %.0f%% of it waiting for data", window.seconds / window.steps, 100 * data_wait)
        gauges.set("step_seconds", window.seconds / window.steps)
        gauges.set("data_wait_ratio", data_wait)
        gauges.set("private_memory_bytes", private_bytes())
        for kind, seconds in self._collectives.seconds.items():
            gauges.set("collective_seconds", seconds, collective=kind)
        if self._worker.rank == 0:
            gauges.set("train_rows_per_second", rows_per_s)
            gauges.set("step_fill_ratio", fill)
            gauges.set("trained_rows", progress.rows)
            gauges.set("trained_steps", progress.step)
            gauges.set("epoch", progress.epoch)
            gauges.set("done_units", progress.units_done)
            gauges.set("unit_count", len(self._inputs["train"].plan.units))
            for task, loss in losses.items():
                gauges.set("task_loss_mean", loss, task=task)

    # Evaluation

    def evaluate(self, epoch: int, for_stop_callback: bool = False) -> None:
        """Metrics over every row of the evaluation days, once each, and the score that `train.select` names.

        One that is only `for_stop_callback` does not count for early stopping.
        """
        started = time.perf_counter()
        self.calibrate(self._inputs["eval"])
        metrics = self.measure(self._inputs["eval"])
        del metrics["group_effects"]  # large, and no one compares two evaluations of a run
        score = signed_value(metrics, self._config.train.select)
        seconds = round(time.perf_counter() - started, 3)
        record = {
            "step": self.progress.step,
            "rows": self.progress.rows,
            "epoch": epoch,
            "units": self.progress.units_done,
            "score": score,
            "seconds": seconds,
            "metrics": metrics,
            **({"for_stop_callback": True} if for_stop_callback else {}),
        }
        self.progress.evaluations.append(record)
        logs.log.info("evaluated in %.1f s", seconds)
        if self._worker.rank == 0:
            self._worker.gauges.set("eval_seconds", seconds)
            for task, found in metrics["tasks"].items():
                if isinstance(auc := found.get("auc"), float):
                    self._worker.gauges.set("eval_auc_ratio", auc, task=task)
        if self._log is not None:
            self._log.evaluation(record)

    def calibrate(self, source: Input) -> None:
        """Fit the calibrator, if the model has one, on the rows of an evaluation input whose users are for that."""
        if self._calibration is None:
            return
        counts = self._calibration.new_counts()
        for batch, logits in self._scored(source, self._calibration.fitted):
            counts.update(batch, logits)
        self._calibration.fit(counts, self._worker.group)

    def measure(self, source: Input, unseen: bool = False) -> dict[str, Any]:
        """The metrics of the current model over every row of an evaluation input, the same on all workers.

        With a calibrator only the users that it was not fitted on count, unless all of the rows are `unseen`; `calibration` has
        what it changes.
        """
        config, worker = self._config, self._worker
        scenarios = config.data.scenario.names if config.data.scenario else []
        head = self._train_state.model.module.head
        ranker, fusion = head.ranker, head.fusion
        by_request = config.data.has_complete_requests
        score = config.score if config.score is not None and config.score.gain else None
        metrics = EvalMetrics(
            self._tasks, scenarios, worker.device, derived=ranker.outputs.derived, with_requests=by_request, score=score
        )
        before = self._calibration.new_judgement() if self._calibration else None
        for batch, logits in self._scored(
            source, self._calibration.judged if self._calibration and not unseen else None
        ):
            if before is not None:
                before.update(batch, logits)
            metrics.update(
                ranker.corrected(logits, batch.scenario),
                batch.labels,
                batch.observed,
                batch.weight,
                batch.valid,
                batch.scenario if scenarios else None,
                batch.group if config.data.group else None,
                batch.truth,
                batch.request_id if by_request else None,
                None if score is None else fusion(ranker.predictions(logits, batch.scenario)),
                batch.row_weight,
            )
        computed = compute_metrics(metrics, worker.group)
        if before is not None:
            computed["calibration"] = before.report(computed, worker.group)
        return computed

    def _scored(self, source: Input, choose: Callable[[Batch], Batch] | None) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Every batch of an evaluation input on the device, changed by `choose` before it gets there, with the model's logits."""
        worker, model = self._worker, self._train_state.model
        if self._pipeline is not None:
            self._pipeline.detach()
        model.eval()
        began: float | None = None
        with torch.no_grad():
            for step in self._loader(source, [(0, n) for n in source.plan.order(None, 0)]):
                began = began or time.perf_counter()
                batch = (step.batch if choose is None else choose(step.batch)).to(worker.device, non_blocking=True)
                _, (logits, *_) = model(batch)
                yield batch, logits
        model.train()
        self.score_seconds += time.perf_counter() - began if began is not None else 0.0

    def _out_of_patience(self) -> bool:
        stop = self._config.train.early_stop
        if stop is None:
            return False
        scores = [
            signed_value(e["metrics"], stop.metric) for e in self.progress.evaluations if "for_stop_callback" not in e
        ]
        known = [s for s in scores if s is not None]
        if not known:
            return False
        best_at = 0
        for n, value in enumerate(known):
            if value > known[best_at] + stop.min_gain:
                best_at = n
        return len(known) - 1 - best_at >= stop.patience


def private_bytes() -> int:
    """Memory that this process shares with no other, according to Linux."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def _is_due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


class _Window:
    """Sums over the steps since the last log line, kept on the device until the next one."""

    def __init__(self, tasks: int, device: torch.device):
        self.sums = torch.zeros(tasks + len(PENALTIES), dtype=torch.float64, device=device)
        self.steps = self.rows = 0
        self.seconds = self.waited = 0.0

    def add(self, output: tuple[torch.Tensor, ...], rows: int, seconds: float, waited: float) -> None:
        _, *losses = output
        self.sums += torch.cat(losses)
        self.steps += 1
        self.rows += rows
        self.seconds += seconds
        self.waited += waited
