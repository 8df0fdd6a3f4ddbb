"""One pass over a data source with Ray Data that returns small results to the driver."""

import logging
from collections.abc import Iterator, Mapping

import pyarrow as pa
import ray.data
from ray.data.context import DataContext
from ray.data.datasource import Datasource

from raymtl.data.local_ray_data import leave_out_cluster_actors
from raymtl.errors import user_errors


def scan(
    source: Datasource, tasks: int, read_tasks: int, labels: Mapping[str, str], *, in_order: bool
) -> Iterator[pa.Table]:
    """Yield the results of the source's `tasks` reading tasks, `read_tasks` at a time on nodes with these labels; in task
    order, or as they finish. A UserError of a task is raised as it is."""
    leave_out_cluster_actors()
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = in_order
    context.execution_options.label_selector = dict(labels) or None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        dataset = ray.data.read_datasource(source, concurrency=min(read_tasks, tasks), override_num_blocks=tasks)
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # a line per execution otherwise
        yield from user_errors(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
