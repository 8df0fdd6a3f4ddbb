"""The driver of batch scoring: checks, the weights in Ray's object store, a pool of scorers, the success marker."""

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.context import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymtl.config.base import quoted
from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.data.found import File
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.data.units import find_footers
from raymtl.data.writing import OutputFolder
from raymtl.errors import ClusterError, ConfigError, UserError, user_errors
from raymtl.objectives.fusion import Fusion
from raymtl.serving.model import load_ranker, served_tables
from raymtl.serving.plan import ScorePlan, default_keys, plan_scoring
from raymtl.serving.scorer import PREDICTION, SCORE, Assets, Scorer
from raymtl.serving.top import PARTS, RANK, Top, check_list_column, choose_top, merged
from raymtl.serving.version import Version, open_version, read_dense, read_id_map, read_table
from raymtl.telemetry import logs
from raymtl.training.cluster import join
from raymtl.training.resources import places
from raymtl.training.rundir import run_lock
from raymtl.training.start_lines import joining
from raymtl.words import count_of

JOB, SUCCESS = "_scoring.json", "_SUCCESS"
"""Marker files of a scoring job: its description, written first, and the success marker, written last."""
BATCH_ROWS = 4096
_MAP_BYTES = 32
"""Bytes of an ID in the lookup of a map."""
_MAP_READING_BYTES = 128
"""Bytes of a row while a map is read, besides the lookup's copy in the object store."""
_ROOM_S = 60.0
"""Longest wait for resources for the scorers."""
_NO_DAY = dt.date.min
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Best:
    """Keep only the best rows of each list (`raymtl/serving/top.py`)."""

    rows: int
    """Of each list."""
    per: str | None = None
    """Column that names the list of a row; None: `data.group` and `data.request` together, or the one that is set."""
    by: str | None = None
    """Column of the output to rank by; None: that of the only formula."""


@dataclass(frozen=True)
class Pool:
    """The processes that score."""

    workers: int | None = None
    """Number of processes; None: as many as the CPUs (with `gpu`: the GPUs) of the nodes allow."""
    cpus: int = 1
    """CPUs, and threads, of each."""
    gpu: bool = False
    """One GPU for each."""
    batch_rows: int = BATCH_ROWS
    """Rows of a model batch."""


