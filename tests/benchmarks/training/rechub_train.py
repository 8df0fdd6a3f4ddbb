"""One training with torch-rechub, for rechub.py: runs in the environment of torch-rechub, which has no raymtl.

Its argument is a JSON object; it prints rows/s from the first step to the last one.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch_rechub.basic.features import DenseFeature, SparseFeature  # type: ignore[import-not-found]
from torch_rechub.data.dataset import ParquetIterableDataset  # type: ignore[import-not-found]
from torch_rechub.models.multi_task import MMOE  # type: ignore[import-not-found]
from torch_rechub.trainers import MTLTrainer  # type: ignore[import-not-found]


class Loader:
    """Batches as the trainer expects them, counted."""

    def __init__(self, job: dict[str, Any]):
        self._inputs, self._tasks = [*job["sizes"], *job["dense"]], job["tasks"]
        data = ParquetIterableDataset(job["files"], batch_size=job["batch_size"])
        self._loader = DataLoader(data, batch_size=None)
        self.rows = 0
        self.began: float | None = None

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for batch in self._loader:
            if self.began is None:
                self.began = time.perf_counter()
            labels = torch.stack([batch[task] for task in self._tasks], 1)
            yield {name: batch[name] for name in self._inputs}, labels
            self.rows += len(labels)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    features = [SparseFeature(name, vocab_size=size, embed_dim=16) for name, size in job["sizes"].items()]
    features += [DenseFeature(name) for name in job["dense"]]
    kinds = ["classification"] * len(job["tasks"])
    towers = [{"dims": [32]} for _ in kinds]
    trainer = MTLTrainer(MMOE(features, kinds, 4, {"dims": [128, 64]}, towers), kinds)
    loader = Loader(job)
    for _ in range(job["epochs"]):
        trainer.train_one_epoch(loader)
    assert loader.began is not None
    print(json.dumps({"rows_per_s": round(loader.rows / (time.perf_counter() - loader.began))}))


if __name__ == "__main__":
    main()
