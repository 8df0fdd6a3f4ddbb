"""The logs of a run: `metrics.jsonl`, TensorBoard, and events for the driver."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from raymtl.storage.retry import reason
from raymtl.telemetry.scalars import scalars
from raymtl.training.rundir import RunFolder

METRICS = "metrics.jsonl"


class RunLogger:
    """The logger of the first worker; its files are in the run's folder, or are copied there if that is remote storage."""

    def __init__(self, run_dir: RunFolder, event_queue: Any, resume_step: int):
        """Drop the lines of steps after `resume_step`, which a run that resumes from a checkpoint repeats.

        Raises StorageError if the earlier lines cannot be read, or the files cannot be created.
        """
        self._run_dir = run_dir
        self._folder = Path(run_dir.root if run_dir.is_local else "raymtl-log").absolute()
        path = self._folder / METRICS
        kept = [line for line, step in self._previous() if step <= resume_step]
        new_file = path.with_suffix(".new")  # a kill here must not lose the lines
        with run_dir.errors("write", METRICS):
            self._folder.mkdir(parents=True, exist_ok=True)
            new_file.write_text("".join(line + "\n" for line in kept))
            new_file.replace(path)
            self._file = path.open("a", buffering=1)
            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=resume_step + 1)
        self._event_queue = event_queue

    def _previous(self) -> list[tuple[str, int]]:
        """The lines of earlier starts with their steps; a crash may have truncated the last one."""
        found = []
        for line in (self._run_dir.read_text(METRICS) or "").splitlines():
            try:
                found.append((line, int(json.loads(line)["step"])))
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def train(self, record: dict[str, Any]) -> None:
        """One window of training steps."""
        self._write({"kind": "train", **record})

    def evaluation(self, record: dict[str, Any]) -> None:
        """One evaluation."""
        self._write({"kind": "eval", **record})

    def notify(self, **item: Any) -> None:
        """Send the driver an event that is not a metric."""
        if self._event_queue is not None:
            self._event_queue.put.remote(item)

    def sync(self) -> None:
        """Make the files visible to others, at each checkpoint and at the end; a failure does not stop the training."""
        self._board.flush()
        if self._run_dir.is_local:
            return
        try:
            self._run_dir.upload(str(self._folder))
        except OSError as error:
            self.notify(
                note=f"run folder `{self._run_dir.path}`: cannot copy the log there, training continues: {reason(error)}"
            )

    def close(self) -> None:
        self._board.close()
        self._file.close()
        self.sync()
        if not self._run_dir.is_local:
            shutil.rmtree(self._folder)

    def _write(self, record: dict[str, Any]) -> None:
        record = {**record, "time": round(time.time(), 3)}
        self._file.write(json.dumps(record) + "\n")
        for tag, value in scalars(record).items():
            self._board.add_scalar(tag, value, record["step"])
        if self._event_queue is not None:
            self._event_queue.put.remote(record)