def score(
    version: str,
    data: str,
    out: str,
    *,
    days: DayRange | None = None,
    keys: Sequence[str] = (),
    snapshot: int | None = None,
    pool: Pool = Pool(),
    address: str | None = None,
    allow_custom: bool = False,
    formulas: str | None = None,
    best: Best | None = None,
    with_scores: bool = True,
    progress: Progress | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the predictions of a version for every row of the data to the folder `out`; returns the content of `_SUCCESS`.

    Without `keys` the columns are those of `default_keys`. `formulas` is a file with a `score` section in place of the version's.
    With `best`, only the best rows of each list are written; without `with_scores`, only predictions. Output of an earlier call
    for the same version, data and keys is kept; other output is refused with a ConfigError. `snapshot` is that of a table; None:
    the latest one, or that of the earlier call. `allow_custom`: the version may name classes to import. `notify` gets a line for
    each step that takes a while. Raises other UserErrors for anything else that the user can fix.
    """
    began = time.monotonic()
    opened = open_version(version, allow_custom, formulas)
    if not with_scores:
        opened = replace(opened, config=opened.config.model_copy(update={"score": None}))
    config = opened.config
    folder = OutputFolder.open(out)
    if snapshot is None:  # an interrupted call resumes with its own
        snapshot = (_marker(folder, JOB) or {}).get("snapshot")
    names = _columns(opened)
    top = None if best is None else choose_top(config, names, best.rows, best.per, best.by)
    keys = [*(list(keys) or default_keys(config)), *(top.per if top else ())]
    plan = plan_scoring(config, data, days, keys, snapshot)
    for note in plan.notes:
        notify(note)
    if taken := {*names, *([RANK] if top else [])} & set(plan.keys.names):
        raise ConfigError(f"--keys names `{sorted(taken)[0]}`, which is the name of a column of the output; remove it")
    if top:
        check_list_column(plan.keys, top)
    with run_lock(folder, what="scoring into", remedy="use another --out"):
        _begin(folder, opened, plan, names, top)
        if (done := _success(folder, plan, top)) is not None:
            return done
        target = folder.child(PARTS) if top else folder
        written = _written(target, plan, whole=top is None)
        missing = [n for n, output in enumerate(plan.outputs) if output.name not in written]
        users, scorer_seconds, cpu_seconds = 0, 0.0, 0.0
        if progress:
            progress(sum(written.values()), plan.rows)
        if missing or top:
            logs.at(run=config.name)
            # On one machine use all its CPUs
            notify(joining(address))
            local = join(address, pool.cpus * min(pool.workers or 1, max(len(missing), 1)))
        if missing:
            for made in _scored(opened, plan, target, missing, pool, local, notify, top):
                written[made["file"]] = made["rows"]
                users += made["users"]
                scorer_seconds += made["seconds"]
                cpu_seconds += made["cpu_seconds"]
                if progress:
                    progress(sum(written.values()), plan.rows)
        files = _files(plan)
        if top:
            notify(f"merging the best {top.rows} rows by `{top.by}` of each {quoted(top.per)}")
            types = plan.keys
            for name in names:
                types = types.append(pa.field(name, pa.float32()))
            files = merged(plan, top, folder, types)
        facts = {
            **_job(opened, plan, names, top),
            "rows": sum(file["rows"] for file in files),
            "users_computed": users,
            "scorer_seconds": round(scorer_seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "files": files,
            "seconds": round(time.monotonic() - began, 1),
        }
        folder.write(SUCCESS, json.dumps(facts, indent=1) + "\n")
        if top:
            target.remove_folder()
    return facts


def _columns(version: Version) -> list[str]:
    """Names of the columns of predictions and scores; also checks the dense weights and the formulas."""
    ranker = load_ranker(version.config, read_dense(version), version.manifest.id)
    outputs = ranker.outputs.names
    score = version.config.score
    scores = [] if score is None else Fusion(score.formulas, outputs).names
    return [*(PREDICTION + name for name in outputs), *(SCORE + name for name in scores)]


def _job(version: Version, plan: ScorePlan, names: list[str], top: Top | None) -> dict[str, Any]:
    """The description of a scoring job: everything its files depend on."""
    score = version.config.score
    return {
        "version": version.manifest.id,
        "manifest": version.digest,
        "store": version.store.path,
        "data": plan.root,
        "input": plan.identity,
        "snapshot": plan.snapshot,
        "keys": {field.name: str(field.type) for field in plan.keys},
        "predictions": names,
        "formulas": None if score is None else {n: f.model_dump(mode="json") for n, f in score.formulas.items()},
        "top": top and asdict(top) | {"per": [*top.per]},
    }


_SAME = ("manifest", "input", "keys", "predictions", "formulas", "top")
"""Keys that must not change between two calls for one folder; paths may change, like a mount point."""


def _begin(folder: OutputFolder, version: Version, plan: ScorePlan, names: list[str], top: Top | None) -> None:
    """Write the description into the folder. Raises ConfigError if the folder holds other output."""
    job = _job(version, plan, names, top)
    before = _marker(folder, JOB)
    if before is None:
        if found := [name for name in folder.files() if not name.rpartition("/")[2].startswith((".", "_"))]:
            raise ConfigError(f"--out `{folder.path}` holds other files, such as `{found[0]}`; use an empty folder")
        folder.write(JOB, json.dumps(job, indent=1) + "\n")
        return
    if not before:
        raise ConfigError(f"`{folder.path_of(JOB)}` is damaged; use another --out")
    if differing := [key for key in _SAME if before.get(key) != job[key]]:
        what = {
            "manifest": f"of version {before.get('version')}, not {job['version']}",
            "input": f"for other files of `{before.get('data')}` (other days, or the files have changed)",
            "keys": f"with the key columns {before.get('keys')}, not {job['keys']}",
            "predictions": f"in the columns {before.get('predictions')}, not {names}",
            "formulas": "by other formulas",
            "top": "of all rows" if before.get("top") is None else f"of the best rows {before['top']}",
        }[differing[0]]
        raise ConfigError(f"--out `{folder.path}` holds predictions {what}; choose an empty folder, or delete this one")


def _success(folder: OutputFolder, plan: ScorePlan, top: Top | None) -> dict[str, Any] | None:
    """The content of `_SUCCESS` if it and all files are complete; otherwise it is removed until they are."""
    found = _marker(folder, SUCCESS)
    if found is None:
        return None
    files = found.get("files") if top else _files(plan)
    rows = {file["path"]: file["rows"] for file in files or ()}
    same = found.get("files") == files and found.get("rows") == sum(rows.values())
    if rows and same and _rows_of(folder, list(rows)) == rows:
        return found
    folder.remove(SUCCESS)
    return None


def _files(plan: ScorePlan) -> list[dict[str, Any]]:
    """The entries of the files in `_SUCCESS`."""
    return [{"path": output.name, "rows": output.rows} for output in plan.outputs]


def _marker(folder: OutputFolder, name: str) -> dict[str, Any] | None:
    """The JSON object of a marker, empty if it is damaged; None if it does not exist."""
    try:
        text = folder.read_text(name)
        found = None if text is None else json.loads(text)
    except ValueError:
        return {}
    return found if text is None or isinstance(found, dict) else {}


def _written(folder: OutputFolder, plan: ScorePlan, whole: bool) -> dict[str, int]:
    """Rows of the units that an earlier call has finished, by name; their files have all of them, if they are `whole`."""
    found = _rows_of(folder, [output.name for output in plan.outputs])
    expected = {output.name: output.rows for output in plan.outputs}
    return {name: expected[name] for name, count in found.items() if count == expected[name] or not whole}


def _rows_of(folder: OutputFolder, names: Sequence[str]) -> dict[str, int]:
    """Rows of the files that exist and can be read, by name."""
    there = {name for name in folder.files() if not name.rpartition("/")[2].startswith((".", "_"))}
    named = {folder.inside(name): name for name in names if name in there}
    # An unreadable file is rewritten, so its size does not matter
    footers, _ = find_footers(folder.filesystem, [File(path, _NO_DAY, 1) for path in named])
    return {named[f.file.path]: sum(f.row_group_rows) for f in footers}


def _scored(
    version: Version,
    plan: ScorePlan,
    out: OutputFolder,
    units: list[int],
    pool: Pool,
    local: bool,
    notify: Callable[[str], None],
    top: Top | None,
) -> Iterator[dict[str, Any]]:
    """Score the units; yields the summary of each unit as it finishes."""
    workers = _workers(pool, len(units), local)
    reading = _reading_bytes(version)
    _check_memory(version, reading)
    tables = sum(kind == "table" for kind, _ in reading)
    notify(f"reading {count_of(tables, 'table')} of version {version.manifest.id}")
    loaded: dict[str, dict[str, ray.ObjectRef]] = {"table": {}, "map": {}}
    ended = []
    for (kind, name), memory in reading.items():
        load = _load_table if kind == "table" else _load_map
        # Ray limits concurrent reads on a node by its memory
        loaded[kind][name], end = load.options(memory=memory).remote(version, name)
        ended.append(end)
    # The scorers may take all CPUs, so wait for the loading tasks first; the weights stay in the object store
    if (error := next(filter(None, user_errors(ray.get(ended))), None)) is not None:
        raise error
    assets = Assets(version.manifest.id, ray.put(read_dense(version)), loaded["table"], loaded["map"])
    notify(f"starting {count_of(workers, 'scorer')}")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    made = _run_pool.options(scheduling_strategy=here).remote(
        version.config, plan, out, units, pool, workers, assets, top
    )
    for found in user_errors(ray.get(batch) for batch in made):
        yield from found


@ray.remote(num_cpus=0, num_returns="streaming", max_retries=0)
def _run_pool(
    config: Config,
    plan: ScorePlan,
    out: OutputFolder,
    units: list[int],
    pool: Pool,
    workers: int,
    assets: Assets,
    top: Top | None,
) -> Iterator[list[dict[str, Any]]]:
    """Score with a pool of Ray Data, in its own process: this keeps Ray's output about the pool's actors and their failures,
    which no setting turns off, in Ray's log files."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        dataset = ray.data.from_items([{"unit": n} for n in units], override_num_blocks=len(units)).map_batches(
            Scorer,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(config, plan, out, assets, pool.batch_rows, pool.cpus, pool.gpu, top),
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=pool.cpus,
            num_gpus=1 if pool.gpu else None,
        )
        for batch in user_errors(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)):
            yield batch.to_pylist()


