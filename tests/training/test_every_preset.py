"""Every configuration in jobs/conf on synthetic logs with two workers: it trains, and a checkpoint brings it back."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raymtl.config.load import load_config
from raymtl.config.presets import PRESETS
from raymtl.config.root import Config
from raymtl.data.batch import Batch, Collator
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_requests
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import Counted, plan_input
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import checkpoint
from raymtl.training.build import TrainState, build
from raymtl.training.progress import Progress
from tests.helpers.worker_processes import several

CONF = Path(__file__).parent.parent.parent / "jobs" / "conf"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("base", "example"))
STEPS, ROWS = 3, 256


def configured(name: str, logs: str) -> Config:
    days = ["data.train={start: 2026-01-01, end: 2026-01-01}", "data.eval=null", "train.precision=fp32"]
    return load_config(str(CONF / f"{name}.yaml"), [f"data.path={logs}", f"train.batch_size={ROWS}", *days])


def batches(
    config: Config,
    rank: int,
    workers: int,
    steps: int = STEPS,
    rows: int = ROWS,
    counted: Sequence[Counted] = (Counted(),),
) -> tuple[list[Batch], dict[str, float]]:
    """This worker's part of the first global batches of the logs, neighbouring rows, and the base rates; the batches take turns
    in `counted`."""
    plan = plan_input(config, "train")
    maker = BlockMaker(config, evaluation=False)
    fragment = plan.units[0].fragments[0]
    raw, row = next(iter(read_requests(plan.root, fragment, maker.raw_columns(), steps * rows)))
    blocks = [maker(raw, Place("part", row, fragment.day), 0, labels) for labels in counted]
    found = []
    for step in range(steps):
        whole = blocks[step % len(blocks)].slice(step * rows, rows)
        mine = Collator(config, rows // workers, False)([whole.slice(rank * rows // workers, rows // workers)])
        mine.totals = Collator(config, rows, False)([whole]).totals
        found.append(mine)
    return found, sample_base_rates(config, plan)


def logits(built: TrainState, batch: Batch) -> torch.Tensor:
    built.model.eval()
    with torch.no_grad():
        found = built.model(batch)[1][0]
    built.model.train()
    return found


def train_and_return(rank: int, workers: int, logs: str, folder: str) -> dict[str, Any]:
    answers = {}
    group = dist.group.WORLD
    assert group is not None
    for name in NAMES:
        config = configured(name, logs)
        some, rates = batches(config, rank, workers)
        built = build(config, rates, STEPS, torch.device("cpu"), group)
        start = copy.deepcopy([p.detach() for p in built.model.module.head.parameters()])
        losses = []
        for batch in some:
            built.optimizers.zero_grad()
            loss, (_, per_task, *_) = built.model(batch)
            loss.backward()
            built.optimizers.step()
            losses.append(per_task.tolist())
        unmoved = [
            n
            for (n, p), was in zip(built.model.module.head.named_parameters(), start, strict=True)
            if torch.equal(p.detach(), was)
        ]
        seen = logits(built, some[0])
        place = f"{folder}/{name}"
        Path(place).mkdir(exist_ok=True, parents=True)
        checkpoint.save(built, Progress(step=STEPS), place, group, False)
        with torch.no_grad():  # another model, which must come back whole
            for p in built.model.parameters():
                p.mul_(0.5).add_(0.01)
        before = logits(built, some[0])
        checkpoint.load(built, place, model_only=False, group=group)
        answers[name] = {
            "losses": losses,
            "unmoved": unmoved,
            "finite": bool(seen.isfinite().all()),
            "was_other": not torch.equal(before, seen),
            "came_back": torch.equal(logits(built, some[0]), seen),
        }
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("presets")
    more = {"behaviours": True, "engagement": True, "interest": 1.0}
    spec = SynthSpec(days=1, rows_per_day=4_000, users=400, items=200, **more)
    write_logs(spec, str(folder / "logs"))
    return several(2, folder / "run", train_and_return, str(folder / "logs"), str(folder / "checkpoints"), limit_s=300)


def test_there_is_a_configuration_for_every_preset() -> None:
    assert set(NAMES) == set(PRESETS)


@pytest.mark.dist
@pytest.mark.parametrize("name", NAMES)
def test_two_workers_train_it_and_a_checkpoint_brings_it_back(name: str, answers: list[dict[str, Any]]) -> None:
    for of_worker in answers:
        answer = of_worker[name]
        assert answer["finite"]
        assert all(torch.tensor(losses).isfinite().all() for losses in answer["losses"])
        assert answer["unmoved"] == []
        assert answer["was_other"]
        assert answer["came_back"]
