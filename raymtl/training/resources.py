"""Check whether the cluster has the resources for a run by requesting them from Ray, and report what is missing."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from raymtl.config.root import Config
from raymtl.config.train import Train
from raymtl.errors import ClusterError

_GIVEN_BACK_S = 20.0
"""An earlier run on this machine releases its resources within this time."""
_SAID_AFTER_S = 5.0
_LOOK_S = 1.0
_LISTED_NODES = 6

Resources = Mapping[str, float]


@dataclass(frozen=True)
class ResourceGrant:
    """The resources that a run may use."""

    read_tasks: int | None
    """Reading tasks at a time; None: depends on what is free when reading starts."""
    threads: int


def worker_resources(train: Train) -> dict[str, float]:
    """The resources that Ray reserves for each worker."""
    return {"CPU": train.cpus_per_worker, **({"GPU": 1} if train.use_gpu else {}), **train.placement.resources}


def readers_take_cpus(config: Config) -> bool:
    """Whether reading tasks reserve a CPU each. Elastic workers may get every CPU, and such readers would wait forever."""
    return config.train.min_workers is None


def wait_for_resources(config: Config, local: bool, notify: Callable[[str], None] | None = None) -> ResourceGrant:
    """Wait until the cluster has resources for the run's workers (`train.min_workers` of them) and one reader.

    Requests exactly these from Ray, so that an autoscaler sees the demand. If they are missing, `notify` gets a description, and
    ClusterError is raised after `train.start_timeout_s`; or at once on this machine alone, where no node can join.
    """
    train = config.train

    def waiting() -> str:
        return f"waiting up to {train.start_timeout_s:.0f} s for resources: {_shortage(config)}"

    with _asked_for(config) as groups:
        _wait(
            groups,
            lambda: _patience(local, train.start_timeout_s, lambda: shortage(config) is None),
            lambda waited: _sentence(config, 0 if local else waited),
            None if notify is None else lambda: notify(waiting()),
        )
    return ResourceGrant(config.data.read_tasks, train.threads_per_worker or _threads(train, local))


def places(need: Resources, least: int, local: bool, limit_s: float, who: str, remedy: str) -> int:
    """How many processes of `need` each fit on the nodes if nothing else runs there, once Ray has placed `least` of them.

    Raises ClusterError, with `who`, the total and free resources of each node, and the `remedy`: after `limit_s`, or at once if
    Ray runs on this machine alone and it is too small.
    """

    def fit() -> int:
        return int(sum(_times(need, node) for node in _totals({})))

    group = placement_group([dict(need)] * least)
    try:
        _wait(
            [group],
            lambda: _patience(local, limit_s, lambda: fit() >= least),
            lambda waited: (
                f"{who} need {_amounts(need)} each; an empty cluster has room for {fit()} of them: "
                f"{_nodes_listed(need)}{_waited(0 if local else waited)}; {remedy}"
            ),
        )
        return max(fit(), least)
    finally:
        remove_placement_group(group)


def _wait(
    groups: Sequence[PlacementGroup],
    patience: Callable[[], float],
    refusal: Callable[[float], str],
    notify: Callable[[], None] | None = None,
) -> None:
    """Wait until Ray has placed all groups. Raises ClusterError with `refusal(seconds waited)` when `patience` is over; a long
    wait calls `notify` once."""
    began = time.monotonic()
    while True:
        waited, longest = time.monotonic() - began, patience()
        if _are_placed(groups, within_s=max(0.0, min(_LOOK_S, longest - waited))):
            return
        if waited >= longest:
            raise ClusterError(refusal(waited))
        if notify is not None and waited > _SAID_AFTER_S:
            notify()
            notify = None


def _patience(local: bool, limit_s: float, enough: Callable[[], bool]) -> float:
    """Total seconds to wait; on this machine alone no node is added, but an earlier run may still release its resources."""
    if local:
        return _GIVEN_BACK_S if enough() else 0.0
    return limit_s


def shortage(config: Config) -> str | None:
    """The missing resources if the current nodes, even when empty, do not fit the workers and a reader; else None."""
    fit = _workers_that_fit(config.train, _totals(config.train.placement.labels))
    enough = fit >= config.train.fewest_workers and _can_read(config)
    return None if enough else _shortage(config)


def reading_tasks(config: Config, workers: int) -> int:
    """Reading tasks at a time: as configured, or half of the CPUs that `workers` leave free, at least one."""
    spare = ray.cluster_resources().get("CPU", 0) - workers * config.train.cpus_per_worker
    return config.data.read_tasks or max(1, int(spare // 2))


@contextmanager
def _asked_for(config: Config) -> Iterator[list[PlacementGroup]]:
    """Request the workers and a reader as placement groups, released at the end."""
    train, labels = config.train, config.train.placement.labels
    count = train.fewest_workers
    groups = [
        placement_group(
            [worker_resources(train)] * count,
            strategy=train.placement.strategy,
            bundle_label_selector=[labels] * count if labels else None,
        )
    ]
    if readers_take_cpus(config):
        read_labels = config.data.read_labels
        groups.append(placement_group([{"CPU": 1}], bundle_label_selector=[read_labels] if read_labels else None))
    try:
        yield groups
    finally:
        for group in groups:
            remove_placement_group(group)


def _are_placed(groups: Sequence[PlacementGroup], within_s: float) -> bool:
    """Whether Ray places all groups within this time."""
    references = [group.ready() for group in groups]
    ready, _ = ray.wait(references, num_returns=len(references), timeout=within_s)
    return len(ready) == len(references)


def _totals(labels: Mapping[str, str]) -> list[Resources]:
    """Total resources of each node with these labels."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and _has_labels(node, labels)]


