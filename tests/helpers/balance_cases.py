"""Methods of balancing for two tasks, and steps to feed them."""

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from raymtl.config.balance import Balance as AnySection
from raymtl.config.tasks import Task
from raymtl.objectives.balance.balancer import Balancer, build_balancer
from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, build

KINDS = ["fixed", "entropy", "uncertainty", "famo", "pcgrad", "cagrad", "gradnorm"]
AT_CUT = ["pcgrad", "cagrad", "gradnorm"]
CLICK, BUY = 0.2, 0.01
TWO = {"click": Task(base_rate=CLICK), "buy": Task(base_rate=BUY, weight=3.0)}


def section(type_: str, **options: Any) -> Any:
    return TypeAdapter(AnySection).validate_python({"type": type_, **options})


def method(type_: str, tasks: dict[str, Task] = TWO, **options: Any) -> Balance:
    return build(section(type_, **options), BalanceContext(tasks, {}))


def balancer(type_: str, tasks: dict[str, Task] = TWO, **options: Any) -> Balancer:
    made = build_balancer(section(type_, **options), tasks, {})
    assert made is not None
    return made


def step(losses: list[float], gram: Tensor | None = None, active: list[bool] | None = None) -> StepStats:
    mask = torch.tensor(active if active is not None else [True] * len(losses))
    gram = torch.eye(len(losses)) if gram is None else gram
    return StepStats(mask, torch.tensor(losses) * mask, gram * torch.outer(mask, mask))


def gram_of(*gradients: list[float]) -> Tensor:
    g = torch.tensor(gradients, dtype=torch.float64)
    return g @ g.T
