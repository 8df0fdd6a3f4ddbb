"""A search from the driver's side: checks, the data that trials share, Ray Tune, and the result."""

import json
import math
import os
from collections.abc import Callable
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.search import Searcher

from raymtl.config.load import config_hash, dump_config, load_config
from raymtl.config.roles import Role, field_roles, search_fields
from raymtl.config.root import Config
from raymtl.data.build_id_maps import make_maps
from raymtl.data.ids.id_map import MapFile, find_map, save_map
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
from raymtl.training.phases import joining
from raymtl.training.resources import ResourceGrant, reading_tasks
from raymtl.training.rundir import CONFIG, RunFolder, run_lock
from raymtl.training.trainer import pass_schedule
from raymtl.tuning.blocks import fits, read_shared
from raymtl.tuning.check import check, search_folder
from raymtl.tuning.inprocess_trial import Begin, trial_folder
from raymtl.tuning.result import write_result
from raymtl.tuning.sampler import rung_rows
from raymtl.tuning.search import Finished, Search
from raymtl.tuning.space import Space
from raymtl.tuning.trial import REPORT, Shared, reading_part, run_trial
from raymtl.tuning.trial_store import TrialStore, trial_name
from raymtl.words import count_of

CLOCK = "clock.json"
"""Seconds that a search has taken, and where they went."""


def tune(config: Config, *, address: str | None = None, on_event: Listener | None = None) -> TuneResult:
    """Run or resume the search that `config` describes and return what `result.json` of its folder holds.

    `on_event` gets `{note: text}`, and `{trial: Trial}` whenever one of them changes. Raises UserError.
    """
    notify: Listener = on_event or (lambda record: None)
    space = check(config)
    assert config.tune is not None
    folder = RunFolder.open(search_folder(config))
    ready = prepare_inputs(config)
    check_writable(folder)
    _compare_with_previous(config, folder)
    if (begin := _begin(config, json.loads(folder.read(CLOCK) or "{}"))) is not None:
        check_fits(config, begin.store, show(begin.store, begin.version))
    notify({"note": joining(address)})
    room, concurrent = _room(config, address)
    with run_lock(folder):
        clock = json.loads(folder.read(CLOCK) or "{}")
        begin = _begin(config, clock)
        _compare_data(clock, {part: plan.identity for part, plan in ready.plans.items()}, folder)
        folder.write(CONFIG, dump_config(config))
        folder.write(CLOCK, json.dumps(clock))
        trial_store = TrialStore(folder)
        maps = _maps(
            config, begin, ready.plans["train"], folder, bool(trial_store.trials), lambda line: notify({"note": line})
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
                begin,
                room,
                _after_units(config, ready.plans["train"], total),
            )
            clock.setdefault("prepared_s", round(search.searched_s - clock.get("searched_s", 0.0), 1))
            _run(config, folder, search, shared, concurrent, clock)
        if search.outage is not None:
            raise StorageError(f"{search.outage}; the search stops here; rerun the same command to resume it")
        result = write_result(search, folder, clock)
        if search.default_failed is not None:
            raise ConfigError(
                f"the configuration as it is cannot be trained, so no trial of it can: {search.default_failed}; fix "
                f"it, and search "
                "under another `name`"
            )
        return result


def opened(path: str) -> tuple[Search, dict[str, Any]]:
    """A search out of its folder, to be looked at, and its clock. Raises CheckpointError where it is none."""
    folder = RunFolder.open(path)
    text = folder.read_text(CONFIG)
    if text is None:
        raise CheckpointError(f"`{path}` is no folder of a search: it has no {CONFIG}; name <output>/<name>-tune")
    config = load_config(None, text=text)
    if config.tune is None:
        raise CheckpointError(f"`{path}` is the folder of a run, not of a search; name <output>/<name>-tune")
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
    notes = _Notes(search, folder, clock)
    trainable = ray_tune.with_resources(ray_tune.with_parameters(run_trial, shared=shared), _resources(config))
    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=_NextTrial(notes),
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
            # A process that dies is tried once more, from its checkpoint; what a trial itself finds wrong it reports
            failure_config=ray_tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )
    tuner.fit()
    notes.write_clock()


