"""A run from the driver's side: checks, Ray Train, and `result.json`."""

import itertools
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raymtl import errors
from raymtl.config.load import config_hash, dump_config, load_config
from raymtl.config.root import Config
from raymtl.data.read import Input
from raymtl.data.sample import sample_base_rates
from raymtl.data.source import below, open_filesystem
from raymtl.data.units import Plan, plan_input
from raymtl.errors import ClusterError, ConfigError, StorageError, UserError, find_user_error
from raymtl.telemetry import logs
from raymtl.training.cluster import Room, check_room, connect, reading_tasks
from raymtl.training.id_maps import make_maps, saved_maps
from raymtl.training.rundir import (
    CONFIG,
    RESULT,
    check_writable,
    has_checkpoint,
    last_checkpoint,
    only_one,
    read_file,
    read_result,
    run_folder,
    run_of,
    write_file,
)
from raymtl.training.runlog import Mailbox
from raymtl.training.score import check_scores
from raymtl.training.snapshot import mend_snapshot
from raymtl.training.worker import Job, run_worker
from raymtl.versions import package_versions

Listener = Callable[[dict[str, Any]], None]

# What may change between a stop and going on: where and how a run computes, not what it computes
_EXECUTION = {
    "train": {
        "workers", "use_gpu", "cpus_per_worker", "threads_per_worker", "pipeline", "checkpoint", "max_failures",
        "start_timeout_s", "step_timeout_s", "log_every_steps",
    },
    "data": {"read_tasks", "prefetch_blocks", "block_rows", "path", "eval_path"},
}  # fmt: skip

# Of an error in a worker its text alone comes here
_FULL = re.compile("No space left on device|Disk quota exceeded")


@dataclass(frozen=True)
class Prepared:
    """A run that has passed every check that needs no cluster."""

    config: Config
    plans: dict[str, Plan]
    base_rates: dict[str, float]
    hash: str

    def facts(self) -> dict[str, Any]:
        """What the checks found, for a dry run."""
        return {
            "train_rows": self.plans["train"].rows,
            "eval_rows": self.plans["eval"].rows if "eval" in self.plans else 0,
            "units": len(self.plans["train"].units),
            "base_rates": self.base_rates,
            "config_hash": self.hash,
            "run_dir": run_folder(self.config),
        }


def prepare(config: Config) -> Prepared:
    """The cheap checks: files, schemas, a sample of the values, and the previous run of that name. Raises UserError."""
    ready = prepare_inputs(config)
    check_writable(run_folder(config))
    _compare_with_previous(config, run_folder(config))
    return ready


def prepare_inputs(config: Config) -> Prepared:
    """The checks that need no run folder. Raises UserError."""
    check_scores(config)
    if config.train.sparse_optimizer.type == "adam" and not config.train.use_gpu:
        raise ConfigError(
            "train.sparse_optimizer.type is `adam`, which fbgemm has for GPUs only; use rowwise_adagrad, adagrad or sgd, "
            "or set train.use_gpu"
        )
    plans = {"train": plan_input(config, "train")}
    if config.data.eval is not None:
        plans["eval"] = plan_input(config, "eval")
    return Prepared(config, plans, sample_base_rates(config, plans["train"]), config_hash(config))


def train(config: Config, *, address: str | None = None, listener: Listener | None = None) -> dict[str, Any]:
    """Train (or go on with) the run that `config` describes and return what `result.json` holds.

    `listener` gets every record of `metrics.jsonl` and notes, as they come. Raises UserError with one sentence for anything the
    user can mend.
    """
    run_dir = run_folder(config)
    done = read_result(run_dir)
    if done is not None and done["status"] == "finished":
        _compare_with_previous(config, run_dir)
        if listener:
            listener({"note": f"the run {run_dir} is finished already; give another `name` to train again"})
        return done
    ready = prepare(config)
    local = connect(config, address)
    room = check_room(config, local)
    with only_one(run_dir):
        write_file(run_dir, CONFIG, dump_config(config))
        if listener:
            listener({"total_rows": ready.plans["train"].rows * config.train.passes})
        started = time.time()
        maps = make_maps(
            config,
            ready.plans["train"],
            run_dir,
            reading_tasks(config, workers=0),  # the workers are not there yet
            begun=has_checkpoint(run_dir),
            say=lambda line: listener({"note": line}) if listener else None,
        )
        inputs = {part: Input(plan, part == "eval", maps) for part, plan in ready.plans.items()}
        job = Job(config, inputs, ready.base_rates, run_dir, None, room.read_tasks, room.threads, ready.hash)
        result = _result(ready, fit(run_worker, job, room, config, listener), time.time() - started)
        if maps:
            result["id_maps"] = {table: dict(file.notes) for table, file in maps.items()}
        write_file(run_dir, RESULT, json.dumps(result, indent=2))
    return result


