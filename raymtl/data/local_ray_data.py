"""Ray Data on a Ray that raymtl started on this machine, without two processes that serve clusters."""

import os
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

IS_LOCAL = "RAYMTL_LOCAL_RAY"
"""Environment variable that all processes of such a Ray have."""


def leave_out_cluster_actors() -> None:
    """Make this process read datasets without the actor that collects their statistics for the dashboard, and without the one
    that requests nodes; each costs a second of a core. On a cluster it does nothing."""
    if IS_LOCAL not in os.environ:
        return
    from ray.data._internal import stats  # drivers that read nothing do without Ray Data
    from ray.data._internal.execution import streaming_executor

    for report in ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics"):
        setattr(stats._StatsManager, report, staticmethod(_nothing))
    stats._StatsManager.gen_dataset_id_from_stats_actor = staticmethod(lambda: uuid.uuid4().hex)
    stock = streaming_executor.create_cluster_autoscaler
    if not isinstance(stock, partial):
        streaming_executor.create_cluster_autoscaler = partial(_autoscaler, stock)


def _autoscaler(stock: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    # This process may have joined a cluster since
    return _OneMachine() if IS_LOCAL in os.environ else stock(*arguments, **options)


def _nothing(*arguments: Any, **options: Any) -> None:
    pass


class _OneMachine:
    """A cluster autoscaler of Ray Data that lets reading use the machine; the dataset itself limits how many tasks run."""

    def __init__(self) -> None:
        from ray.data import ExecutionResources

        self._total = ExecutionResources.from_resource_dict(ray.cluster_resources())

    def try_trigger_scaling(self) -> None:
        pass

    def on_executor_shutdown(self) -> None:
        pass

    def get_total_resources(self) -> Any:
        return self._total
