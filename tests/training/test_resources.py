"""Room for the workers: what fits on which nodes, how long it is waited, and what is said."""

from pathlib import Path
from typing import Any

import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.errors import ClusterError
from raymtl.training import resources
from tests.helpers.run_logs import small_config


def node(number: int, cpus: float, gpus: float = 0, **labels: str) -> dict[str, Any]:
    return {
        "Alive": True,
        "NodeID": f"n{number}",
        "NodeManagerAddress": f"10.0.0.{number}",
        "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        "Labels": labels,
    }


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any]) -> None:
    """A cluster of these nodes; Ray never finds a place on it."""
    monkeypatch.setattr(resources.ray, "nodes", lambda: list(nodes))
    monkeypatch.setattr(resources, "available_resources_per_node", lambda: {n["NodeID"]: n["Resources"] for n in nodes})
    monkeypatch.setattr(resources, "_are_placed", lambda groups, within_s: False)
    monkeypatch.setattr(resources, "placement_group", lambda *a, **k: None)
    monkeypatch.setattr(resources, "remove_placement_group", lambda group: None)


def config(data: dict[str, Any] | None = None, **train: Any) -> Config:
    raw = small_config(Path("/logs"), Path("/runs"), "room", **train)
    raw["data"] |= data or {}
    return config_from_dict(raw)


def refused(**train: Any) -> str:
    with pytest.raises(ClusterError) as caught:
        resources.wait_for_resources(config(**train), local=True)
    return str(caught.value)


def test_cpus_in_fragments_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, node(1, 3), node(2, 3), node(3, 3))
    said = refused(workers=2, cpus_per_worker=4)
    assert said.startswith(
        "train.workers = 2 need 4 CPUs each, and 1 CPU for reading; an empty cluster has room for 0 such workers"
    )
    assert "10.0.0.2 has 3 CPUs (3 CPUs free)" in said
    assert "lower train.workers or train.cpus_per_worker, wait for other jobs to end, or add nodes" in said


@pytest.mark.parametrize(
    ("placement", "fit"),
    [
        ({}, 5),
        ({"strategy": "SPREAD"}, 5),
        ({"strategy": "STRICT_PACK"}, 3),
        ({"strategy": "STRICT_SPREAD"}, 2),
        ({"labels": {"zone": "a"}}, 3),
        ({"labels": {"zone": "!a"}}, 2),
        ({"labels": {"zone": "in(a, b)"}}, 5),
        ({"labels": {"zone": "!in(a,b)"}}, 0),
        ({"resources": {"fast": 1}}, 0),
    ],
)
def test_placement(monkeypatch: pytest.MonkeyPatch, placement: dict[str, Any], fit: int) -> None:
    cluster(monkeypatch, node(1, 3, zone="a"), node(2, 2, zone="b"))
    said = refused(workers=6, placement=placement)
    assert f"an empty cluster has room for {fit} such workers" in said
    assert ("loosen train.placement" in said) == bool(
        placement.get("labels") or "STRICT" in placement.get("strategy", "")
    )


def test_gpus_count_where_their_cpus_are(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, node(1, 2, 8), node(2, 64))
    said = refused(workers=4, use_gpu=True)
    assert "need 1 CPU and 1 GPU each" in said
    assert "room for 2 such workers" in said


def test_enough_nodes_but_no_cpu_to_read_with(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, node(1, 2))
    assert "1 CPU on nodes with `role: read` for reading" in refused(workers=2, data={"read_labels": {"role": "read"}})


def test_what_is_missing_is_said_long_before_the_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(resources.time, "monotonic", lambda: float(next(clock)))
    cluster(monkeypatch, node(1, 2))
    said: list[str] = []
    with pytest.raises(ClusterError, match=r"waited \d+ s"):
        resources.wait_for_resources(config(workers=4, start_timeout_s=100), False, said.append)
    assert len(said) == 1
    assert said[0].startswith("waiting up to 100 s for resources: train.workers = 4 need 1 CPU each")
    assert next(clock) > 100


def test_fractions_of_a_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = node(1, 8)
    nodes["Resources"]["slot"] = 1
    cluster(monkeypatch, nodes)
    assert resources.shortage(config(workers=5, placement={"resources": {"slot": 0.2}})) is None
    assert resources.shortage(config(workers=6, placement={"resources": {"slot": 0.2}})) is not None


def test_nodes_that_may_read_are_missed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, node(1, 2), node(2, 2, role="read"))
    data = {"read_labels": {"role": "read"}}
    assert resources.shortage(config(data, workers=2)) is None
    cluster(monkeypatch, node(1, 2))
    assert resources.shortage(config(workers=2)) is not None
    said = resources.shortage(config(data, workers={"min": 1, "max": 2}))
    assert said is not None
    assert "and a node for reading, on nodes with `role: read`" in said


def test_other_processes_are_counted_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, node(1, 3), node(2, 3))
    with pytest.raises(ClusterError) as caught:
        resources.places({"CPU": 4}, 1, local=False, limit_s=0, who="1 scorers", remedy="add nodes")
    said = str(caught.value)
    assert said.startswith("1 scorers need 4 CPUs each; an empty cluster has room for 0 of them: 10.0.0.1 has 3")
    assert said.endswith("; add nodes")
    # There is room, but others have it
    with pytest.raises(ClusterError, match="room for 2 of them"):
        resources.places({"CPU": 3}, 1, local=False, limit_s=0, who="1 scorers", remedy="add nodes")
    monkeypatch.setattr(resources, "_are_placed", lambda groups, within_s: True)
    assert resources.places({"CPU": 2}, 1, local=False, limit_s=500, who="", remedy="") == 2


def test_elastic_workers_need_the_fewest_and_no_cpu_for_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, node(1, 2))
    elastic = config(workers={"min": 2, "max": 8})
    assert resources.shortage(elastic) is None
    assert not resources.readers_take_cpus(elastic)
    cluster(monkeypatch, node(1, 1))
    said = resources.shortage(elastic)
    assert said is not None
    assert said.startswith("train.min_workers = 2 need 1 CPU each; an empty cluster has room for 1 such workers")
