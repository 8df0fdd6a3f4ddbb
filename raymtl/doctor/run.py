"""All checks: on every node of a cluster in parallel, each with its own time limit.

A check that exceeds its limit becomes a finding, so a node that hangs does not block the others.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymtl.config.root import Config
from raymtl.dependencies import package_versions
from raymtl.doctor import clocks, machine, network, stack, storage
from raymtl.doctor.finding import Finding
from raymtl.doctor.probe import Probe
from raymtl.errors import UserError
from raymtl.training.cluster import connect, join
from raymtl.training.resources import shortage

T = TypeVar("T")
Notify = Callable[[str], None]

LIMITS_S = {"start": 60.0, "stack": 120.0, "storage": 60.0, "network": 90.0, "other": 30.0}
"""Seconds that a check may take; `start`: starting the process that runs a node's checks."""


@dataclass(frozen=True)
class Node:
    """A node that Ray reports as alive."""

    name: str
    id: str
    address: str
    metrics_port: int
    gpus: float
    cpus: float
    object_store_bytes: float


def examine(
    config: Config | None, address: str | None, notify: Notify, limits_s: dict[str, float] | None = None
) -> list[Finding]:
    """Run every check on the cluster at `address` (None: that of the job, or this machine alone) and return the findings.

    `config` sets the storage to try and the number of workers. `notify` receives the progress.
    """
    limits = {**LIMITS_S, **(limits_s or {})}
    notify("looking for Ray")
    try:
        # With a configuration, start Ray as the run would, with logical CPUs that may exceed the machine's
        alone = join(address, 1) if config is None else connect(config, address)
    except UserError as error:
        sentence, _, remedy = str(error).rpartition("; ")
        notify("looking at this machine")
        own = stack.evaluate(stack.look(limits["stack"]), package_versions(), 0, "")
        return [*own, Finding("cluster", "Ray", "fail", sentence, remedy)]
    nodes, findings = _nodes()
    findings += _settings(nodes, alone)
    if config is not None:
        findings += _check_capacity(config)
    with _probes(nodes) as probes:
        notify(f"waiting for {len(nodes)} node{'s' * (len(nodes) > 1)}")
        offsets, silent = _clocks(probes, limits["start"])
        findings += silent + clocks.evaluate(offsets)
        answering = {node: probe for node, probe in probes.items() if node.name in offsets}
        notify("looking at the nodes")
        findings += _look(answering, limits)
        if not alone:
            findings += _dashboard(answering, limits["other"])
        if config is not None:
            notify("trying the storage")
            findings += _storage(answering, config, limits["storage"])
    notify("measuring the network")
    findings += _network([node for node in nodes if node.name in offsets], limits["network"])
    return findings


def _nodes() -> tuple[list[Node], list[Finding]]:
    known = ray.nodes()
    alive = [n for n in known if n["Alive"]]
    hosts = [n["NodeManagerHostname"] for n in alive]
    nodes = [
        Node(
            host if hosts.count(host) == 1 else f"{host}-{n['NodeID'][:6]}",
            n["NodeID"],
            n["NodeManagerAddress"],
            n["MetricsExportPort"],
            n["Resources"].get("GPU", 0),
            n["Resources"].get("CPU", 0),
            n["Resources"].get("object_store_memory", 0),
        )
        for n, host in zip(alive, hosts, strict=True)
    ]
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    many = f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {cpus:g} CPUs, {gpus:g} GPUs, Ray {ray.__version__}"
    findings = [Finding("cluster", "nodes", "ok", many)]
    # Ray lists a removed node for as long as the cluster lives: only a warning, since it may have been removed on purpose
    findings += [
        Finding("cluster", "nodes", "warn", f"removed: {n.get('DeathReasonMessage') or 'no reason given'}",
                "check its logs, unless it was removed on purpose", n["NodeManagerHostname"])
        for n in known if not n["Alive"]
    ]  # fmt: skip
    return nodes, findings


