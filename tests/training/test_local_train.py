"""Ray Train on this machine alone: its controller in this process, and workers that import ahead."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.backend import BackendConfig

from raymtl.training import local_train
from raymtl.training.ray_trainer import RayTrainer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


def _told() -> dict[str, Any]:
    context = ray.train.get_context()
    return {"pid": os.getpid(), "rank": context.get_world_rank(), "given": os.environ.get("RAYMTL_GIVEN")}


def _sleep() -> None:
    time.sleep(600)


def trainer(function: Any, folder: Path) -> RayTrainer:
    return RayTrainer(
        function,
        backend_config=BackendConfig(),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            name="here", storage_path=str(folder), worker_runtime_env={"env_vars": {"RAYMTL_GIVEN": "in time"}}
        ),
    )


def actors_of_ray_train() -> list[str]:
    """Of all runs so far; their workers are not among them."""
    names = (actor["ActorClassName"] for actor in ray._private.state.actors().values())
    known = ("TrainController", "PlacementGroupCleaner", "SynchronizationActor", "_AutoscalingCoordinatorActor")
    return sorted(name for name in names if name in known)


def test_a_worker_group_takes_the_workers_that_import_ahead(ray_cluster: None, tmp_path: Path) -> None:
    before = actors_of_ray_train()
    local_train.import_ahead(2, {"RAYMTL_GIVEN": "ahead"})
    (actors,) = local_train._ahead.values()
    ahead = [facts.pid for facts in ray.get([actor.get_metadata.remote() for actor in actors])]
    first = trainer(_told, tmp_path).fit().return_value
    assert first["pid"] in ahead
    assert first == {"pid": first["pid"], "rank": 0, "given": "ahead"}
    second = trainer(_told, tmp_path).fit().return_value  # there are no more
    assert second["pid"] not in ahead
    assert second == {"pid": second["pid"], "rank": 0, "given": "in time"}
    assert actors_of_ray_train() == before


def test_more_or_fewer_workers_ahead_than_the_group_has_are_ended(ray_cluster: None, tmp_path: Path) -> None:
    local_train.import_ahead(1, {"RAYMTL_GIVEN": "ahead"})
    ((actor,),) = local_train._ahead.values()
    assert trainer(_told, tmp_path).fit().return_value["given"] == "in time"
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.get_metadata.remote())


def test_a_killed_controller_ends_its_workers_and_gives_their_cpus_back(ray_cluster: None, tmp_path: Path) -> None:
    free = ray.available_resources()["CPU"]
    killed = trainer(_sleep, tmp_path)
    raised: list[BaseException] = []

    def fit() -> None:
        try:
            killed.fit()
        except ray.train.TrainingFailedError as error:
            raised.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while (group := killed._local and killed._local._controller.get_worker_group()) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    actors = [worker.actor for worker in group.get_workers()]
    killed.kill()
    thread.join(20)
    assert len(raised) == 1
    for actor in actors:
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.get_metadata.remote())
    while ray.available_resources()["CPU"] < free and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] >= free  # more, if the test before gives back its own meanwhile


def test_the_lines_of_ray_train_go_to_the_folder_of_its_logs(
    ray_cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("ray.train.v2._internal.execution.controller")
    with local_train._logged_beside_ray():
        logger.error("Error in control loop iteration")
    assert "control loop" not in capfd.readouterr().err
    logs = Path(ray.get_runtime_context().worker.node.get_logs_dir_path())
    assert "Error in control loop iteration" in (logs / "raymtl-train-controller.log").read_text()
