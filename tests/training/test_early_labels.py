"""Early labels in training: the same step on several workers, after a checkpoint, and without a trace in what is served."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.data.units import Counted
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import checkpoint
from raymtl.training.build import build
from raymtl.training.progress import Progress
from tests.helpers.worker_processes import several
from tests.training.test_every_preset import batches, logits
from tests.training.test_requests import ROWS, configured, trained

FRESH = Counted(("click", "page_views"), early=("buy",))
FINAL = Counted(("cart", "buy"))


def early(task: str = "buy") -> list[str]:
    return [f"tasks.{task}.delay_days=2", f"tasks.{task}.early_labels={{time: buy_time}}"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("early") / "logs")
    rates = {"buy_rate": 0.05, "cart_rate": 0.1, "old_app": 0.0, "cart_not_logged": ()}
    write_logs(SynthSpec(days=1, rows_per_day=1_000, users=60, items=80, buy_delay_days=2, **rates), folder)
    return folder


VARIANTS: list[tuple[str, list[str], list[Counted]]] = [
    ("mmoe", early(), [FRESH, FINAL]),
    ("mmoe", ["data.request=request_id", "train.balance={type: famo}", *early()], [FINAL, FRESH]),
    ("esmm", early("ctcvr"), [Counted(("ctr",), early=("ctcvr",)), Counted()]),
    ("aitm", early(), [FINAL, FRESH]),
]


def of_variants(rank: int, workers: int, logs: str) -> list[dict[str, Any]]:
    return [trained(configured(name, logs, *more), rank, workers, counted) for name, more, counted in VARIANTS]


@pytest.mark.dist
def test_three_workers_take_the_step_of_one(logs: str, tmp_path: Path) -> None:
    (alone,) = several(1, tmp_path / "one", of_variants, logs)
    three = several(3, tmp_path / "three", of_variants, logs)
    for n, (name, _, counted) in enumerate(VARIANTS):
        mean = torch.tensor([answer[n]["losses"] for answer in three]).mean(0)
        assert torch.allclose(mean, torch.tensor(alone[n]["losses"]), rtol=1e-5), name
        for answer in three:
            assert answer[n]["dense"].keys() == alone[n]["dense"].keys()
            for weight, gradient in alone[n]["dense"].items():
                assert torch.allclose(answer[n]["dense"][weight], gradient, rtol=1e-4, atol=1e-6), (name, weight)
        head = [gradient for weight, gradient in alone[n]["dense"].items() if weight.startswith("ranker.arrival.")]
        assert [bool(gradient.any()) for gradient in head] == [counted[-1] is not FRESH] * len(head) != []


def once_more(rank: int, workers: int, logs: str, folder: str) -> dict[str, Any]:
    """Two steps, a checkpoint and a third step, on another number of workers after it."""
    group = dist.group.WORLD
    assert group is not None
    config = configured("mmoe", logs, *early())
    some, rates = batches(config, rank, workers, 3, ROWS, [FINAL, FRESH, FINAL])
    built = build(config, rates, 3, torch.device("cpu"), group)

    def step(batch: Any) -> list[float]:
        torch.manual_seed(3)
        built.optimizers.zero_grad()
        loss, (_, per_task, penalties) = built.model(batch)
        loss.backward()
        built.optimizers.step()
        return [loss.item(), *per_task.tolist(), *penalties.tolist()]

    if not list(Path(folder).iterdir()):
        dist.barrier()
        for batch in some[:2]:
            step(batch)
        checkpoint.save(built, Progress(step=2), folder, group, False)
    else:
        checkpoint.load(built, folder, model_only=False, group=group)
    served = logits(built, copy.deepcopy(some[2]))
    return {"losses": step(some[2]), "width": served.shape[1], "outputs": built.model.module.head.ranker.outputs.width}


@pytest.mark.dist
def test_a_checkpoint_brings_the_arrival_head_to_other_workers(logs: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    through = several(2, tmp_path / "two", once_more, logs, str(folder))
    resumed = several(3, tmp_path / "three", once_more, logs, str(folder))
    found, expected = (torch.tensor([a["losses"] for a in answers]).mean(0) for answers in (resumed, through))
    assert torch.allclose(found, expected, rtol=1e-5)
    assert found[-1] > 0  # the loss of the arrival head
    assert all(
        answer["width"] == answer["outputs"] for answer in (*through, *resumed)
    )  # no column of it in predictions
