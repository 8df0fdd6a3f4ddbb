"""Logits to predictions in the label's unit."""

import pytest
import torch

from raymtl.config.tasks import Task
from raymtl.objectives.link import predictions


def test_each_column_has_its_own_link() -> None:
    tasks = [Task(), Task(kind="count"), Task(kind="real"), Task(kind="real", transform="log1p")]
    logits = torch.tensor([[0.0, 0.0, -2.5, 0.0], [2.0, 1.0, 7.0, 1.0], [0.0, 99.0, 1.0, 1000.0]])
    found = predictions(logits, tasks)
    assert found[:, 0].tolist() == pytest.approx([0.5, 0.880797, 0.5])
    assert found[:, 1].tolist() == pytest.approx([1.0, 2.718282, 3269017.37])
    assert found[:, 2].tolist() == [-2.5, 7.0, 1.0]
    assert found[:2, 3].tolist() == pytest.approx([0.0, 1.718282])
    assert found.isfinite().all()


def test_half_precision_is_widened() -> None:
    found = predictions(torch.full((2, 1), -9.0, dtype=torch.bfloat16), [Task()])
    assert found.dtype == torch.float32
    assert found[0, 0].item() == pytest.approx(1.2339e-4, rel=1e-4)


def test_a_missing_column_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        predictions(torch.zeros(2, 1), [Task(), Task()])
