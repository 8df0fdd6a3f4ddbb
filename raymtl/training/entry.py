"""The function that the driver names and Ray's workers run. It alone imports their code: the driver and Ray's controller, which
import this module too, start faster without torch."""

import gc
import os
from collections.abc import Mapping
from typing import Any


def run_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run a worker of a training or an evaluation and return the summary of the run; see `raymtl.training.worker.run`."""
    _import()
    from raymtl.training.worker import run

    return run(job)


def import_worker(environment: Mapping[str, str]) -> None:
    """Import the workers' code ahead of `run_worker`, with the environment that it needs."""
    set_environment(environment)
    _import()


def set_environment(environment: Mapping[str, str]) -> None:
    """Change this process's environment, before what reads it is imported."""
    os.environ |= environment


def _import() -> None:
    from raymtl.dependencies import check_stack

    gc.disable()  # it would look through all that is imported a hundred times
    try:
        check_stack()
        import raymtl.training.worker  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
