"""One pass over data with Ray Data that returns small results to the driver."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from raymtl.data.local_ray_data import leave_out_cluster_actors
from raymtl.errors import user_errors

Body = Callable[[], Iterable[pa.Table]]
"""What a reading task does; it travels to its process, so it is small."""


def scan(
    name: str,
    bodies: Sequence[Body],
    result_bytes: int,
    read_tasks: int,
    labels: Mapping[str, str],
    *,
    in_order: bool,
) -> Iterator[pa.Table]:
    """Yield the results of reading tasks, `read_tasks` at a time on nodes with these labels; in task order, or as they finish. A
    UserError of a task is raised as it is.

    `name` stands in Ray's logs, `result_bytes` is about what a task returns.
    """
    leave_out_cluster_actors()
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = in_order
    context.execution_options.label_selector = dict(labels) or None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    source = Tasks(name, bodies, result_bytes)
    with DataContext.current(context):
        dataset = ray.data.read_datasource(
            source, concurrency=min(read_tasks, len(bodies)), override_num_blocks=len(bodies)
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # a line per execution otherwise
        yield from user_errors(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


class Tasks(Datasource):
    """One reading task for each body."""

    def __init__(self, name: str, bodies: Sequence[Body], result_bytes: int):
        super().__init__()
        self._name, self._bodies, self._result_bytes = name, bodies, result_bytes

    def get_name(self) -> str:
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        return len(self._bodies) * self._result_bytes

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        metadata = BlockMetadata(None, self._result_bytes, None, None)
        return [ReadTask(body, metadata) for body in self._bodies]
