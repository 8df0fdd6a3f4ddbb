"""A trial with several workers: Ray Train inside the trial, which watches it.

At every evaluation the workers ask whether to continue; if the answer is no they exit, and Ray Train releases its resources.
"""

import asyncio
import threading
from typing import Any

import ray

from raymtl.training.entry import run_worker
from raymtl.training.job import Job
from raymtl.training.progress import Progress
from raymtl.training.resources import ResourceGrant
from raymtl.training.session import launch
from raymtl.tuning.inprocess_trial import ProgressListener

_LOOK_EVERY_S = 0.2


@ray.remote(num_cpus=0)
class _StopDecider:
    """Passes an evaluation to the trial and its decision back to the workers."""

    def __init__(self) -> None:
        self._question: dict[str, Any] | None = None
        self._answered: asyncio.Future[bool] | None = None

    async def ask(self, evaluation: dict[str, Any]) -> bool:
        self._answered = asyncio.get_running_loop().create_future()
        self._question = evaluation
        return await self._answered

    async def question(self) -> dict[str, Any] | None:
        asked, self._question = self._question, None
        return asked

    async def answer(self, should_continue: bool) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(should_continue)


def run_distributed_trial(job: Job, grant: ResourceGrant, listener: ProgressListener) -> Progress:
    """Train the rest of a trial on `train.workers` workers. Raises what the run raised."""
    listener.on_start(Progress())  # Ray Train knows its progress; earlier evaluations are reported at the end
    stop_decider = _StopDecider.remote()  # type: ignore[attr-defined]
    job.stop_decider = stop_decider
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["summary"] = launch(run_worker, job, grant, job.config, None)
        except BaseException as error:  # re-raised in the calling thread
            outcome["error"] = error

    thread = threading.Thread(target=run, name="trial", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK_EVERY_S)
            asked = ray.get(stop_decider.question.remote())
            if asked is not None:
                ray.get(stop_decider.answer.remote(listener.on_evaluation(asked)))
    finally:
        ray.kill(stop_decider)
    if "error" in outcome:
        raise outcome["error"]
    return Progress(**outcome["summary"]["progress"])