def _settings(nodes: list[Node], alone: bool) -> list[Finding]:
    """Who can use the cluster; a Ray started for this command ends with it and needs no check."""
    if alone:
        return []
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return [Finding("cluster", "token", "ok", "this machine sends one (RAY_AUTH_MODE=token)")]
    remedy = "start Ray with RAY_AUTH_MODE=token, and restrict access to its ports (cluster/README.md)"
    return [
        Finding("cluster", "token", "warn", "none: anyone who reaches a port of the cluster can run code on it", remedy)
    ]


def _check_capacity(config: Config) -> list[Finding]:
    """Whether the nodes could hold the workers if nothing else used them."""
    train = config.train
    if missing := shortage(config):
        return [
            Finding("cluster", "room", "fail", missing, "lower train.workers or train.cpus_per_worker, or add nodes")
        ]
    asked = (
        f"train.workers = {train.workers}"
        if train.min_workers is None
        else f"train.workers = {train.min_workers} to {train.workers}"
    )
    return [Finding("cluster", "room", "ok", f"enough for {asked}, if nothing else uses the cluster")]


# Probes

Probes = dict[Node, Any]


@contextmanager
def _probes(nodes: list[Node]) -> Iterator[Probes]:
    """An actor on each node, killed at the end."""
    actor = ray.remote(num_cpus=0, max_concurrency=8)(Probe)
    probes = {node: actor.options(scheduling_strategy=_on(node)).remote() for node in nodes}
    try:
        yield probes
    finally:
        for probe in probes.values():
            ray.kill(probe)


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _collect(refs: dict[Node, Any], limit_s: float) -> tuple[dict[Node, Any], dict[Node, str]]:
    """Answers by node, and for the others the reason why there is none."""
    ready, _ = ray.wait(list(refs.values()), num_returns=len(refs), timeout=limit_s) if refs else ([], [])
    answers, missing = {}, {}
    for node, ref in refs.items():
        if ref not in ready:
            missing[node] = f"no answer in {limit_s:g} s"
            continue
        try:
            answers[node] = ray.get(ref)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
            missing[node] = next((line for line in lines if "ModuleNotFoundError" in line), lines[-1])
    return answers, missing


def _silent(group: str, check: str, missing: dict[Node, str], remedy: str) -> list[Finding]:
    return [Finding(group, check, "fail", why, remedy, node.name) for node, why in missing.items()]


def _clocks(probes: Probes, limit_s: float) -> tuple[dict[str, tuple[float, float]], list[Finding]]:
    """Offsets by name of node, and findings about those that do not answer."""
    started, missing = _collect({node: probe.clock.remote() for node, probe in probes.items()}, limit_s)
    offsets = {}
    for node in started:
        tries = []
        for _ in range(5):  # the fastest answer is the most accurate
            asked = time.time()
            answers, late = _collect({node: probes[node].clock.remote()}, 5)
            if late:
                missing |= late
                break
            tries.append(clocks.offset(asked, time.time(), answers[node]))
        else:
            offsets[node.name] = min(tries, key=lambda found: found[1])
    remedy = "check that raymtl is installed there, and that the node is neither overloaded nor lost (`ray status`)"
    return offsets, _silent("cluster", "nodes", missing, remedy)