def _has_labels(node: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return all(_label_fits(node.get("Labels", {}).get(key), value) for key, value in labels.items())


def _label_fits(found: str | None, wanted: str) -> bool:
    """Ray's label selectors: `x`, `!x`, `in(x,y)`, `!in(x,y)`."""
    negated, wanted = wanted.startswith("!"), wanted.removeprefix("!")
    values = wanted[3:-1].split(",") if wanted.startswith("in(") and wanted.endswith(")") else [wanted]
    return (found in [v.strip() for v in values]) != negated


def _workers_that_fit(train: Train, nodes: Sequence[Resources]) -> float:
    """Workers that fit on the nodes under the placement strategy, if nothing else runs there."""
    per_node = [_times(worker_resources(train), node) for node in nodes]
    strategy = train.placement.strategy
    if strategy == "STRICT_PACK":
        return max(per_node, default=0)
    return sum(min(n, 1) for n in per_node) if strategy == "STRICT_SPREAD" else sum(per_node)


def _times(need: Resources, node: Resources) -> float:
    # Ray counts in ten-thousandths: five times 0.2 fit into 1
    return min((math.floor(node.get(kind, 0) / amount + 1e-6) for kind, amount in need.items()), default=math.inf)


def _can_read(config: Config) -> bool:
    """Whether a node for reading has a CPU left besides the workers; a reader without a CPU needs only such a node."""
    train, readers = config.train, _totals(config.data.read_labels)
    if not readers_take_cpus(config):
        return bool(readers)
    left = sum(node.get("CPU", 0) for node in _totals({})) - train.fewest_workers * train.cpus_per_worker
    return min(left, sum(node.get("CPU", 0) for node in readers)) >= 1


def _sentence(config: Config, waited_s: float) -> str:
    """Why the run cannot start."""
    train, placement = config.train, config.train.placement
    key = "train.workers" if train.min_workers is None else "train.min_workers"
    return (
        _shortage(config)
        + _waited(waited_s)
        + f"; lower {key} or train.cpus_per_worker"
        + (", loosen train.placement" if placement.labels or placement.strategy.startswith("STRICT") else "")
        + ", wait for other jobs to end, or add nodes"
    )


def _waited(seconds: float) -> str:
    return f" (waited {seconds:.0f} s)" if seconds else ""


def _shortage(config: Config) -> str:
    """The requested resources, and those of each node."""
    train, placement = config.train, config.train.placement
    need = worker_resources(train)
    key = "train.workers" if train.min_workers is None else "train.min_workers"
    asked = f"{key} = {train.fewest_workers} need {_amounts(need)} each"
    if placement.strategy.startswith("STRICT"):
        asked += f", placed {placement.strategy}"
    if placement.labels:
        asked += f", on nodes with {_labels(placement.labels)}"
    where = f" on nodes with {_labels(config.data.read_labels)}" if config.data.read_labels else ""
    if readers_take_cpus(config):
        asked += f", and 1 CPU{where} for reading"
    elif where:
        asked += f", and a node for reading,{where}"
    fit = _workers_that_fit(train, _totals(placement.labels))
    return f"{asked}; an empty cluster has room for {fit:g} such workers: {_nodes_listed(need)}"


def _nodes_listed(need: Resources) -> str:
    """Total and free resources of the first nodes, of the kinds in `need`."""
    kinds = sorted({"CPU", *need})
    free = available_resources_per_node()
    nodes = [n for n in ray.nodes() if n["Alive"]]
    listed = [
        f"{n['NodeManagerAddress']} has {_amounts({k: n['Resources'].get(k, 0) for k in kinds})} "
        f"({_amounts({k: free.get(n['NodeID'], {}).get(k, 0) for k in kinds})} free)"
        for n in nodes[:_LISTED_NODES]
    ]
    more = f" and {len(nodes) - _LISTED_NODES} more nodes" if len(nodes) > _LISTED_NODES else ""
    return f"{', '.join(listed)}{more}"


def _amounts(resources: Resources) -> str:
    words = {"CPU": "CPUs", "GPU": "GPUs"}
    return " and ".join(
        f"{amount:g} {words.get(kind, kind) if amount != 1 else kind}" for kind, amount in resources.items()
    )


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"`{key}: {value}`" for key, value in labels.items())


def _threads(train: Train, local: bool) -> int:
    """Cores per worker of the smallest node that can hold workers."""
    own = os.cpu_count() or 1
    totals = [n for n in _totals(train.placement.labels) if _times(worker_resources(train), n) >= 1]
    # On this machine alone Ray's CPUs are logical
    cores = [own] if local else [int(n.get("CPU", own)) for n in totals] or [own]
    return max(1, min(cores) // -(-train.workers // max(1, len(totals))))
