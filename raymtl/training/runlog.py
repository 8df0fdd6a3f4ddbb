"""What a run says while it goes: `metrics.jsonl`, TensorBoard, and lines for the person who waits."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray
from torch.utils.tensorboard import SummaryWriter

from raymtl.storage.filesystem import open_filesystem
from raymtl.storage.retry import reason, retry
from raymtl.training.rundir import read_file, run_storage

METRICS = "metrics.jsonl"


@ray.remote(num_cpus=0)
class EventQueue:
    """Lines from the first worker to the driver, which may sit on another machine without shared storage, and one wish of the
    driver's for the workers."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = []
        self._save_soon = False

    def put(self, item: dict[str, Any]) -> None:
        self._items.append(item)

    def take(self) -> list[dict[str, Any]]:
        items, self._items = self._items, []
        return items

    def save_soon(self) -> None:
        self._save_soon = True

    def wants_save(self) -> bool:
        return self._save_soon


class RunLogger:
    """Writer of the first worker; the files lie in the run's folder, or are copied there where that is remote storage."""

    def __init__(self, run_dir: str, event_queue: Any, resume_step: int):
        """Lines of steps after `resume_step` are dropped: a run that goes on from a checkpoint takes those steps again.

        Raises StorageError where the earlier lines cannot be read, or the files not be made.
        """
        self._run_dir = run_dir
        self._filesystem, inner = open_filesystem(run_dir)
        self._remote = not isinstance(self._filesystem, pafs.LocalFileSystem)
        self._target = inner
        self._folder = Path(inner if not self._remote else "raymtl-log").absolute()
        path = self._folder / METRICS
        kept = [line for line, step in self._previous() if step <= resume_step]
        whole = path.with_suffix(".new")  # a kill here must not cost the lines
        with run_storage(run_dir, f"write `{METRICS}`"):
            self._folder.mkdir(parents=True, exist_ok=True)
            whole.write_text("".join(line + "\n" for line in kept))
            whole.replace(path)
            self._file = path.open("a", buffering=1)
            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=resume_step + 1)
        self._mailbox = event_queue

    def _previous(self) -> list[tuple[str, int]]:
        """The lines of earlier starts with their steps; a crash may have cut off the last one."""
        found = []
        for line in (read_file(self._run_dir, METRICS) or "").splitlines():
            try:
                found.append((line, int(json.loads(line)["step"])))
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def train(self, record: dict[str, Any]) -> None:
        """One window of training steps."""
        self._write({"kind": "train", **record})
        for key in ("loss", "rows_per_s", "data_wait", "lr", "order", "bound"):
            self._board.add_scalar(f"train/{key}", record[key], record["step"])
        for task, loss in record["losses"].items():
            self._board.add_scalar(f"train/loss/{task}", loss, record["step"])
        for key, tag in (("weights", "weight"), ("gradient_cosine", "cosine")):  # of `train.balance`
            for name, value in record.get(key, {}).items():
                self._board.add_scalar(f"train/{tag}/{name}", value, record["step"])
        if "gradient_conflict" in record:
            self._board.add_scalar("train/gradient_conflict", record["gradient_conflict"], record["step"])

    def evaluation(self, record: dict[str, Any]) -> None:
        """One evaluation."""
        self._write({"kind": "eval", **record})
        for task, metrics in record["metrics"]["tasks"].items():
            for key, value in metrics.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._board.add_scalar(f"eval/{task}/{key}", value, record["step"])

    def notify(self, **item: Any) -> None:
        """Tell the driver something that is no metric."""
        if self._mailbox is not None:
            self._mailbox.put.remote(item)

    def sync(self) -> None:
        """Make the files visible to others: at each checkpoint and at the end; a model is worth more than its log."""
        self._board.flush()
        if not self._remote:
            return
        try:
            retry(lambda: pafs.copy_files(str(self._folder), self._target, pafs.LocalFileSystem(), self._filesystem))
        except OSError as error:
            self.notify(
                note=f"run folder `{self._run_dir}`: the log cannot be copied there, training goes on: {reason(error)}"
            )

    def close(self) -> None:
        self._board.close()
        self._file.close()
        self.sync()
        if self._remote:
            shutil.rmtree(self._folder)

    def _write(self, record: dict[str, Any]) -> None:
        record = {**record, "time": round(time.time(), 3)}
        self._file.write(json.dumps(record) + "\n")
        if self._mailbox is not None:
            self._mailbox.put.remote(record)