def _look(probes: Probes, limits: dict[str, float]) -> list[Finding]:
    """Stack, machine and endpoint of every node, all at once."""
    here, findings = package_versions(), []
    stacks = {node: probe.stack.remote(limits["stack"]) for node, probe in probes.items()}
    machines = {node: probe.machine.remote() for node, probe in probes.items()}
    endpoints = {node: probe.endpoint.remote(node.address, node.metrics_port) for node, probe in probes.items()}
    answers, missing = _collect(stacks, limits["stack"] + 10)
    findings += _silent("stack", "versions", missing, "check the disk and the GPU driver of the node")
    for node, found in answers.items():
        findings += stack.evaluate(found, here, node.gpus, node.name)
    answers, missing = _collect(machines, limits["other"])
    findings += _silent("machine", "facts", missing, "check the disks of the node")
    for node, found in answers.items():
        findings += machine.evaluate(found, node.object_store_bytes, node.name)
    answers, missing = _collect(endpoints, limits["other"])
    missing |= {node: wrong for node, wrong in answers.items() if wrong}
    for node in probes:
        port = f"port {node.metrics_port}"
        if node in missing:
            remedy = (
                "Prometheus gets no metrics from it: install ray[default], or set --metrics-export-port to a free port"
            )
            findings.append(Finding("cluster", "metrics", "warn", f"{port}: {missing[node]}", remedy, node.name))
        else:
            findings.append(Finding("cluster", "metrics", "ok", f"served on {port}", node=node.name))
    return findings


def _dashboard(probes: Probes, limit_s: float) -> list[Finding]:
    """Whether any node reaches the dashboard: on a secure cluster it listens on the head alone."""
    answers, _ = _collect({node: probe.dashboard.remote() for node, probe in probes.items()}, limit_s)
    reached = next((url for url, wrong in answers.values() if url and not wrong), None)
    if reached:
        return [Finding("cluster", "dashboard", "ok", reached)]
    wrong = next((f"{url}: {wrong}" for url, wrong in answers.values() if url), None)
    remedy = (
        "start the head with --include-dashboard=true" if wrong is None else "open port 8265 of the head to one node"
    )
    needed = ": `ray job submit` and Ray's pages of metrics and logs need it"
    return [Finding("cluster", "dashboard", "warn", wrong or "not running", remedy + needed)]


def _storage(probes: Probes, config: Config, limit_s: float) -> list[Finding]:
    findings = [
        finding for root in config.data.roots_of("train") for finding in _listed(probes, "data.path", root, limit_s)
    ]
    findings += _tried(probes, "output", config.output, limit_s)
    if config.daily is not None:
        findings += _tried(probes, "daily.store", config.daily.store, limit_s)
    return findings


def _listed(probes: Probes, what: str, path: str, limit_s: float) -> list[Finding]:
    answers, missing = _collect({node: probe.listing.remote(path) for node, probe in probes.items()}, limit_s)
    missing |= {node: wrong for node, wrong in answers.items() if wrong}
    findings = [
        Finding(
            "storage",
            what,
            "fail",
            f"{path}: {why}",
            "make it readable on every node, at the same path or URL",
            node.name,
        )
        for node, why in missing.items()
    ]
    return findings + [
        Finding("storage", what, "ok", f"{path} can be listed", node=n.name) for n in probes if n not in missing
    ]


def _tried(probes: Probes, what: str, path: str, limit_s: float) -> list[Finding]:
    """Every operation on the folder of the key `what`, from every node."""
    remedy = f"give this user permission to write there, or set another {what}"
    trial, findings = _here(what, path, limit_s, lambda: storage.begin(path), remedy)
    if trial is None:
        return findings
    folder = trial.store.path
    refs = {node: probe.storage.remote(folder, node.name) for node, probe in probes.items()}
    answers, missing = _collect(refs, limit_s)
    remedy = (
        f"the storage hangs for that node: check its network, its mount and its credentials, and remove {folder} there "
        "if it still exists"
    )
    findings = _silent("storage", what, missing, remedy)
    remedy = f"check what {folder} holds, and delete it"
    names = [node.name for node in answers]
    unseen, wrong = _here(what, path, limit_s, lambda: storage.nodes_not_seen(trial, names), remedy)
    findings += wrong
    left, late = _collect(
        {node: probes[node].remove_trial_files.remote(folder, node.name) for node in answers}, limit_s
    )
    for node, found in answers.items():
        if node.name in (unseen or ()):
            found["failed"].setdefault("share", "the checking machine does not see what the node wrote")
        if stays := left.get(node) or late.get(node):
            found["failed"].setdefault("delete", stays)
        findings.append(storage.evaluate(found, what, folder, node.name))
    return findings + _here(what, path, limit_s, lambda: storage.end(trial), remedy)[1]


