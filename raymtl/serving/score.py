"""Batch scoring from the driver's side: checks, the weights into Ray's object store, a pool of scorers, the marker."""

import datetime as dt
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.context import DataContext

from raymtl.config.data import DayRange
from raymtl.data.id_lookup import IdLookup
from raymtl.data.source import File, below, open_filesystem
from raymtl.data.units import find_footers
from raymtl.data.writing import Folder
from raymtl.errors import ClusterError, ConfigError, user_errors
from raymtl.serving.model import load_ranker, served_tables
from raymtl.serving.plan import ScorePlan, default_keys, plan_scoring
from raymtl.serving.scorer import PREDICTION, Assets, Scorer
from raymtl.serving.version import Version, open_version, read_dense, read_id_map, read_table
from raymtl.training.cluster import connect
from raymtl.training.rundir import only_one

JOB, SUCCESS = "_scoring.json", "_SUCCESS"
"""Files of a scoring: what it is, written first, and that it is complete, written last."""
BATCH_ROWS = 4096
_MAP_BYTES = 32
"""Of an ID in the lookup of a map."""
_NO_DAY = dt.date.min
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pool:
    """The processes that score."""

    workers: int | None = None
    """How many; None: as many as the CPUs (with `gpu`: the GPUs) of the cluster allow."""
    cpus: int = 1
    """CPUs, and threads, of each."""
    gpu: bool = False
    """One GPU for each."""
    batch_rows: int = BATCH_ROWS
    """Rows that the model takes at a time."""


def score(
    version: str,
    data: str,
    out: str,
    *,
    days: DayRange | None = None,
    keys: Sequence[str] = (),
    pool: Pool = Pool(),
    address: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the predictions of a version for every row of the data to the folder `out`; returns what `_SUCCESS` holds.

    Without `keys` the columns are those of `default_keys`. What an earlier call for the same version, data and keys has written
    stays; another one's output is refused with a ConfigError. Raises other UserErrors for whatever else the user can mend.
    """
    began = time.monotonic()
    opened = open_version(version)
    config = opened.config
    plan = plan_scoring(config, data, days, list(keys) or default_keys(config))
    names = [PREDICTION + name for name in _outputs(opened)]
    if taken := set(names) & set(plan.keys.names):
        raise ConfigError(
            f"--keys names `{sorted(taken)[0]}`, which is the name of a column of predictions; leave it out"
        )
    folder = Folder(out)
    with only_one(folder.path, what="scoring into", remedy="give another --out"):
        if (done := _begin(folder, opened, plan, names)) is not None:
            return done
        written = _written(folder, plan)
        missing = [n for n, output in enumerate(plan.outputs) if output.name not in written]
        users, scorer_seconds, cpu_seconds = 0, 0.0, 0.0
        if progress:
            progress(sum(written.values()), plan.rows)
        if missing:
            connect(config, address)
            for made in _scored(opened, plan, folder.path, missing, pool):
                written[made["file"]] = made["rows"]
                users += made["users"]
                scorer_seconds += made["seconds"]
                cpu_seconds += made["cpu_seconds"]
                if progress:
                    progress(sum(written.values()), plan.rows)
        facts = {
            **_job(opened, plan, names),
            "rows": sum(written.values()),
            "users_computed": users,
            "scorer_seconds": round(scorer_seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "files": [{"path": o.name, "rows": written[o.name]} for o in plan.outputs],
            "seconds": round(time.monotonic() - began, 1),
        }
        folder.write_text(SUCCESS, json.dumps(facts, indent=1) + "\n")
    return facts


def _outputs(version: Version) -> list[str]:
    """Names of the predictions' columns, without what they begin with; the dense weights are checked on the way."""
    ranker = load_ranker(version.config, read_dense(version), version.manifest.id)
    return [*ranker.tasks, *ranker.derived]


def _job(version: Version, plan: ScorePlan, names: list[str]) -> dict[str, Any]:
    """What the files of a scoring depend on."""
    return {
        "version": version.manifest.id,
        "manifest": version.digest,
        "store": version.store.path,
        "data": plan.root,
        "input": plan.identity,
        "keys": {field.name: str(field.type) for field in plan.keys},
        "predictions": names,
    }


_SAME = ("manifest", "input", "keys", "predictions")
"""What must not change between two calls for one folder; paths may, as a mount does."""


def _begin(folder: Folder, version: Version, plan: ScorePlan, names: list[str]) -> dict[str, Any] | None:
    """Say in the folder whose output it holds; what `_SUCCESS` says where all of it is there already.

    Raises ConfigError where the folder holds something else.
    """
    job = _job(version, plan, names)
    text = folder.read_text(JOB)
    if text is None:
        if found := [name for name in folder.files() if not name.rpartition("/")[2].startswith((".", "_"))]:
            raise ConfigError(f"--out `{folder.path}` holds other files, such as `{found[0]}`; give an empty folder")
        folder.write_text(JOB, json.dumps(job, indent=1) + "\n")
        return None
    try:
        before = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"`{below(folder.path, JOB)}` is damaged ({error}); give another --out") from error
    if differing := [key for key in _SAME if before.get(key) != job[key]]:
        what = {
            "manifest": f"version {before.get('version')}, not {job['version']}",
            "input": f"other files of `{before.get('data')}`: the days are others, or the data changed since",
            "keys": f"the key columns {list(before.get('keys', {}))}, not {list(job['keys'])}, or of other types",
            "predictions": f"the predictions {before.get('predictions')}, not {names}",
        }[differing[0]]
        raise ConfigError(f"--out `{folder.path}` holds the output of {what}; give another folder, or remove that one")
    done = folder.read_text(SUCCESS)
    return None if done is None else json.loads(done)


