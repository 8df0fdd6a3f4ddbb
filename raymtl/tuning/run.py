"""A search from the driver's side: checks, the data that trials share, Ray Tune, and the result."""

import json
import math
import os
from collections.abc import Callable
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.search import Searcher

from raymtl.config.load import dump_config, load_config
from raymtl.config.roles import Role, field_roles, search_fields
from raymtl.config.root import Config
from raymtl.data.build_id_maps import make_maps
from raymtl.data.ids.id_map import MapFile, find_map, save_map
from raymtl.data.lakehouse.tables import keep_snapshots
from raymtl.data.read import Input
from raymtl.data.units import Plan
from raymtl.data.writable import check_writable
from raymtl.errors import CheckpointError, ClusterError, ConfigError, StorageError, VersionError
from raymtl.model_store.loader import check_fits
from raymtl.model_store.row_ids import read_map
from raymtl.model_store.store import chain, show
from raymtl.results import TuneResult
from raymtl.storage.object_store import Store
from raymtl.telemetry.events import Listener
from raymtl.training.cluster import connect
from raymtl.training.driver import prepare_inputs
from raymtl.training.resources import ResourceGrant, reading_tasks
from raymtl.training.rundir import CONFIG, RunFolder, run_lock
from raymtl.training.shapes import model_entries
from raymtl.training.start_lines import joining
from raymtl.training.steps import epoch_schedule, keep_batch_size, steps_line, too_few_steps
from raymtl.tuning.blocks import fits, read_shared
from raymtl.tuning.check import check, search_folder
from raymtl.tuning.inprocess_trial import StartingVersion, trial_folder
from raymtl.tuning.result import write_result
from raymtl.tuning.sampler import rung_rows
from raymtl.tuning.search import Search, SearchFinished
from raymtl.tuning.space import Space
from raymtl.tuning.trial import REPORT, Shared, reading_part, run_trial
from raymtl.tuning.trial_store import TrialStore, trial_name
from raymtl.words import count_of

CLOCK = "clock.json"
"""The timings of a search."""


def tune(config: Config, *, address: str | None = None, on_event: Listener | None = None) -> TuneResult:
    """Run or resume the search that `config` describes and return what `result.json` of its folder holds.

    `on_event` gets `{note: text}`, and `{trial: Trial}` whenever one of them changes. Raises UserError.
    """
    notify: Listener = on_event or (lambda record: None)
    check(config)
    folder = RunFolder.open(search_folder(config))
    start_from = _starting_version(config, json.loads(folder.read(CLOCK) or "{}"))
    model_entries(config)  # raises what a slot refuses
    config = keep_batch_size(config, _earlier_batch_size(folder, start_from))
    previous = _previous_config(folder)
    ready = prepare_inputs(keep_snapshots(config, previous.data if previous else None))
    config = ready.config
    assert config.tune is not None
    space = Space(config)
    notify({"note": steps_line(config, ready.plans["train"].rows, ready.steps)})
    if advice := too_few_steps(config, ready.steps):
        notify({"note": advice})
    check_writable(folder)
    _compare_with_previous(config, folder)
    if start_from is not None:
        check_fits(config, start_from.store, show(start_from.store, start_from.version))
    for note in [*ready.notes, joining(address)]:
        notify({"note": note})
    grant, concurrent = _grant(config, address)
    with run_lock(folder):
        clock = json.loads(folder.read(CLOCK) or "{}")
        start_from = _starting_version(config, clock)
        _compare_data(clock, {part: plan.identity for part, plan in ready.plans.items()}, folder)
        folder.write(CONFIG, dump_config(config))
        folder.write(CLOCK, json.dumps(clock))
        trial_store = TrialStore(folder)
        maps = _maps(
            config,
            start_from,
            ready.plans["train"],
            folder,
            bool(trial_store.trials),
            lambda line: notify({"note": line}),
        )
        inputs = {part: Input(plan, part == "eval", maps) for part, plan in ready.plans.items()}
        total = ready.plans["train"].rows * config.train.epochs
        search = Search(config, space, trial_store, total, notify, clock.get("searched_s", 0.0))
        notify({"search": search, "concurrent": concurrent, "folder": folder.path})
        if any(not t.ended for t in trial_store.trials.values()) or not search.is_over():
            blocks = None
            if config.train.workers == 1:
                if fits(config, inputs):
                    notify({"note": f"reading {count_of(total // config.train.epochs, 'row')} once for all trials"})
                    blocks = read_shared(config, inputs)
                else:
                    notify({"note": "the rows do not fit into the object store: every trial reads them for itself"})
            shared = Shared(
                folder,
                inputs,
                blocks,
                reading_part(config),
                ready.base_rates,
                start_from,
                grant,
                _after_units(config, ready.plans["train"], total),
            )
            clock.setdefault("prepared_s", round(search.searched_s - clock.get("searched_s", 0.0), 1))
            _run(config, folder, search, shared, concurrent, clock)
        if search.outage is not None:
            raise StorageError(f"{search.outage}; the search stops here; rerun the same command to resume it")
        result = write_result(search, folder, clock)
        if search.default_failed is not None:
            raise ConfigError(
                f"the default configuration fails to train: {search.default_failed}; fix it, and start a new search under "
                f"another `name`"
            )
        return result


