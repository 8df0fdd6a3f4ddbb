"""Jobs of a worker session that do next to nothing, and what goes wrong in them."""

import os
import time
from pathlib import Path
from typing import Any

from raymtl.errors import DataError
from raymtl.training.job import Job
from raymtl.training.worker import WorkerProcess, serve


def run_small(events: Any) -> None:
    """Entry of the workers."""
    serve(_run, events)


def _run(job: Job, process: WorkerProcess) -> dict[str, Any]:
    """`config_hash` of the job says what to do."""
    process.worker(job)
    fault, _, marks = job.config_hash.partition(":")
    first = process.rank == 0
    if first:
        job.event_queue.put.remote({"note": fault})
    if fault == "mistake":
        raise DataError("a mistake of the user")
    if fault == "wait":
        time.sleep(60)
    if fault == "die once" and first and not Path(marks).exists():
        Path(marks).touch()
        time.sleep(0.3)  # the note arrives: the job has begun
        os._exit(1)
    return {"pid": os.getpid(), "rank": process.rank}
