"""Every model of the presets, small, with inputs and labels for it."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from raymtl.config.model import Model
from raymtl.config.presets import apply_preset
from raymtl.config.tasks import Task
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import Ranker, build_ranker
from raymtl.models.slots import Context

STEPS = 5
"""Length L of every sequence."""


def spec(width: int = 4) -> InputSpec:
    """Two ID features of this width, three sequences, three numbers, a position, two scenarios and `other`."""
    return InputSpec(
        pooled={"user": width, "item": width},
        sequences={"items": 4, "kinds": 2, "carts": 4},
        dense=("age", "hour", "price"),
        dense_fill=(0.0, 0.5, 0.0),
        bias={"position": 4},
        scenarios=3,
        tables={"user": "user", "item": "item", "items": "item", "kinds": "kinds", "carts": "item"},
    )


SPEC = spec()
WIDTH = 11
FUNNEL = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="cart")}
FORK = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="click")}
TREE = {
    "share": Task(),
    "click": Task(),
    "cart": Task(parent="click"),
    "like": Task(parent="click"),
    "repost": Task(parent="share"),
    "buy": Task(parent="cart"),
    "spend": Task(kind="real"),
}
"""Two funnels of different depth, one with a fork, and a task beside them."""
ORDER = {"click": Task(), "conversion": Task(label="order", given="click"), "order": Task()}
ONE = {"click": Task()}
EIGHT = {name: Task() for name in ("click", "favourite", "like", "comment", "share", "follow", "cart", "buy")}

_EXPERTS = {"experts": 3, "hidden": [8, 6]}
_PLE = {"levels": 2, "task_experts": 2, "shared_experts": 1, "hidden": [8, 6]}
_AIT: dict[str, Any] = {"towers": {"hidden": [6, 4]}, "coupler": {"type": "ait", "width": 4}}
_BOTTOM = {"trunk": {"type": "shared_bottom", "hidden": [8, 6]}, "towers": {"hidden": [4]}}
_ESMM = {"preset": "esmm", "towers": {"hidden": [6, 4]}}
_M2M = {"experts": 3, "hidden": [8, 6], "knowledge": ["user", "age"], "knowledge_dim": 4}
_SELF = {"type": "transformer", "behaviours": {"seen": ["items", "kinds"], "carts": ["carts"]}, "width": 4}
_TIM = {"type": "tim", "behaviours": {"seen": ["items", "kinds"], "carts": ["carts"]}, "target": ["item"], "width": 4}
_DIN = {
    "type": "din",
    "behaviours": {"seen": ["items", "kinds"], "carts": ["carts"]},
    "target": ["item"],
    "hidden": [5],
}
_POSITION = {"type": "position", "tasks": ["click"], "hidden": [3], "dropout": 0.0}

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
    "aitm_cross": {
        "preset": "aitm",
        **_AIT,
        "coupler": {"type": "ait", "width": 4, "mode": "cross", "predecessors": {"buy": ["click", "cart"]}},
    },
    "mmoe_ait": {"preset": "mmoe", "trunk": _EXPERTS, **_AIT},
    "ple_ait": {"preset": "ple", "trunk": _PLE, **_AIT},
    "m2m": {"preset": "m2m", "trunk": _M2M, "sequence": _SELF},
    "m2m_no_attention": {"preset": "m2m", "trunk": {**_M2M, "meta_attention": False}, "sequence": {"type": "pooled"}},
    "m2m_no_tower": {"preset": "m2m", "trunk": {**_M2M, "meta_tower": False, "meta_layers": 2}, "sequence": _SELF},
    "esmm": _ESMM,
    "esmm_position": {**_ESMM, "bias": _POSITION},
    "mmoe_esmm": {"preset": "mmoe", "trunk": _EXPERTS, "towers": {"hidden": [4]}, "coupler": {"type": "product"}},
    "esm2": {"preset": "esm2", "towers": {"hidden": [6, 4]}},
    "dupn": {
        "preset": "dupn",
        **_BOTTOM,
        "sequence": {"type": "dupn", "properties": ["kinds"], "item": ["items"], "user": ["user", "age"], "hidden": 4},
    },
    "din": {"preset": "din", **_BOTTOM, "sequence": {**_DIN, "hidden": [5, 3], "heads": 2}},
    "din_search": {
        "preset": "din",
        **_BOTTOM,
        "sequence": {**_DIN, "softmax": True, "search": {"seen": "item"}, "search_steps": 2},
    },
    "meituan": {
        "preset": "meituan",
        **_BOTTOM,
        "input": {"type": "concat", "missing": "learned", "missing_flags": True},
    },
    "youtube": {
        "preset": "youtube",
        "trunk": {**_EXPERTS, "bottom": [7]},
        "towers": {"hidden": [4]},
        "bias": _POSITION,
    },
    "zhihu": {"preset": "zhihu", **_BOTTOM},
    "nfwfm": {"preset": "nfwfm", **_BOTTOM, "input": {"type": "field_wise", "dice": 1.0}},
    "nfwfm_one_field": {
        "preset": "nfwfm",
        **_BOTTOM,
        "input": {"type": "field_wise", "dice": 1.0, "fields": {"all": ["user", "item"]}},
    },
    "dtrn": {
        "preset": "dtrn",
        "sequence": _TIM,
        "refine": {"hidden": 5},
        "trunk": _EXPERTS,
        "towers": {"hidden": [4]},
    },
    "dtrn_ple": {
        "preset": "ple",
        "sequence": _TIM,
        "refine": {"type": "trm", "hidden": 5},
        "trunk": _PLE,
        "towers": {"hidden": [4]},
    },
}
_PEPNET = {
    "preset": "pepnet",
    "refine": {"features": ["hour"], "hidden": 5},
    "towers": {"hidden": [6, 4], "features": ["user", "item", "age"], "gate_hidden": 3},
}
_APART = {"type": "task_features", "reads": {"click": ["user", "hour"], "buy": ["item", "age", "price"]}}
MODELS |= {
    "pepnet": _PEPNET,
    "pepnet_mmoe": {**_PEPNET, "trunk": {"type": "mmoe", **_EXPERTS}, "sequence": {"type": "pooled"}},
    "ppnet_dtrn": {**MODELS["dtrn"], "towers": {"type": "ppnet", **_PEPNET["towers"]}},
    "ppnet_esm2": {
        **MODELS["esm2"],
        "refine": {"type": "epnet", "hidden": 5},
        "towers": {"type": "ppnet", **_PEPNET["towers"]},
    },
    "epnet_dtrn": {**MODELS["dtrn"], "refine": {"type": "epnet", "hidden": 5}},
    "task_features": {**MODELS["mmoe"], "refine": _APART},
    "towers_norm": {**MODELS["mmoe"], "towers": {"hidden": [6, 4], "norm": "layer", "activation": "silu"}},
    "towers_mixed": {
        **MODELS["shared_bottom"],
        "towers": {"hidden": [6, 4], "per_task": {"cart": {"hidden": [5, 3, 4]}}},
    },
    "towers_mixed_mmoe": {**MODELS["mmoe"], "towers": {"hidden": [4], "per_task": {"click": {"hidden": [5, 4]}}}},
    "dcn": {**MODELS["mmoe"], "refine": {"type": "dcn_v2"}},
    "dcn_low_rank_dtrn": {**MODELS["dtrn"], "refine": {"type": "dcn_v2", "layers": 3, "rank": 2}},
    "senet": {**MODELS["meituan"], "refine": {"type": "senet"}},
    "senet_dtrn": {**MODELS["dtrn"], "refine": {"type": "senet", "reduction": 2}},
}
PRESETS = [
    *("single_task", "shared_bottom", "mmoe", "ple", "aitm", "mmoe_ait", "m2m", "esmm", "esm2", "dupn", "meituan"),
    *("youtube", "zhihu", "nfwfm", "dtrn", "pepnet", "din", "din_search"),
]
_TASKS = {"single_task": ONE, "esm2": FORK, "ppnet_esm2": FORK, "meituan": ORDER, "zhihu": EIGHT}


def config(name: str, **slots: Any) -> Model:
    return Model(**apply_preset({**MODELS[name], **slots}))


def large(name: str, **slots: Any) -> Model:
    """The model with room enough to learn a few hundred rows by heart."""
    small = config(name)
    towers = {**small.towers.model_dump(), "hidden": [32, 32] if small.towers.hidden else []}
    wide = {"trunk": {**small.trunk.model_dump(), "hidden": [64, 32]}, "towers": towers}
    if small.coupler.type == "ait":
        wide["coupler"] = {**small.coupler.model_dump(), "width": 32}
    return config(name, **wide, **slots)


def tasks_of(name: str) -> dict[str, Task]:
    return _TASKS.get(name, FUNNEL)


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


def rows(n: int, seed: int = 1, spec: InputSpec = SPEC) -> ModelInput:
    """Random inputs; sequences of every length from none to L."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(n, sum(spec.pooled.values()), generator=generator)
    dense = torch.randn(n, len(spec.dense), generator=generator)
    lengths = torch.randint(0, STEPS + 1, (n,), generator=generator)
    carts = torch.randint(0, STEPS + 1, (n,), generator=generator)
    sequences = {}
    for name, width in spec.sequences.items():
        own = carts if name == "carts" else lengths
        steps = torch.randn(n, STEPS, width, generator=generator)
        sequences[name] = (steps * (torch.arange(STEPS) < own.unsqueeze(1)).unsqueeze(-1), own)
    inputs = ModelInput(
        pooled,
        dense,
        sequences,
        torch.randn(n, sum(spec.bias.values()), generator=generator),
        torch.rand(n, generator=generator) < 0.8,
        torch.randint(0, spec.scenarios, (n,), generator=generator),
    )
    ids = torch.randint(0, 3, (n, STEPS), generator=generator)
    inputs.ids["items"] = ids.where(torch.arange(STEPS) < lengths.unsqueeze(1), torch.tensor(-1))
    inputs.ids["item"] = torch.randint(0, 3, (n,), generator=generator)
    return inputs


