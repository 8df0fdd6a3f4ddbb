"""Bags with weights and numbers of steps: by hand, and the same on any number of workers under every sharding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import JaggedTensor

from raymtl.embeddings.tables import _pool
from tests.embeddings.test_replicated import every_lookup, same
from tests.helpers.version_models import contents, make, train
from tests.helpers.worker_processes import mixed_block, several, share

SHARDINGS = ["replicated", "row_wise", "table_wise", "column_wise"]
STEPS = 4


def measured(rank: int, workers: int) -> list[Any]:
    """What the slots read at first, and what the model learns, under every sharding."""
    found = []
    for sharding in SHARDINGS:
        config = every_lookup([sharding], "sgd", sparse_optimizer={"type": "sgd", "lr": 50.0})
        built = make(config)
        seen: list[Any] = []
        ranker = built.model.module.head.ranker
        handle = ranker.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        tables = contents(built)
        batch = share(config, rank, workers, 0)
        built.model.eval()
        with torch.no_grad():
            built.model(batch)
        handle.remove()
        spec = ranker.encoding.given
        pooled = dict(zip(spec.pooled, seen[0].pooled.split([*spec.pooled.values()], 1), strict=True))
        read = {name: pooled[name].clone() for name in ("labels", "liked_items")}
        read["gap"], read["lengths"] = (value.clone() for value in seen[0].sequences["gap"])
        built.model.train()
        found.append((tables, read, train(built, config, range(STEPS)), contents(built)))
    return found


def by_hand(tables: dict[str, torch.Tensor], rows: slice) -> dict[str, np.ndarray]:
    config = every_lookup(["replicated"], "sgd")
    block = mixed_block(config, config.train.batch_size, 0).slice(rows.start, rows.stop - rows.start)
    found: dict[str, Any] = {"labels": [], "liked_items": []}
    for name, table in (("labels", "labels"), ("liked_items", "item")):
        weight = tables[f"{table} weight"].double().numpy()
        for ids, weights in zip(
            block.column(f"ids:{name}").to_pylist(), block.column(f"weights:{name}").to_pylist(), strict=True
        ):
            total = sum((w * weight[i] for i, w in zip(ids, weights, strict=True)), np.zeros(weight.shape[1]))
            if name == "liked_items" and sum(weights) > 0:  # the mean
                total = total / sum(weights)
            found[name].append(total)
    steps = block.column("numbers:gap").to_pylist()
    found["gap"] = [[[x] for x in row + [0.0] * (5 - len(row))] for row in steps]
    found["lengths"] = [len(row) for row in steps]
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.dist
def test_weights_and_numbers_by_hand_and_on_three_workers(tmp_path: Path) -> None:
    one = several(1, tmp_path / "one", measured)[0]
    three = several(3, tmp_path / "three", measured)
    tables, _, losses, learned = one[0]
    for answer in (one, *three):
        for _, (own, _, its_losses, its_learned) in zip(SHARDINGS, answer, strict=True):
            same(own, tables, 0)
            torch.testing.assert_close(torch.tensor(its_losses), torch.tensor(losses), rtol=0, atol=1e-6)
            same(its_learned, learned, 2e-6)
    for rank, answer in [(None, one), *enumerate(three)]:
        expected = by_hand(tables, slice(0, 24) if rank is None else slice(8 * rank, 8 * rank + 8))
        for _, read, _, _ in answer:
            for name, values in expected.items():
                np.testing.assert_allclose(read[name].double().numpy(), values, rtol=0, atol=1e-6, err_msg=name)
    moved = learned["labels weight"] - tables["labels weight"]
    assert moved.abs().max() > 0.01


@pytest.mark.parametrize("mean", [False, True])
def test_the_gradient_of_a_weighted_bag(mean: bool) -> None:
    lengths = torch.tensor([2, 0, 3, 1])
    weights = torch.tensor([0.5, 2.0, 0.0, 1.5, 0.25, 0.0], dtype=torch.float64)
    values = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)

    def pooled(values: torch.Tensor) -> torch.Tensor:
        return _pool(JaggedTensor(values, lengths=lengths), mean, weights)

    assert torch.autograd.gradcheck(pooled, values)
    share_of = weights / (torch.tensor([2.5, 2.5, 1.75, 1.75, 1.75, 1.0], dtype=torch.float64) if mean else 1)
    pooled(values).sum().backward()
    torch.testing.assert_close(values.grad, share_of.unsqueeze(1).expand(6, 4))
