"""The precision that `train.precision: auto` stands for."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.training import precision
from raymtl.training.precision import choose_precision, has_bf16
from tests.helpers.mixed_models import logits, make
from tests.helpers.worker_processes import mixed_config, several

CPU = torch.device("cpu")


def test_the_processor_decides() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_bf16(CPU) == any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def choose(rank: int, workers: int) -> list[str]:
    """What each rank chooses where the first one alone has no instructions, and where all have them."""
    group = dist.group.WORLD
    assert group is not None
    found: list[str] = []
    for without in (0, None):
        precision.has_bf16 = lambda device, without=without: rank != without  # type: ignore[assignment]
        found += [choose_precision(wanted, CPU, group) for wanted in ("auto", "fp32", "bf16")]
    return found


def test_workers_on_unequal_processors_agree(tmp_path: Path) -> None:
    first, second = several(2, tmp_path / "workers", choose)
    assert first == second == ["fp32", "fp32", "bf16", "bf16", "fp32", "bf16"]


def predict(rank: int, workers: int) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for wanted in ("auto", "fp32", "bf16"):
        config = mixed_config(["row_wise"], precision=wanted)
        built = make(config)
        answers[wanted] = (built.precision, logits(built, config))
    return answers


def test_auto_computes_as_what_it_stands_for(tmp_path: Path) -> None:
    (found,) = several(1, tmp_path / "workers", predict)
    chosen, values = found["auto"]
    assert chosen == ("bf16" if has_bf16(CPU) else "fp32")
    assert torch.equal(values, found[chosen][1])
    assert not torch.equal(found["fp32"][1], found["bf16"][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_decides() -> None:
    assert has_bf16(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (8, 0))