def rows_of(name: str, n: int, seed: int = 1, spec: InputSpec = SPEC) -> ModelInput:
    """Inputs for one model: with missing numbers if it reads them."""
    inputs = rows(n, seed, spec)
    if getattr(config(name).input, "missing", "fill") == "learned":
        inputs.dense[torch.rand(inputs.dense.shape, generator=torch.Generator().manual_seed(seed)) < 0.3] = torch.nan
    return inputs


def take(inputs: ModelInput, index: Tensor | slice) -> ModelInput:
    def part(value: Any) -> Any:
        if isinstance(value, dict):
            return {n: v[index] if isinstance(v, Tensor) else (v[0][index], v[1][index]) for n, v in value.items()}
        return None if value is None else value[index]

    return ModelInput(**{field.name: part(getattr(inputs, field.name)) for field in fields(inputs)})


def x_of(inputs: ModelInput) -> Tensor:
    return torch.cat((inputs.pooled, inputs.dense), 1)


def context(tasks: dict[str, Task], width: int = WIDTH) -> Context:
    return Context(tasks, SPEC, heads=len(tasks), width=width)


def labels(n: int, tasks: int, seed: int = 2, rate: float = 0.4) -> Tensor:
    return (torch.rand(n, tasks, generator=torch.Generator().manual_seed(seed)) < rate).float()


