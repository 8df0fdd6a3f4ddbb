"""The optimizers of replicated tables, by hand; against fbgemm's kernels they are tested in `test_replicated.py`."""

import math

import pytest
import torch

from raymtl.config.train import SparseOptimizer
from raymtl.embeddings.sparse_update import empty_state, update_rows

ROWS, GRADIENT = torch.tensor([3, 1]), torch.tensor([[0.5, -2.0], [1.0, 0.0]])


def after(kind: str, steps: int, **options: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    weight, state = torch.ones(5, 2), empty_state(kind, 5, 2, torch.device("cpu"))
    for step in range(steps):
        config = SparseOptimizer(type=kind, **options)  # type: ignore[arg-type]
        update_rows(weight, state, ROWS, GRADIENT, config, lr=0.1, step=step + 1)
    return weight, state


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad", "adam", "sgd"])
def test_other_rows_stay(kind: str) -> None:
    weight, state = after(kind, 3)
    assert (weight[[0, 2, 4]] == 1).all()
    assert all((value[[0, 2, 4]] == 0).all() for value in state.values())
    assert (weight[3] != 1).all()


def test_row_wise_adagrad_scales_a_row_by_the_mean_of_its_squares() -> None:
    weight, state = after("rowwise_adagrad", 2)
    mean = (0.5**2 + 2.0**2) / 2
    assert state["momentum1"][3].item() == pytest.approx(2 * mean)
    moved = 0.1 * 0.5 * (1 / math.sqrt(mean) + 1 / math.sqrt(2 * mean))
    assert weight[3, 0].item() == pytest.approx(1 - moved, rel=1e-6)


def test_lazy_adam_is_torchs_own_on_the_rows_it_sees() -> None:
    """With decoupled weight decay, as fbgemm's: lr times the decay times the weight."""
    weight, state = after("adam", 4, weight_decay=0.01)
    whole = torch.nn.Parameter(torch.ones(2, 2))
    torchs = torch.optim.AdamW([whole], lr=0.1, eps=1e-8, weight_decay=0.01)
    for _ in range(4):
        whole.grad = GRADIENT.clone()
        torchs.step()
    torch.testing.assert_close(weight[ROWS], whole.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state["momentum1"][ROWS], torchs.state[whole]["exp_avg"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(state["exp_avg_sq"][ROWS], torchs.state[whole]["exp_avg_sq"], rtol=1e-6, atol=1e-7)
