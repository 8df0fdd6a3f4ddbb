"""Every model of the presets, small, with inputs and labels for it."""

from typing import Any, TypeVar

import torch
from torch import Tensor

from raymtl.config.model import Model
from raymtl.config.presets import apply_preset
from raymtl.config.tasks import Task
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.slots import Context

SPEC = InputSpec(pooled={"user": 4, "item": 4}, dense=("age", "hour", "price"))
WIDTH = 11
FUNNEL = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="cart")}
ONE = {"click": Task()}

_EXPERTS = {"experts": 3, "hidden": [8, 6]}
_PLE = {"levels": 2, "task_experts": 2, "shared_experts": 1, "hidden": [8, 6]}
_AIT: dict[str, Any] = {"towers": {"hidden": [6, 4]}, "coupler": {"type": "ait", "width": 4}}

MODELS: dict[str, dict[str, Any]] = {
    "single_task": {"preset": "single_task", "trunk": {"hidden": [8, 6]}, "towers": {"hidden": [4]}},
    "shared_bottom": {"preset": "shared_bottom", "trunk": {"hidden": [8, 6]}, "towers": {"hidden": [4]}},
    "no_towers": {"preset": "shared_bottom", "trunk": {"hidden": [8]}, "towers": {"hidden": []}},
    "mmoe": {"preset": "mmoe", "trunk": _EXPERTS, "towers": {"hidden": [4]}},
    "mmoe_bias": {"preset": "mmoe", "trunk": {**_EXPERTS, "gate_bias": True}, "towers": {"hidden": [4]}},
    "omoe": {"preset": "mmoe", "trunk": {**_EXPERTS, "shared_gate": True}, "towers": {"hidden": [4]}},
    "ple": {"preset": "ple", "trunk": _PLE, "towers": {"hidden": [4]}},
    "ple_bias": {"preset": "ple", "trunk": {**_PLE, "gate_bias": True, "levels": 3}, "towers": {"hidden": [4]}},
    "cgc": {"preset": "ple", "trunk": {**_PLE, "levels": 1}, "towers": {"hidden": [4]}},
    "ple_own": {"preset": "ple", "trunk": {**_PLE, "shared_experts": 0}, "towers": {"hidden": [4]}},
    "ple_shared": {
        "preset": "ple",
        "trunk": {**_PLE, "task_experts": 0, "shared_experts": 2},
        "towers": {"hidden": [4]},
    },
    "aitm": {"preset": "aitm", **_AIT},
    "aitm_own_attention": {"preset": "aitm", **_AIT, "coupler": {"type": "ait", "width": 4, "share_attention": False}},
    "mmoe_ait": {"preset": "mmoe", "trunk": _EXPERTS, **_AIT},
    "ple_ait": {"preset": "ple", "trunk": _PLE, **_AIT},
}
PRESETS = ["single_task", "shared_bottom", "mmoe", "ple", "aitm", "mmoe_ait"]


def config(name: str, **slots: Any) -> Model:
    return Model(**apply_preset({**MODELS[name], **slots}))


def tasks_of(name: str) -> dict[str, Task]:
    return ONE if name == "single_task" else FUNNEL


def make(name: str, tasks: dict[str, Task] | None = None, seed: int = 0, **slots: Any) -> Ranker:
    torch.manual_seed(seed)
    return build_ranker(config(name, **slots), tasks or tasks_of(name), SPEC, {})


def stirred(name: str, tasks: dict[str, Task] | None = None, seed: int = 0, **slots: Any) -> Ranker:
    """A model with all parameters random: the zeros at the start (gates, biases) would hide mistakes."""
    return stir(make(name, tasks, seed, **slots), seed)


M = TypeVar("M", bound=torch.nn.Module)


def stir(module: M, seed: int = 0) -> M:
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return module


def rows(n: int, seed: int = 1) -> ModelInput:
    generator = torch.Generator().manual_seed(seed)
    return ModelInput(torch.randn(n, 8, generator=generator), torch.randn(n, 3, generator=generator))


def take(inputs: ModelInput, index: Tensor | slice) -> ModelInput:
    return ModelInput(inputs.pooled[index], inputs.dense[index])


def x_of(inputs: ModelInput) -> Tensor:
    return torch.cat((inputs.pooled, inputs.dense), 1)


def context(tasks: dict[str, Task], width: int = WIDTH) -> Context:
    return Context(tasks, SPEC, heads=len(tasks), width=width)


def labels(n: int, tasks: int, seed: int = 2) -> Tensor:
    return (torch.rand(n, tasks, generator=torch.Generator().manual_seed(seed)) < 0.4).float()