def funnel_labels(n: int, tasks: dict[str, Task], seed: int = 2) -> Tensor:
    """Labels of which no child is 1 where its parent is 0."""
    y, names = labels(n, len(tasks), seed, rate=0.6), list(tasks)
    for t, task in enumerate(tasks.values()):
        if task.parent is not None:
            y[:, t] *= y[:, names.index(task.parent)]
    return y


class Flat(torch.nn.Module):
    """Plain tensors in, as a serving graph has them: no position."""

    def __init__(self, model: Ranker):
        super().__init__()
        self.model = model

    def forward(
        self,
        pooled: Tensor,
        dense: Tensor,
        scenario: Tensor | None,
        sequences: dict[str, list[Tensor]],
        ids: dict[str, Tensor],
    ) -> Tensor:
        pairs = {name: (steps, lengths) for name, (steps, lengths) in sequences.items()}
        return self.model(ModelInput(pooled, dense, pairs, scenario=scenario, ids=ids))


def flat(inputs: ModelInput) -> tuple[Tensor, Tensor, Tensor | None, dict[str, list[Tensor]], dict[str, Tensor]]:
    sequences = {name: list(pair) for name, pair in inputs.sequences.items()}
    return inputs.pooled, inputs.dense, inputs.scenario, sequences, inputs.ids


def compare_with_export(
    model: Ranker, first: ModelInput, inputs_of: Callable[[int], ModelInput], rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    """The graph exported with the first inputs says what the model says, for other numbers of rows too."""
    model.eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    scenario = None if first.scenario is None else batch
    sequences = {name: [batch, batch] for name in first.sequences}
    shapes = (batch, batch, scenario, sequences, dict.fromkeys(first.ids, batch))
    graph = torch.export.export(Flat(model), flat(first), dynamic_shapes=shapes).module()
    for n in (1, 3, 40):
        some = inputs_of(n)
        torch.testing.assert_close(graph(*flat(some)), model(some), rtol=rtol, atol=atol)