def open_search(path: str) -> tuple[Search, dict[str, Any]]:
    """Load a search from its folder, read-only, with its timings. Raises CheckpointError if the folder is not a search."""
    folder = RunFolder.open(path)
    text = folder.read_text(CONFIG)
    if text is None:
        raise CheckpointError(f"`{path}` is not a search folder: it has no {CONFIG}; pass <output>/<name>-tune")
    config = load_config(None, text=text)
    if config.tune is None:
        raise CheckpointError(f"`{path}` is a run folder, not a search folder; pass <output>/<name>-tune")
    clock = json.loads(folder.read(CLOCK) or "{}")
    trial_store = TrialStore(folder)
    return Search(config, Space(config), trial_store, 0, lambda record: None, clock.get("searched_s", 0.0)), clock


def _run(
    config: Config, folder: RunFolder, search: Search, shared: Shared, concurrent: int, clock: dict[str, Any]
) -> None:
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # its own table cannot be turned off; the old one can, by `verbose`
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the records hold everything already
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C stops at once; the same command resumes
    os.environ["TUNE_WARN_THRESHOLD_S"] = "60"
    bridge = _TuneBridge(search, folder, clock)
    trainable = ray_tune.with_resources(ray_tune.with_parameters(run_trial, shared=shared), _resources(config))
    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=_NextTrial(bridge),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial_name(trial.config["number"]),
            trial_dirname_creator=lambda trial: trial_name(trial.config["number"]),
        ),
        run_config=ray_tune.RunConfig(
            name="ray",
            storage_path=folder.root,
            storage_filesystem=None if folder.is_local else folder.filesystem,
            # A process that dies is retried once, from its checkpoint; a trial reports its own errors
            failure_config=ray_tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )
    tuner.fit()
    bridge.write_clock()


class _TuneBridge:
    """Connects Ray Tune and the search: trial numbers by Tune's names, and the timings."""

    def __init__(self, search: Search, folder: RunFolder, clock: dict[str, Any]):
        self.search, self._folder, self._clock = search, folder, clock
        self.numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Nothing to pickle: the trial records hold the state, and the terminal cannot be pickled

    def ended(self, trial_id: str, crashed: bool) -> None:
        number = self.numbers.pop(trial_id)
        self.search.ended(number, crashed)
        if self.search.trial_store.trials[number].ended:
            trial_folder(self._folder, trial_name(number)).remove_folder()
        self.write_clock()

    def write_clock(self) -> None:
        self._clock["searched_s"] = round(self.search.searched_s, 1)
        self._folder.write(CLOCK, json.dumps(self._clock))


