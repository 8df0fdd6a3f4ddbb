"""The function that the driver names and Ray's workers run. It alone imports their code: the driver and Ray's controller, which
import this module too, start faster without torch."""

import gc
import os
from collections.abc import Mapping
from typing import Any

from raymtl.quick_imports import without_gc


def run_worker(events: Any) -> None:
    """Run the jobs of training and evaluation that the driver posts to its `EventQueue`; see `raymtl.training.worker`."""
    import_code()
    from raymtl.training.worker import run, serve

    serve(run, events)


def import_worker(environment: Mapping[str, str]) -> None:
    """Import the workers' code ahead of `run_worker`, with the environment that it needs."""
    set_environment(environment)
    import_code()


def set_environment(environment: Mapping[str, str]) -> None:
    """Change this process's environment, before what reads it is imported."""
    os.environ |= environment


def import_code() -> None:
    """Import the workers' code. Raises StackError if it cannot be loaded."""
    from raymtl.dependencies import check_stack

    with without_gc():
        check_stack()
        import raymtl.training.worker  # noqa: F401
    gc.freeze()  # the collector need not look through it while the worker trains
