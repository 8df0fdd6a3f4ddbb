"""Workers that stay for several jobs."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.errors import ClusterError, DataError, NodesLostError
from raymtl.training import session as module
from raymtl.training.event_queue import EventQueue
from raymtl.training.job import Job
from raymtl.training.resources import ResourceGrant
from raymtl.training.rundir import RunFolder
from raymtl.training.session import Session
from tests.helpers.run_logs import small_config
from tests.helpers.session_jobs import run_small

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
GRANT = ResourceGrant(1, 1)


def config_of(root: Path, **train: Any) -> Config:
    return config_from_dict(small_config(root, root / "runs", "session", workers=2, **train))


def job_of(config: Config, root: Path, does: str) -> Job:
    return Job(config, {}, {}, RunFolder.open(str(root / "runs")), None, 1, 1, config_hash=does)


def test_the_workers_stay_and_each_job_has_its_own_listener_and_failures(ray_cluster: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, max_failures=0)
    heard: list[list[Any]] = [[], [], []]
    with Session(run_small, GRANT) as session:
        assert not session.has_workers
        first, second = (session.run(job_of(config, tmp_path, f"job {n}"), config, heard[n].append) for n in (0, 1))
        assert first == second
        assert first["rank"] == 0
        assert heard[0] == [{"note": "job 0"}]
        assert heard[1] == [{"note": "job 1"}]
        # No failure is allowed, but the workers have served before: the job gets new ones, once
        third = session.run(job_of(config, tmp_path, f"die once:{tmp_path / 'died'}"), config, heard[2].append)
        assert third["pid"] != first["pid"]
        assert heard[2].count({"note": "die once"}) == 2
        with pytest.raises(DataError, match="a mistake of the user"):
            session.run(job_of(config, tmp_path, "mistake"), config, None)
        assert not session.has_workers
        with pytest.raises(ClusterError, match="worker 0 ended with"):
            session.run(job_of(config, tmp_path, f"die once:{tmp_path / 'died again'}"), config, None)


def test_an_error_of_the_listener_ends_the_job(ray_cluster: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, max_failures=0)

    def on_event(event: Any) -> None:
        raise OSError(28, "No space left on device")

    with Session(run_small, GRANT) as session, pytest.raises(OSError, match="No space left on device"):
        session.run(job_of(config, tmp_path, "job"), config, on_event)


@pytest.mark.parametrize(("error", "groups"), [(ClusterError, 2), (NodesLostError, 1)])
def test_a_later_job_gets_new_workers_unless_their_nodes_were_waited_for(
    error: type[Exception], groups: int, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Group:
        def __init__(self, *_: Any):
            self.is_alive = True
            made.append(self)

        def run(self, number: int, *_: Any) -> dict[str, Any]:
            if number == 2:
                self.is_alive = False
                raise error("worker 0 was lost")
            return {}

        def close(self, at_once: bool) -> None:
            pass

    monkeypatch.setattr(module, "_WorkerGroup", Group)
    config = config_of(tmp_path)
    with Session(run_small, GRANT) as session:
        session.run(job_of(config, tmp_path, "job"), config, None)
        with pytest.raises(error, match="worker 0 was lost"):
            session.run(job_of(config, tmp_path, "job"), config, None)
    assert len(made) == groups


def test_an_answer_of_the_queue_that_is_lost_loses_no_event(ray_cluster: None) -> None:
    queue = EventQueue.remote()  # type: ignore[attr-defined]

    def take(arrived: int) -> list[Any]:
        return ray.get(queue.take.remote(arrived))

    for n in range(3):
        ray.get(queue.put.remote({"n": n}))
    assert [e["n"] for e in take(0)] == [0, 1, 2]  # lost on the way: the driver asks again
    assert [e["n"] for e in take(0)] == [0, 1, 2]
    ray.get(queue.put.remote({"n": 3}))
    assert [e["n"] for e in take(2)] == [2, 3]
    assert take(1) == [{"n": 2}, {"n": 3}]  # a call that came late
    assert take(4) == []
    ray.get(queue.close.remote())
    assert ray.get(queue.take.remote(4, 60.0), timeout=30) == []  # nobody waits for a queue that is closed


def test_a_lost_queue_ends_the_job_in_one_sentence(ray_cluster: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, max_failures=0)
    with Session(run_small, GRANT) as session:
        session.run(job_of(config, tmp_path, "job"), config, None)
        ray.kill(session._group._queue)  # type: ignore[union-attr]
        with pytest.raises(ClusterError, match="the process that passes on the workers' reports"):
            session.run(job_of(config, tmp_path, "job"), config, None)
    with Session(run_small, GRANT) as session:

        def on_event(event: Any) -> None:
            ray.kill(session._group._queue)  # type: ignore[union-attr]

        with pytest.raises(ClusterError, match="the process that passes on the workers' reports"):
            session.run(job_of(config, tmp_path, "wait"), config, on_event)


def test_no_thread_outlives_its_session(ray_cluster: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, max_failures=5)
    before = set(threading.enumerate())
    with Session(run_small, GRANT) as session:
        found = session.run(job_of(config, tmp_path, "job"), config, None)
        os.kill(found["pid"], signal.SIGKILL)  # as the run ends: Ray Train is about to start others
        time.sleep(0.6)
        session.close(at_once=True)
    assert {thread.name for thread in set(threading.enumerate()) - before} & {"events", "workers", "watch"} == set()


def test_a_job_is_given_again_to_workers_that_were_lost(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, max_failures=1)
    with Session(run_small, GRANT) as session:
        heard: list[Any] = []
        found = session.run(job_of(config, tmp_path, f"die once:{tmp_path / 'died'}"), config, heard.append)
        assert found["rank"] == 0
        assert [e for e in heard if e == {"note": "die once"}] == [{"note": "die once"}] * 2
        assert session.run(job_of(config, tmp_path, "job"), config, None)["pid"] == found["pid"]
    assert "ERROR controller.py" not in capfd.readouterr().err  # Ray Train's own lines are in Ray's log folder
