"""The function that the driver names and Ray's workers run. It alone imports their code: the driver and Ray's controller, which
import this module too, start faster without torch."""

from typing import Any


def run_worker(events: Any) -> None:
    """Run the jobs of training and evaluation that the driver posts to its `EventQueue`; see `raymtl.training.worker`."""
    from raymtl.dependencies import check_stack

    check_stack()
    from raymtl.training.worker import run, serve

    serve(run, events)
