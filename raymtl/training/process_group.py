"""The workers' process group, set up by Ray Train.

Ray's own `TorchConfig` imports torch in the driver and in Train's controller too, which takes each of them more than a second.
"""

import datetime as dt
import os
from dataclasses import dataclass

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

from raymtl.telemetry.logs import log

_SHUT_DOWN_S = 30.0


@dataclass
class ProcessGroup(BackendConfig):
    """All workers in one process group of torch."""

    backend: str
    """As `torch.distributed.init_process_group` takes it."""
    timeout_s: float
    """Of a collective."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _ProcessGroupBackend


class _ProcessGroupBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, ProcessGroup)
        address, port = worker_group.execute_single(0, get_address_and_port)
        ray.get(worker_group.execute_async(_join, address, port, backend_config.backend, backend_config.timeout_s))

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        left = worker_group.execute_async(_leave)
        try:
            ray.get(left, timeout=_SHUT_DOWN_S)
        except GetTimeoutError:
            log.warning("the workers did not leave their process group within %.0f s", _SHUT_DOWN_S)


def _join(address: str, port: int, backend: str, timeout_s: float) -> None:
    """Enter the group of all workers. torch and TorchRec read the environment variables."""
    import torch.distributed as dist

    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    dist.init_process_group(backend, timeout=dt.timedelta(seconds=timeout_s))


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
