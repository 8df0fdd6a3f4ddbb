"""Towers, PEPNet and features by task on one worker and three, and their checkpoints with another number of workers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.training import checkpoint
from raymtl.training.progress import Progress
from tests.helpers.mixed_models import logits, make, train
from tests.helpers.worker_processes import mixed_config, several

STEPS = 4
PEPNET = {
    "preset": "pepnet",
    "refine": {"features": ["city"], "hidden": 4},
    "towers": {"hidden": [16, 8], "features": ["user", "item", "age"], "gate_hidden": 4},
    "sequence": {"type": "pooled"},
}
MODELS: dict[str, dict[str, Any]] = {
    "pepnet": PEPNET,
    "mixed": {
        "towers": {"hidden": [8, 4], "norm": "layer", "activation": "gelu", "per_task": {"buy": {"hidden": [4]}}}
    },
    "reads": {"refine": {"type": "task_features", "reads": {"click": ["user", "age"]}}},
}


def configured(name: str) -> Config:
    raw = mixed_config(["row_wise"]).model_dump(mode="json", exclude_unset=True)
    own = MODELS[name]
    raw["model"] = own if "preset" in own else {**raw["model"], **own}
    raw["data"]["scenario"] = {"column": "place", "values": ["a", "b"]}
    return config_from_dict(raw)


def save(rank: int, workers: int, folder: str) -> Any:
    found = {}
    group = dist.group.WORLD
    assert group is not None
    for name in MODELS:
        config = configured(name)
        built = make(config)
        losses = train(built, config, range(STEPS))
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        checkpoint.save(built, Progress(step=STEPS), f"{folder}/{name}", group, False)
        found[name] = losses, logits(built, config), train(built, config, range(STEPS, STEPS + 2))
    return found


def load(rank: int, workers: int, folder: str) -> Any:
    found = {}
    for name in MODELS:
        config = configured(name)
        built = make(config)
        checkpoint.load(built, f"{folder}/{name}", model_only=False, group=dist.group.WORLD)
        found[name] = logits(built, config), train(built, config, range(STEPS, STEPS + 2))
    return found


@pytest.mark.dist
def test_one_worker_and_three_and_back(tmp_path: Path) -> None:
    alone = several(1, tmp_path / "one", save, str(tmp_path / "of-one"))[0]
    three = several(3, tmp_path / "three", save, str(tmp_path / "of-three"))[0]
    merged = several(1, tmp_path / "merged", load, str(tmp_path / "of-three"))[0]
    spread = several(3, tmp_path / "spread", load, str(tmp_path / "of-one"))[0]
    for name in MODELS:
        losses, said, after = alone[name]
        assert losses[0] != losses[-1]
        torch.testing.assert_close(torch.tensor(three[name][0]), torch.tensor(losses), rtol=0, atol=1e-6)
        torch.testing.assert_close(three[name][1], said, rtol=0, atol=1e-5)
        torch.testing.assert_close(merged[name][0], three[name][1], rtol=0, atol=1e-6)
        torch.testing.assert_close(spread[name][0], said, rtol=0, atol=1e-6)
        for other in (merged[name][1], spread[name][1]):
            torch.testing.assert_close(torch.tensor(other), torch.tensor(after), rtol=0, atol=1e-5)