class _NextTrial(Searcher):
    """Hands the search's next trial to Ray Tune, and its reports to the search."""

    def __init__(self, bridge: _TuneBridge):
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            trial = self._bridge.search.next()
        except SearchFinished:
            return Searcher.FINISHED
        if trial is None:
            return None
        self._bridge.numbers[trial_id] = trial.number
        return {"number": trial.number, "config": trial.config}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called before Tune lets the trial continue: by then its record says whether it must stop."""
        self._bridge.search.reported(json.loads(result[REPORT]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._bridge.ended(trial_id, error)

    # The trial records hold the state; Tune's snapshots are never read
    def save(self, checkpoint_path: str) -> None:
        del checkpoint_path

    def restore(self, checkpoint_path: str) -> None:
        del checkpoint_path


def _after_units(config: Config, plan: Plan, total: int) -> frozenset[int]:
    """Units of all epochs after which the stopping rule needs an evaluation: the first that ends at or after each rung."""
    assert config.tune is not None
    rungs = rung_rows(config.tune, total)
    if not rungs and config.tune.stopping.type != "none":
        key = "first_rung_rows" if config.tune.stopping.type == "asha" else "every_rows"
        raise ConfigError(
            f"tune.stopping.{key} is {getattr(config.tune.stopping, key):,}, but a trial has {total:,} rows, so no trial would "
            f"stop; lower it, or set tune.stopping.type to none"
        )
    found, rows = set(), 0
    for done, (_, unit) in enumerate(epoch_schedule(plan, config), start=1):
        rows += plan.units[unit].rows
        if rungs and rows >= rungs[0]:
            found.add(done)
            while rungs and rows >= rungs[0]:
                rungs.pop(0)
    return frozenset(found)


def _compare_data(clock: dict[str, Any], plans: dict[str, str], folder: RunFolder) -> None:
    """Check that the search reads the same rows as at its first start, which records them."""
    before = clock.setdefault("plans", plans)
    changed = [f"data.{part}" for part in plans if before.get(part) != plans[part]]
    if changed:
        raise ConfigError(
            f"the files of {' and '.join(changed)} changed since search {folder.path} started, so its trials cannot be compared "
            f"with new ones; restore them, or set another `name`"
        )


def _starting_version(config: Config, clock: dict[str, Any]) -> StartingVersion | None:
    """The version to start from: the current one when the search first starts, which records it."""
    assert config.tune is not None
    start = config.tune.start
    if start is None:
        return None
    store = start.store or (config.daily.store if config.daily is not None else None)
    if store is None:
        raise ConfigError(
            "tune.start.store is missing, and there is no daily.store; set it to the store of the versions"
        )
    opened_store = Store.open(store)
    version = clock.setdefault("version", show(opened_store, start.version).id)
    return StartingVersion(opened_store, version, start.train == "heads")


def _maps(
    config: Config,
    start_from: StartingVersion | None,
    plan: Plan,
    folder: RunFolder,
    resumed: bool,
    notify: Callable[[str], None],
) -> dict[str, MapFile]:
    """The ID maps of all trials: from the training days, or those of the starting version."""
    if start_from is None:
        return make_maps(config, plan, folder, reading_tasks(config, workers=0), resumed, notify)
    links = chain(start_from.store, show(start_from.store, start_from.version))
    files = {}
    for table in config.map_tables():
        if table not in links[-1].tables:
            raise VersionError(
                f"version {start_from.version} has no table `{table}`, which needs an ID map; set its id_space to `hash`, "
                "or start from another version"
            )
        name = f"maps/{table}.parquet"
        found = find_map(folder, name)
        kept = found is not None and found.notes.get("version") == start_from.version
        files[table] = (
            found
            if found and kept
            else save_map(read_map(start_from.store, links, table), folder, name, {"version": start_from.version})
        )
    return files


def _earlier_batch_size(folder: RunFolder, start_from: StartingVersion | None) -> int | None:
    """That of the search's first start, or of the version that the trials start from."""
    if (previous := _previous_config(folder)) is not None:
        return previous.train.batch_size
    return None if start_from is None else show(start_from.store, start_from.version).batch_size