class _Notes:
    """Between Ray Tune and the search: numbers of trials by Tune's own names, and the clock."""

    def __init__(self, search: Search, folder: RunFolder, clock: dict[str, Any]):
        self.search, self._folder, self._clock = search, folder, clock
        self.numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves what it is given, to restore it; here the records do that, and a terminal cannot be saved

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

    def __init__(self, notes: _Notes):
        super().__init__()
        self._notes = notes

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            trial = self._notes.search.next()
        except Finished:
            return Searcher.FINISHED
        if trial is None:
            return None
        self._notes.numbers[trial_id] = trial.number
        return {"number": trial.number, "config": trial.config}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called before Tune lets the trial go on: by then its record says whether it is given up."""
        self._notes.search.reported(json.loads(result[REPORT]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._notes.ended(trial_id, error)

    # The records are the state; Tune's own snapshots are never read
    def save(self, checkpoint_path: str) -> None:
        del checkpoint_path

    def restore(self, checkpoint_path: str) -> None:
        del checkpoint_path


def _after_units(config: Config, plan: Plan, total: int) -> frozenset[int]:
    """Units of all epochs after which the stopping rule wants a measurement: the first that ends at or after each rung."""
    assert config.tune is not None
    rungs = rung_rows(config.tune, total)
    if not rungs and config.tune.stopping.type != "none":
        raise ConfigError(
            f"tune.stopping begins at more rows than a trial has ({total:,}), so that it would stop none; lower it, or remove it"
        )
    found, rows = set(), 0
    for done, (_, unit) in enumerate(pass_schedule(plan, config), start=1):
        rows += plan.units[unit].rows
        if rungs and rows >= rungs[0]:
            found.add(done)
            while rungs and rows >= rungs[0]:
                rungs.pop(0)
    return frozenset(found)


def _compare_data(clock: dict[str, Any], plans: dict[str, str], folder: RunFolder) -> None:
    """The rows of a search stay the same from start to start. Notes them at the first one."""
    if clock.setdefault("plans", plans) != plans:
        raise ConfigError(
            f"the days that the search {folder.path} reads have changed since it began, so its trials cannot be compared with "
            "new ones; set another `name`"
        )


def _begin(config: Config, clock: dict[str, Any]) -> Begin | None:
    """The version to begin with: the one that is current when the search first starts. Noted then."""
    assert config.tune is not None
    start = config.tune.start
    if start is None:
        return None
    store = start.store or (config.daily.store if config.daily is not None else None)
    if store is None:
        raise ConfigError("tune.start.store is missing, and there is no daily.store; name the folder of the versions")
    opened_store = Store.open(store)
    version = clock.setdefault("version", show(opened_store, start.version).id)
    return Begin(opened_store, version, start.train == "heads")


def _maps(
    config: Config, begin: Begin | None, plan: Plan, folder: RunFolder, begun: bool, notify: Callable[[str], None]
) -> dict[str, MapFile]:
    """Which ID holds which row of each `map` table, for all trials: by the training days, or as the version has it."""
    if begin is None:
        return make_maps(config, plan, folder, reading_tasks(config, workers=0), begun, notify)
    links = chain(begin.store, show(begin.store, begin.version))
    files = {}
    for table in config.map_tables():
        if table not in links[-1].tables:
            raise VersionError(
                f"version {begin.version} has no table `{table}`, whose rows a map gives out; set its id_space to `hash`, "
                "or begin with another version"
            )
        name = f"maps/{table}.parquet"
        found = find_map(folder, name)
        kept = found is not None and found.notes.get("version") == begin.version
        files[table] = (
            found
            if found and kept
            else save_map(read_map(begin.store, links, table), folder, name, {"version": begin.version})
        )
    return files


def _compare_with_previous(config: Config, folder: RunFolder) -> None:
    """A search of the same name resumes; with another configuration its trials could not be compared."""
    text = folder.read_text(CONFIG)
    if text is None:
        return
    try:
        before = load_config(None, text=text)
    except ConfigError as error:
        raise ConfigError(
            f"{folder.path_of(CONFIG)} of the earlier search cannot be read ({error}); set another `name`"
        ) from error
    if before.tune is None:
        raise ConfigError(f"the folder {folder.path} is that of a run, not of a search; set another `name`")
    if search_fields(before) != search_fields(config):
        sizes = [path.removeprefix("tune.") for path, role in field_roles(Config).items() if Role.SEARCH_SIZE in role]
        what = "tune" if config_hash(before) == config_hash(config) else "configuration"
        raise ConfigError(
            f"the search {folder.path} was started with another {what}, and its trials cannot be compared with new ones; set "
            f"another `name`, or restore the old values to resume it ({', '.join(sizes)} may change)"
        )


# Room


def _resources(config: Config) -> dict[str, float]:
    """What Ray Tune reserves for a trial; one with several workers only watches, and Ray Train reserves theirs."""
    train, tune_ = config.train, config.tune
    assert tune_ is not None
    if train.workers > 1:
        return {"CPU": 0.01}
    return {"CPU": train.cpus_per_worker, **({"GPU": tune_.gpus_per_trial} if train.use_gpu else {})}


def _room(config: Config, address: str | None) -> tuple[ResourceGrant, int]:
    """What a trial may take, and how many run at a time. Raises ClusterError where there is no room for one."""
    train, tune_ = config.train, config.tune
    assert tune_ is not None
    cores = os.cpu_count() or 1
    per_trial = train.workers * train.cpus_per_worker
    # On this machine alone CPUs are only numbers: two per trial, one to train with and one to read with, and one for all
    wanted = tune_.max_concurrent or max(1, cores // per_trial)
    local = connect(config, address, cpus=wanted * (per_trial + 1) + 1)
    total = ray.cluster_resources()
    spare = 0 if train.workers == 1 else 1  # CPUs of a trial for reading
    rooms = [sum(int(n["Resources"].get("CPU", 0)) // per_trial for n in ray.nodes() if n["Alive"])]
    if train.workers > 1:
        rooms = [int(total.get("CPU", 0) // (per_trial + spare))]
    if train.use_gpu:
        rooms.append(int(total.get("GPU", 0) // (train.workers if train.workers > 1 else tune_.gpus_per_trial)))
    if min(rooms) < 1:
        raise ClusterError(
            f"a trial needs {per_trial} CPUs"
            + (f" and {train.workers if train.workers > 1 else tune_.gpus_per_trial:g} GPUs" if train.use_gpu else "")
            + f"; the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; lower train.workers or "
            "train.cpus_per_worker, or add nodes"
        )
    concurrent = min(tune_.max_concurrent or math.inf, *rooms, wanted if local else math.inf)
    nodes = sum(n["Alive"] for n in ray.nodes())
    threads = train.threads_per_worker or max(1, cores // -(-int(concurrent) * train.workers // nodes))
    return ResourceGrant(config.data.read_tasks or 1, threads), int(concurrent)
