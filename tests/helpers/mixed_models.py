"""Models of `mixed_config` in several processes: made, trained for a few steps, and what they say of a batch."""

import torch
import torch.distributed as dist

from raymtl.config.root import Config
from raymtl.data.batch import Batch
from raymtl.training.build import TrainState, build
from tests.helpers.worker_processes import share


def make(config: Config) -> TrainState:
    group = dist.group.WORLD
    assert group is not None
    return build(config, {"click": 0.3, "buy": 0.1}, 10, torch.device("cpu"), group)


def train(built: TrainState, config: Config, seeds: range) -> list[float]:
    """Loss of each of a few steps."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    losses = []
    for seed in seeds:
        built.optimizers.zero_grad()
        loss, _ = built.model(share(config, rank, workers, seed))
        loss.backward()
        built.optimizers.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / workers)
    return losses


def logits(built: TrainState, config: Config, batch: Batch | None = None) -> torch.Tensor:
    """Evaluation logits of a fixed batch, or of another one of which this worker has its part."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    built.model.eval()
    with torch.no_grad():
        own = built.model(share(config, rank, workers, seed=99) if batch is None else batch)[1][0]
    built.model.train()
    parts = [torch.empty_like(own) for _ in range(workers)]
    dist.all_gather(parts, own)
    return torch.cat(parts)
