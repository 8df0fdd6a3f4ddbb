"""A version that is trained on small logs in which it is known what every column is worth."""

from pathlib import Path

import pytest

from tests.benchmarks.explain.world import columns_of_day, train_here, world_config, write_day

TRAINED, ROWS = 3, 12_007


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days of logs, and a store with a version that was trained on three of them."""
    root = tmp_path_factory.mktemp("world")
    for day in range(TRAINED + 1):
        write_day(root / "logs", day, columns_of_day(0, day, ROWS))
    config = world_config(root, TRAINED, train={"batch_size": 400, "threads_per_worker": 1, "epochs": 1})
    train_here(config, root)
    return root
