"""The function that the driver of the daily job names and Ray's workers run; see `raymtl.training.entry`."""

from typing import Any


def run_day_worker(events: Any) -> None:
    """Run the days that the driver posts to its `EventQueue`; see `raymtl.daily.worker`."""
    from raymtl.dependencies import check_stack

    check_stack()
    from raymtl.daily.worker import run_day
    from raymtl.training.worker import serve

    serve(run_day, events)
