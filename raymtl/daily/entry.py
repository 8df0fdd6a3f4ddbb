"""The function that the driver of the daily job names and Ray's workers run; see `raymtl.training.entry`."""

from typing import Any

from raymtl.training.entry import import_code


def run_day_worker(events: Any) -> None:
    """Run the days that the driver posts to its `EventQueue`; see `raymtl.daily.worker`."""
    import_code()
    from raymtl.daily.worker import run_day
    from raymtl.training.worker import serve

    serve(run_day, events)
