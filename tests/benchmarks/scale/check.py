"""The formulas of docs/scale.md against TorchRec: what four gloo processes hand to their collectives in one forward pass.

    python -m tests.benchmarks.scale.check

A table whole on one rank, by rows pooled, and by rows unpooled, read by a feature of two IDs and one of four; ends with an
error where a rank sends other bytes than `step_traffic` says.
"""

import os
import socket
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from raymtl.embeddings.sharding import sharders
from raymtl.embeddings.traffic import TableTraffic, step_traffic

WORKERS, ROWS, DIM, LENGTHS = 4, 10, 8, (2, 4)
CASES = [("table_wise", True), ("row_wise", True), ("row_wise", False)]


def _module(pooled: bool) -> nn.Module:
    fields = {"name": "t", "embedding_dim": DIM, "num_embeddings": 100 * WORKERS, "feature_names": ["a", "b"]}
    meta = torch.device("meta")
    if pooled:
        return EmbeddingBagCollection(tables=[EmbeddingBagConfig(**fields)], device=meta)
    return EmbeddingCollection(tables=[EmbeddingConfig(**fields)], device=meta)


def _sent(module: nn.Module, batch: KeyedJaggedTensor) -> dict[str, int]:
    """Bytes that this rank sends to others in a forward pass: of IDs (with lengths) and of vectors."""
    sent = {"ids": 0, "vectors": 0}
    rank = dist.get_rank()
    real = dist.all_to_all_single, dist.reduce_scatter_tensor

    def all_to_all(*args: Any, **named: Any) -> Any:
        given = named.get("input", args[1] if len(args) > 1 else None)
        splits = named.get("input_split_sizes", args[3] if len(args) > 3 else None)
        if splits:  # without them it is the exchange of the splits themselves
            kind = "vectors" if given.is_floating_point() else "ids"
            sent[kind] += (sum(splits) - splits[rank]) * given.element_size()
        return real[0](*args, **named)

    def reduce_scatter(output: torch.Tensor, given: torch.Tensor, *more: Any, **rest: Any) -> Any:
        sent["vectors"] += (WORKERS - 1) * output.numel() * output.element_size()  # in a ring
        return real[1](output, given, *more, **rest)

    dist.all_to_all_single, dist.reduce_scatter_tensor = all_to_all, reduce_scatter
    answer = module(batch)
    getattr(answer, "wait", lambda: None)()
    for part in answer.values() if not hasattr(answer, "wait") else ():
        part.values()
    dist.all_to_all_single, dist.reduce_scatter_tensor = real
    return sent


def _work(rank: int, port: int) -> None:
    warnings.simplefilter("ignore")
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(WORKERS)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    for sharding, pooled in CASES:
        model = nn.Sequential(_module(pooled))
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=WORKERS, compute_device="cpu", local_world_size=WORKERS),
            batch_size=ROWS,
            constraints={"t": ParameterConstraints(sharding_types=[sharding], compute_kernels=["fused"])},
        )
        plan = planner.collective_plan(model, sharders(), dist.group.WORLD)
        ranks = next(iter(plan.plan.values()))["t"].ranks
        sharded = DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=sharders())
        count = sum(LENGTHS) * ROWS
        batch = KeyedJaggedTensor(
            keys=["a", "b"],
            values=torch.arange(count) * 100 % (100 * WORKERS),  # as many IDs for every rank
            lengths=torch.tensor([n for n in LENGTHS for _ in range(ROWS)], dtype=torch.int32),
        )
        sent = _sent(sharded, batch)
        found = step_traffic(
            [TableTraffic(sharding, tuple(ranks), DIM, LENGTHS, pooled)],
            workers=WORKERS,
            per_node=WORKERS,
            batch_rows=ROWS,
        )
        expected = {"ids": found.ids.sent_inside[rank], "vectors": found.vectors.sent_inside[rank]}
        if sent != expected:
            raise SystemExit(
                f"rank {rank}, {sharding}, pooled {pooled}: TorchRec sends {sent}, the formula says {expected}"
            )
        if rank == 0:
            print(
                f"{sharding}, {'pooled' if pooled else 'unpooled'}: all ranks as computed; rank 0 sends {sent}",
                flush=True,
            )
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_work, args=(port,), nprocs=WORKERS)
