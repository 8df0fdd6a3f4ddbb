"""What all tests share: one Ray cluster per session, for those marked `ray`; no deadlines on a busy machine."""

import gc
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.helpers.fork_server import forked_ray_workers
from tests.helpers.s3_server import ENVIRONMENT

# Until everything is imported: Python looks through all that there is again and again, which takes as long as the imports.
gc.disable()
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
# Before torch is imported: the tensors are small, and a second thread that waits for the first takes the core from a worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Ray is imported: it waits 2 s per report otherwise, and gives its workers a low priority.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("RAY_worker_niceness", "0")
# And it would end idle readers within a second, as `LOCAL_SETTINGS` says.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
# For the S3 server on loopback; the processes of the cluster inherit them.
os.environ.update(ENVIRONMENT)
# An actor per run, hence two seconds of a core, which waits for a cloud to announce that it takes a machine back.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with tests that start Ray come first: they take longest, and processes that share the files end together then."""
    ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in ray)


def pytest_collection_finish() -> None:
    """Collect garbage from here on, without a look at what the imports have left."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster with 8 logical CPUs, started as raymtl's own is; never one that happens to run on this machine."""
    import ray

    from raymtl.training.cluster import few_processes, on_loopback

    with on_loopback(), few_processes(), forked_ray_workers():
        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    yield
    ray.shutdown()