def _previous_config(folder: RunFolder) -> Config | None:
    text = folder.read_text(CONFIG)
    if text is None:
        return None
    try:
        return load_config(None, text=text)
    except ConfigError as error:
        raise ConfigError(
            f"{folder.path_of(CONFIG)} of the earlier search cannot be read ({error}); set another `name`"
        ) from error


def _compare_with_previous(config: Config, folder: RunFolder) -> None:
    """A search of the same name resumes; with another configuration its trials could not be compared."""
    before = _previous_config(folder)
    if before is None:
        return
    if before.tune is None:
        raise ConfigError(f"the folder {folder.path} is a run, not a search; set another `name`")
    old, new = search_fields(before), search_fields(config)
    if differing := [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]:
        first = differing[0]
        sizes = [path.removeprefix("tune.") for path, role in field_roles(Config).items() if Role.SEARCH_SIZE in role]
        raise ConfigError(
            f"the search {folder.path} was started with another configuration: {first} was {old.get(first)!r} and is now "
            f"{new.get(first)!r}"
            + (f" ({len(differing) - 1} more keys differ)" if len(differing) > 1 else "")
            + ", so its trials cannot be compared with new ones; set another `name`, or restore the old values to resume it "
            f"({', '.join(sizes)} may change)"
        )


# Resources


def _resources(config: Config) -> dict[str, float]:
    """What Ray Tune reserves for a trial; one with several workers only watches, and Ray Train reserves theirs."""
    train, tune_ = config.train, config.tune
    assert tune_ is not None
    if train.workers > 1:
        return {"CPU": 0.01}
    return {"CPU": train.cpus_per_worker, **({"GPU": tune_.gpus_per_trial} if train.use_gpu else {})}


def _grant(config: Config, address: str | None) -> tuple[ResourceGrant, int]:
    """The resources of a trial, and how many trials run at a time. Raises ClusterError if not even one fits."""
    train, tune_ = config.train, config.tune
    assert tune_ is not None
    cores = os.cpu_count() or 1
    per_trial = train.workers * train.cpus_per_worker
    # On one machine Ray's CPU count is only a label: reserve CPUs to train and one to read per trial, and one shared
    wanted = tune_.max_concurrent or max(1, cores // per_trial)
    local = connect(config, address, cpus=wanted * (per_trial + 1) + 1)
    total = ray.cluster_resources()
    spare = 0 if train.workers == 1 else 1  # CPUs of a trial for reading
    counts = [sum(int(n["Resources"].get("CPU", 0)) // per_trial for n in ray.nodes() if n["Alive"])]
    if train.workers > 1:
        counts = [int(total.get("CPU", 0) // (per_trial + spare))]
    if train.use_gpu:
        counts.append(int(total.get("GPU", 0) // (train.workers if train.workers > 1 else tune_.gpus_per_trial)))
    if min(counts) < 1:
        raise ClusterError(
            f"a trial needs {per_trial} CPUs"
            + (f" and {train.workers if train.workers > 1 else tune_.gpus_per_trial:g} GPUs" if train.use_gpu else "")
            + f"; the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; lower train.workers or "
            "train.cpus_per_worker, or add nodes"
        )
    concurrent = min(tune_.max_concurrent or math.inf, *counts, wanted if local else math.inf)
    nodes = sum(n["Alive"] for n in ray.nodes())
    threads = train.threads_per_worker or max(1, cores // -(-int(concurrent) * train.workers // nodes))
    return ResourceGrant(config.data.read_tasks or 1, threads), int(concurrent)