def _written(folder: Folder, plan: ScorePlan) -> dict[str, int]:
    """Rows of the files that an earlier call has finished, by name."""
    filesystem, root = open_filesystem(folder.path)
    there = {name for name in folder.files() if not name.rpartition("/")[2].startswith((".", "_"))}
    named = {f"{root.rstrip('/')}/{o.name}": o for o in plan.outputs if o.name in there}
    # A file that cannot be read is written again, so its size is of no interest
    footers, _ = find_footers(filesystem, [File(path, _NO_DAY, 1) for path in named])
    rows = {named[f.file.path]: sum(f.row_group_rows) for f in footers}
    return {output.name: count for output, count in rows.items() if count == output.unit.rows}


def _scored(version: Version, plan: ScorePlan, out: str, units: list[int], pool: Pool) -> Iterator[dict[str, Any]]:
    """Have the units scored; yields what each scorer says of its unit, as they end."""
    workers = min(_workers(pool), len(units))
    _check_memory(version)
    names = served_tables(version.config)
    tables = {name: _load_table.remote(version, name) for name in names}
    maps = {name: _load_map.remote(version, name) for name in names if name in version.config.map_tables()}
    loading = [*tables.values(), *maps.values()]
    # The scorers may take all CPUs, so they must not wait for tasks that need one
    ray.wait(loading, num_returns=len(loading), fetch_local=False)
    assets = Assets(version.manifest.id, ray.put(read_dense(version)), tables, maps)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        dataset = ray.data.from_items([{"unit": n} for n in units], override_num_blocks=len(units)).map_batches(
            Scorer,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(version.config, plan, out, assets, pool.batch_rows, pool.cpus, pool.gpu),
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=pool.cpus,
            num_gpus=1 if pool.gpu else None,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # a line per execution otherwise
        for batch in user_errors(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)):
            yield from batch.to_pylist()


def _workers(pool: Pool) -> int:
    """How many scorers there are room for. Raises ClusterError where the cluster has no room for those asked for."""
    total = ray.cluster_resources()
    room = int(total.get("CPU", 0) // pool.cpus)
    if pool.gpu:
        room = min(room, int(total.get("GPU", 0)))
    if (pool.workers or 1) > room:
        raise ClusterError(
            f"{pool.workers or 1} scorers need {(pool.workers or 1) * pool.cpus} CPUs"
            + (f" and {pool.workers or 1} GPUs" if pool.gpu else "")
            + f"; the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; lower --workers or "
            "--cpus-per-worker, or add nodes"
        )
    return pool.workers or room


def _check_memory(version: Version) -> None:
    """Raise ClusterError where the tables are larger than the object store of some node that scores."""
    tables = {name: version.manifest.tables[name] for name in served_tables(version.config)}
    need = sum(4 * t.rows * t.dim + (_MAP_BYTES * t.rows if t.id_space == "map" else 0) for t in tables.values())
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0)]
    least = min(resources.get("object_store_memory", 0) for resources in nodes)
    if need > least:
        raise ClusterError(
            f"the tables of version {version.manifest.id} take {need / 2**30:.1f} GiB, and Ray's object store has "
            f"{least / 2**30:.1f} GiB on some node; start Ray with a larger --object-store-memory (and /dev/shm), or on larger "
            "nodes"
        )


@ray.remote(num_cpus=1)
def _load_table(version: Version, table: str) -> np.ndarray:
    return read_table(version, table)


@ray.remote(num_cpus=1)
def _load_map(version: Version, table: str) -> np.ndarray:
    id_map = read_id_map(version, table)
    return IdLookup.build(id_map.ids, id_map.rows).words