def _here(what: str, path: str, limit_s: float, work: Callable[[], T], remedy: str) -> tuple[T | None, list[Finding]]:
    """The result of `work` on this machine, or the finding of its failure.

    It runs in a thread that is abandoned after `limit_s`, since nothing can interrupt a call to a mount that hangs. Not in an
    executor: Python would wait for its threads at exit.
    """
    done: Future[T] = Future()

    def attempt() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return done.result(limit_s), []
    except TimeoutError:
        why = f"{path}: no answer to this machine in {limit_s:g} s"
        remedy = (
            "the storage hangs for this machine: check its network, its mount and its credentials, and remove "
            f"{path.rstrip('/')}/{storage.FOLDER}-* if it still exists"
        )
    except UserError as error:
        why = f"from this machine: {error}"
    return None, [Finding("storage", what, "fail", why, remedy)]


def _network(nodes: list[Node], limit_s: float) -> list[Finding]:
    """The all-to-alls, one after the other: in parallel they would slow each other down."""
    return [_exchanged(backend, chosen, limit_s) for backend, chosen in _exchanges(nodes)]


def _exchanges(nodes: list[Node]) -> list[tuple[str, list[Node]]]:
    """Backend, and the node of each worker: NCCL between nodes with GPUs, gloo between all; two workers on a single node.

    A GPU cluster also has nodes without GPUs (the head and the readers), but its workers exchange over NCCL.
    """
    with_gpu = [node for node in nodes if node.gpus >= 1]
    if len(with_gpu) == 1 and with_gpu[0].gpus >= 2:
        with_gpu *= 2
    every_node = nodes * 2 if len(nodes) == 1 else nodes
    both = (("nccl", with_gpu), ("gloo", every_node))
    return [(backend, chosen[: network.MOST_PEERS]) for backend, chosen in both if len(chosen) > 1]


def _exchanged(backend: str, chosen: list[Node], limit_s: float) -> Finding:
    """An all-to-all between workers, one on each of `chosen`."""
    on_gpus = backend == "nccl"
    actor = ray.remote(num_cpus=0, num_gpus=int(on_gpus), max_concurrency=2)(network.Peer)
    peers = [actor.options(scheduling_strategy=_on(node)).remote() for node in chosen]
    remedy = "open the ports between the nodes, or choose the interface (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
    until = time.monotonic() + limit_s
    try:
        addresses = [peer.address.remote() for peer in peers]
        _, waiting = ray.wait(addresses, num_returns=len(addresses), timeout=limit_s)
        if waiting and on_gpus:
            why = f"{len(waiting)} of {len(peers)} workers got no GPU in {limit_s:g} s: nothing was exchanged over nccl"
            return Finding("network", "all-to-all", "warn", why, "rerun when the GPUs are free")
        address, port = ray.get(addresses, timeout=1)[0]
        refs = [peer.measure.remote(address, port, n, len(peers), backend) for n, peer in enumerate(peers)]
        measured = ray.get(refs, timeout=max(1.0, until - time.monotonic()))
    except ray.exceptions.GetTimeoutError:
        why = f"{len(peers)} workers did not exchange anything in {limit_s:g} s over {backend}"
        return Finding("network", "all-to-all", "fail", why, remedy)
    except ray.exceptions.RayError as error:
        cause = str(getattr(error, "cause", None) or error).strip().splitlines()
        return Finding("network", "all-to-all", "fail", f"over {backend}: {cause[-1]}", remedy)
    finally:
        for peer in peers:
            ray.kill(peer)
    return network.evaluate(measured, len(set(chosen)), backend)
