"""One pass over a data source with Ray Data, its small answers handed to the driver."""

import logging
from collections.abc import Iterator, Mapping

import pyarrow as pa
import ray.data
from ray.data.context import DataContext
from ray.data.datasource import Datasource

from raymtl.errors import user_errors


def scan(
    source: Datasource, tasks: int, read_tasks: int, labels: Mapping[str, str], *, in_order: bool
) -> Iterator[pa.Table]:
    """What the `tasks` reading tasks of the source yield, `read_tasks` of them at a time on nodes with these
    labels; in the order of the tasks, or as they come. A UserError of a task comes out as itself."""
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = in_order
    context.execution_options.label_selector = dict(labels) or None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        dataset = ray.data.read_datasource(source, concurrency=min(read_tasks, tasks), override_num_blocks=tasks)
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # a line per execution otherwise
        yield from user_errors(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
