"""The function that the driver names and Ray's workers run. It alone imports their code: the driver and Ray's controller, which
import this module too, start faster without torch."""

from typing import Any


def run_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run a worker of a training or an evaluation and return the summary of the run; see `raymtl.training.worker.run`."""
    from raymtl.dependencies import check_stack

    check_stack()
    from raymtl.training.worker import run

    return run(job)