def _workers(pool: Pool, units: int, local: bool) -> int:
    """Number of scorers to start. Raises ClusterError if the nodes have too few resources for the requested ones."""
    need = {"CPU": pool.cpus, **({"GPU": 1} if pool.gpu else {})}
    least = min(pool.workers or 1, units)
    remedy = "lower --workers or --cpus-per-worker, wait for other jobs to end, or add nodes"
    most = places(need, least, local, _ROOM_S, "the scorers" if least == 1 else f"{least} scorers", remedy)
    return least if pool.workers else min(most, units)


def _reading_bytes(version: Version) -> dict[tuple[str, str], int]:
    """Memory of the task that reads a `table` or `map`, by this kind and the table's name.

    It holds the complete table besides Ray's copy in the object store, and one file, both compressed and decompressed.
    """
    found = {}
    for name in served_tables(version.config):
        table = version.manifest.tables[name]
        file = 2 * max((f.bytes for part in version.parts for f in part.tables[name].files), default=0)
        found["table", name] = 4 * table.rows * table.dim + file
        if table.id_space == "map":
            found["map", name] = _MAP_READING_BYTES * table.rows + file
    return found


def _check_memory(version: Version, reading: dict[tuple[str, str], int]) -> None:
    """Raise ClusterError if the tables exceed the object store of a node that scores, or reading one exceeds the memory of
    every node."""
    tables = {name: version.manifest.tables[name] for name in served_tables(version.config)}
    need = sum(4 * t.rows * t.dim + (_MAP_BYTES * t.rows if t.id_space == "map" else 0) for t in tables.values())
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0)]
    smallest = min(nodes, key=lambda node: node["Resources"].get("object_store_memory", 0))
    least = smallest["Resources"].get("object_store_memory", 0)
    if need > least:
        raise ClusterError(
            f"the tables of version {version.manifest.id} take {need / 2**30:.1f} GiB, but the object store of node "
            f"{smallest['NodeManagerAddress']} has only {least / 2**30:.1f} GiB; start Ray there with a larger "
            "--object-store-memory (and /dev/shm), or use larger nodes"
        )
    most = max(node["Resources"].get("memory", 0) for node in nodes)
    for (kind, table), size in reading.items():
        if size > most:
            raise ClusterError(
                f"reading the {kind} `{table}` of version {version.manifest.id} takes {size / 2**30:.1f} GiB besides the object "
                f"store, but no node has more than {most / 2**30:.1f} GiB; start Ray on a node with more memory (`--memory`)"
            )


@ray.remote(num_cpus=1, num_returns=2)
def _load_table(version: Version, table: str) -> tuple[np.ndarray | None, UserError | None]:
    """The weights, and a second result that tells the driver, without fetching them, whether loading failed.

    A raised error would become both results, and Ray prints errors of results that are never fetched.
    """
    try:
        return read_table(version, table), None
    except UserError as error:
        return None, error


@ray.remote(num_cpus=1, num_returns=2)
def _load_map(version: Version, table: str) -> tuple[np.ndarray | None, UserError | None]:
    """The lookup of a map, like `_load_table`."""
    try:
        id_map = read_id_map(version, table)
        return IdLookup.build(id_map.ids, id_map.rows).words, None
    except UserError as error:
        return None, error