def _result(ready: Prepared, summary: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What `result.json` holds."""
    config, progress, plans = ready.config, summary["progress"], ready.plans
    evaluations = progress["evaluations"]
    scored = [e for e in evaluations if e["score"] is not None]
    best = max(scored, key=lambda e: e["score"], default=None)
    all_passes = progress["pass_number"] >= config.train.passes
    return {
        "status": "finished",
        "metrics": metrics_section(evaluations[-1]["metrics"] if evaluations else None),
        "best": None if best is None else {k: best[k] for k in ("step", "pass", "units", "score")},
        "rows_trained": progress["rows"],
        "rows_left_out": plans["train"].rows * config.train.passes - progress["rows"] if all_passes else 0,
        "rows_per_s": progress["rows"] / max(progress["train_seconds"], 1e-9),
        "steps": progress["step"],
        "passes": progress["pass_number"],
        "starts": progress["starts"],
        "seconds": round(seconds, 1),
        "config_hash": ready.hash,
        "base_rates": ready.base_rates,
        "data_range": {part: list(plan.days) for part, plan in plans.items()},
        "workers": config.train.workers,
        "parameters": summary["parameters"],
        "sharding": summary["sharding"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "packages": package_versions(),
    }


def metrics_section(metrics: dict[str, Any] | None) -> dict[str, Any]:
    """The `metrics` of a result: `eval` by task, then `scenarios` and what else `EvalMetrics.compute` found."""
    if metrics is None:
        return {"eval": {}, "scenarios": {}}
    return {"eval": metrics["tasks"], **{k: v for k, v in metrics.items() if k != "tasks"}}


def evaluate(run: str, *, overrides: list[str], checkpoint: str | None, address: str | None) -> dict[str, Any]:
    """Metrics of a run's checkpoint (none: its last one) on the evaluation days of its configuration, changed by `overrides`."""
    run = run_of(run)
    folder = checkpoint or last_checkpoint(run)
    config = load_config(below(run, CONFIG), overrides)
    plan, maps = plan_input(config, "eval"), saved_maps(config, run)
    local = connect(config, address)
    room = check_room(config, local)
    rates = dict.fromkeys(config.active_tasks(), 0.5)  # the checkpoint has the biases
    inputs = {"eval": Input(plan, True, maps)}
    job = Job(config, inputs, rates, "", None, room.read_tasks, room.threads, config_hash(config), folder)
    with tempfile.TemporaryDirectory(prefix="raymtl-evaluate-") as scratch:
        summary = fit(run_worker, job, room, config.model_copy(update={"output": scratch}), None)
    return {
        "checkpoint": folder,
        "step": summary["progress"]["step"],
        "data_range": {"eval": list(plan.days)},
        "metrics": metrics_section(summary["metrics"]),
    }


def fit(
    entry: Callable[[dict[str, Any]], dict[str, Any]],
    job: Job,
    room: Room,
    config: Config,
    listener: Listener | None,
) -> dict[str, Any]:
    """Run `entry` on the workers with Ray Train, in the folder `<output>/<name>`, and return what the first worker gave.

    Raises the UserError that the workers met.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(config.train.start_timeout_s))
    train = config.train
    filesystem, inner = open_filesystem(config.output)
    local_storage = isinstance(filesystem, pafs.LocalFileSystem)
    post = _Post(listener) if listener else None
    trainer = TorchTrainer(
        # The job goes with the function: Ray's controller reads `train_loop_config` too, and would import TorchRec for it
        partial(entry, {"job": replace(job, mailbox=post.mailbox if post else None)}),
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if train.use_gpu else "gloo", timeout_s=int(train.step_timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=train.workers, use_gpu=train.use_gpu, resources_per_worker=_resources(config)
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=str(Path(inner).absolute()) if local_storage else inner,
            storage_filesystem=None if local_storage else filesystem,
            failure_config=FailureConfig(max_failures=train.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=train.checkpoint.keep, checkpoint_score_attribute="score", checkpoint_score_order="max"
            ),
            worker_runtime_env={"env_vars": worker_environment(room.threads)},
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result = _fit(trainer, config, lambda line: listener({"note": line}) if listener else None)
    finally:
        if post:
            post.close()
    summary = result.return_value
    if "user_error" in summary:
        kind, message = summary["user_error"]
        raise getattr(errors, kind, UserError)(message)
    return summary


def _fit(trainer: TorchTrainer, config: Config, say: Callable[[str], None]) -> Any:
    """Run the trainer; `train.max_failures` also counts workers that die between Ray's start of them and their first line,
    which Ray takes for a fault of its own and does not try again."""
    allowed = config.train.max_failures
    for attempt in itertools.count(1):
        try:
            mend_snapshot(run_folder(config), say)
            return trainer.fit()
        except ray.train.TrainingFailedError as error:
            found = find_user_error(error) or next(
                (e for e in map(find_user_error, getattr(error, "worker_failures", {}).values()) if e), None
            )
            if found is not None:
                raise found from None
            if not _died_at_start(error) or 0 <= allowed < attempt:
                raise _lost(error, allowed, run_folder(config)) from error
            say("a worker died while it started; starting the workers again")
    raise AssertionError


def _died_at_start(error: BaseException) -> bool:
    failure = getattr(error, "controller_failure", None)
    return isinstance(failure, RayActorError) or isinstance(getattr(failure, "cause", None), RayActorError)


def _lost(error: Exception, max_failures: int, run_dir: str) -> UserError:
    """One sentence for workers that died of something that is no mistake of the user's."""
    failures = getattr(error, "worker_failures", None) or {None: error}
    for text in map(str, (*failures.values(), error)):
        if full := next((line.strip() for line in text.splitlines() if _FULL.search(line)), None):
            return StorageError(
                f"the run `{run_dir}` could not be written, or a worker's temporary folder: {full}; make room there, then the "
                "same command goes on from the last checkpoint"
            )
    rank, cause = next(iter(failures.items()))
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    logs = ray.get_runtime_context().worker.node.get_logs_dir_path()
    return ClusterError(
        f"training failed after at most {max_failures} recoveries (train.max_failures); {_who(rank)} ended with: "
        f"{lines[-1] if lines else type(cause).__name__}; the whole story is in {logs}, and the same command goes on from the "
        "last checkpoint"
    )


def _who(rank: int | None) -> str:
    return "Ray Train" if rank is None else f"worker {rank}"


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process.

    Threads of one product wait for each other at its end by spinning for a while, then they sleep. Spinning for long starves
    whoever shares the cores (a step can become ten times slower), not spinning at all costs a wake-up for each of the many
    short products; the count lies between (docs/performance.md).
    """
    return {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000", **logs.environment()}


def _resources(config: Config) -> dict[str, float]:
    resources: dict[str, float] = {"CPU": config.train.cpus_per_worker}
    if config.train.use_gpu:
        resources["GPU"] = 1
    return resources


def _compare_with_previous(config: Config, run_dir: str) -> None:
    """A run of the same name goes on; with another configuration that would be a silent mix of two models."""
    text = read_file(run_dir, CONFIG)
    if text is None or not (read_file(run_dir, RESULT) or has_checkpoint(run_dir)):
        return  # nothing is there to mix with
    try:
        previous = load_config(None, text=text)
    except ConfigError as error:
        raise ConfigError(
            f"{below(run_dir, CONFIG)} of the earlier run cannot be read, it is damaged or of another version of raymtl "
            f"({error}); set another `name`"
        ) from error
    before, now = defining(previous), defining(config)
    if before == now:
        return
    differing = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
    first = differing[0]
    raise ConfigError(
        f"the run {run_dir} was begun with another configuration: {first} was {before.get(first)!r} and is now {now.get(first)!r}"
        + (f" ({len(differing) - 1} more keys differ)" if len(differing) > 1 else "")
        + "; set another `name`, or the old values to go on with it"
    )


def defining(config: Config) -> dict[str, Any]:
    """The configuration by dotted key, without what only says where and how to compute."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        else:
            flat[path] = value

    raw = config.model_dump(mode="json", exclude={**_EXECUTION, "output": True, "tune": True})  # type: ignore[arg-type]
    walk(raw, "")
    return {k: v for k, v in flat.items() if not k.endswith(".sharding")}


class _Post:
    """Empties the mailbox into the listener while training goes on."""

    def __init__(self, listener: Listener):
        self.mailbox = Mailbox.remote()  # type: ignore[attr-defined]
        self._listener = listener
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._empty()

    def _empty(self) -> None:
        try:
            for item in ray.get(self.mailbox.take.remote(), timeout=10):
                self._listener(item)
        except ray.exceptions.RayError as error:  # the lines are a comfort; the run goes on without them
            logging.getLogger(__name__).debug("no lines from the workers: %s", error)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._empty()
        ray.kill(self.mailbox)
