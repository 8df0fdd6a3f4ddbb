"""Inputs, sequences, the bias slot, and classes from outside the package."""

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from raymtl.config.model import Model
from raymtl.config.presets import apply_preset
from raymtl.config.slots.common import Custom
from raymtl.config.slots.trunk import MMoE
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import build_ranker
from raymtl.models.registry import build, find, register
from raymtl.models.slots import BiasSlot, Context, CouplerSlot, RefineSlot, SequenceSlot, TrunkSlot
from tests.helpers.model_zoo import FUNNEL, SPEC, WIDTH, config, rows

ROOT = Path(__file__).parents[2]
SEQUENCES = InputSpec(pooled={"user": 4}, sequences={"seen": 3, "bought": 2}, dense=("age",), bias={"position": 2})


def with_sequences(n: int, length: int = 5) -> ModelInput:
    lengths = torch.arange(n) % (length + 1)
    steps = torch.arange(length).unsqueeze(0) < lengths.unsqueeze(1)
    return ModelInput(
        pooled=torch.randn(n, 4),
        dense=torch.randn(n, 1),
        sequences={
            name: (torch.randn(n, length, d) * steps.unsqueeze(2), lengths) for name, d in SEQUENCES.sequences.items()
        },
        bias=torch.randn(n, 2),
    )


def test_concat_input_keeps_the_order_of_the_spec() -> None:
    inputs = rows(4)
    slot = build("input", config("mmoe").input, Context(FUNNEL, SPEC, 3))
    assert slot.width == WIDTH
    assert torch.equal(slot(inputs), torch.cat((inputs.pooled, inputs.dense), 1))
    only_dense = build("input", config("mmoe").input, Context(FUNNEL, InputSpec({}, dense=("a", "b")), 3))
    assert torch.equal(only_dense(ModelInput(torch.zeros(4, 0), torch.ones(4, 2))), torch.ones(4, 2))
    only_ids = build("input", config("mmoe").input, Context(FUNNEL, InputSpec({"a": 2}), 3))
    assert torch.equal(only_ids(ModelInput(torch.ones(4, 2), torch.zeros(4, 0))), torch.ones(4, 2))


def test_pooled_sequence_is_the_mean_of_the_valid_steps() -> None:
    steps = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[5.0, 7.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    spec = InputSpec({}, sequences={"seen": 2})
    slot = build("sequence", config("mmoe", sequence={"type": "pooled"}).sequence, Context(FUNNEL, spec, 3))
    inputs = ModelInput(torch.zeros(3, 0), torch.zeros(3, 0), {"seen": (steps, torch.tensor([2, 1, 0]))})
    assert slot(inputs).tolist() == [[2.0, 4.0], [5.0, 7.0], [0.0, 0.0]]


def test_pooled_sequence_ignores_padding() -> None:
    model = build_ranker(config("mmoe", sequence={"type": "pooled"}), FUNNEL, SEQUENCES, {})
    inputs = with_sequences(12)
    longer = {n: (nn.functional.pad(steps, (0, 0, 0, 4)), lengths) for n, (steps, lengths) in inputs.sequences.items()}
    other = ModelInput(inputs.pooled, inputs.dense, longer, inputs.bias)
    torch.testing.assert_close(model(inputs), model(other), rtol=1e-6, atol=1e-6)


def test_pooled_sequence_learns_and_reaches_the_logits() -> None:
    model = build_ranker(config("mmoe", sequence={"type": "pooled"}), FUNNEL, SEQUENCES, {})
    inputs = with_sequences(12)
    steps, lengths = inputs.sequences["seen"]
    before = model(inputs)
    steps[:, 0] += (lengths > 0).unsqueeze(1)
    moved = (model(inputs) - before).abs().amax(1) > 1e-6
    assert moved.tolist() == (lengths > 0).tolist()
    steps.requires_grad_()
    model(inputs).sum().backward()
    assert steps.grad is not None
    assert steps.grad[lengths > 0].abs().amax((1, 2)).all()


class ScaledRefine(RefineSlot):
    """A custom slot: x [B, d] -> [B, T, d], times a learned number per task."""

    def __init__(self, context: Context, *, scale: float = 1.0):
        super().__init__()
        self.width = context.width
        self.scale = nn.Parameter(torch.full((context.heads, 1), scale))

    def forward(self, x: Tensor, inputs: ModelInput) -> Tensor:
        return x.unsqueeze(1) * self.scale


class InterestPerTask(SequenceSlot):
    """A custom slot: one interest vector per task."""

    def __init__(self, context: Context):
        super().__init__()
        self.width, self._heads = 3, context.heads

    def forward(self, inputs: ModelInput) -> Tensor:
        return inputs.sequences["seen"][0].sum(1).unsqueeze(1) * torch.arange(self._heads).view(1, -1, 1)


class PositionBias(BiasSlot):
    def __init__(self, context: Context):
        super().__init__()

    def forward(self, inputs: ModelInput) -> Tensor:
        assert inputs.bias is not None
        return inputs.bias[:, :1].expand(-1, 3)


class ScenarioTrunk(TrunkSlot):
    """A custom slot that reads the scenario."""

    def __init__(self, context: Context):
        super().__init__()
        self.width = context.width

    def forward(self, x: Tensor, inputs: ModelInput) -> Tensor:
        assert inputs.scenario is not None
        return x + inputs.scenario.unsqueeze(1)


class TwoHeadsPerTask(CouplerSlot):
    """A custom slot with more inner heads than tasks, as ESM² has."""

    def __init__(self, context: Context):
        super().__init__()
        assert context.heads == 2 * len(context.tasks)

    @classmethod
    def heads(cls, tasks: Mapping[str, Task]) -> int:
        return 2 * len(tasks)

    def start_at(self, logits: Sequence[float]) -> None:
        self.started = list(logits)

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        return h.sum(-1).unflatten(1, (-1, 2)).sum(-1).float()


def custom(cls: type, **options: object) -> dict[str, object]:
    return {"type": "custom", "path": f"{__name__}:{cls.__name__}", "options": options}


@pytest.mark.parametrize("name", ["shared_bottom", "no_towers", "mmoe", "omoe", "ple", "aitm", "mmoe_ait"])
def test_per_task_inputs_flow_through_every_trunk(name: str) -> None:
    torch.manual_seed(0)
    plain = build_ranker(config(name), FUNNEL, SPEC, {})
    torch.manual_seed(0)
    refined = build_ranker(config(name, refine=custom(ScaledRefine)), FUNNEL, SPEC, {})
    refined.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(refined(rows(9)), plain(rows(9)), rtol=1e-5, atol=1e-6)
    refined.refine.scale.data[2] = 3.0  # buy's own input
    torch.nn.init.normal_(refined.coupler.head.weight)
    plain.coupler.load_state_dict(refined.coupler.state_dict())
    moved = (refined(rows(9)) - plain(rows(9))).abs().amax(0) > 1e-3
    assert moved[2]
    if name != "ple":  # its shared stream is the mean of the tasks' inputs
        assert not moved[:2].any()


def test_per_task_sequences_are_put_beside_x() -> None:
    model = build_ranker(config("mmoe", sequence=custom(InterestPerTask)), FUNNEL, SEQUENCES, {})
    inputs = with_sequences(8)
    seen: list[Tensor] = []
    model.trunk.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    assert model(inputs).shape == (8, 3)
    assert seen[0].shape == (8, 3, 4 + 1 + 3)
    torch.testing.assert_close(seen[0][:, 2, 5:], 2 * inputs.sequences["seen"][0].sum(1))


@pytest.mark.parametrize("name", ["mmoe", "aitm"])
def test_bias_acts_in_training_only(name: str) -> None:
    model = build_ranker(config(name, bias=custom(PositionBias)), FUNNEL, SEQUENCES, {})
    inputs = with_sequences(8)
    assert inputs.bias is not None
    difference = model.train()(inputs) - model.eval()(inputs)
    torch.testing.assert_close(difference, inputs.bias[:, :1].expand(-1, 3))
    inputs.bias = None
    model(inputs)  # serving has no position


def test_trunk_may_read_the_scenario() -> None:
    model = build_ranker(config("mmoe", trunk=custom(ScenarioTrunk)), FUNNEL, SPEC, {})
    a, b = rows(4), rows(4)
    a.scenario, b.scenario = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    assert not torch.equal(model(a), model(b))


def test_coupler_may_have_inner_heads() -> None:
    for name in ("shared_bottom", "mmoe", "ple"):
        model = build_ranker(config(name, coupler=custom(TwoHeadsPerTask)), FUNNEL, SPEC, {"click": 0.5})
        assert model(rows(4)).shape == (4, 3)
        assert model.towers(model.trunk(torch.randn(4, WIDTH), rows(4)), rows(4)).shape == (4, 6, 4)
        assert model.coupler.started == [0.0, 0.0, 0.0]


def test_custom_options_reach_the_class() -> None:
    model = build_ranker(config("mmoe", refine=custom(ScaledRefine, scale=2.5)), FUNNEL, SPEC, {})
    assert model.refine.scale.flatten().tolist() == [2.5] * 3


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_such_package.mod:Thing", "cannot be imported"),
        (f"{__name__}:NoSuchClass", "cannot be imported"),
        ("torch.nn:Linear", "not a subclass of raymtl.models.slots.RefineSlot"),
        (f"{__name__}:PositionBias", "not a subclass of raymtl.models.slots.RefineSlot"),
        (f"{__name__}:custom", "not a subclass of raymtl.models.slots.RefineSlot"),
    ],
)
def test_a_wrong_path_is_named(path: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        find("refine", Custom(type="custom", path=path))
    assert "model.refine.path" in str(caught.value)
    assert path in str(caught.value)


def test_the_example_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    section = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert section is not None
    assert code is not None
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "trunks.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    model = build_ranker(Model(**apply_preset(yaml.safe_load(section[1])["model"])), FUNNEL, SPEC, {})
    assert len(model.trunk.crosses) == 2
    assert model(rows(4)).shape == (4, 3)


def test_models_and_objectives_need_torch_and_the_config_only() -> None:
    allowed = (
        "torch",
        "raymtl.config",
        "raymtl.errors",
        "raymtl.models",
        "raymtl.objectives",
        *sys.stdlib_module_names,
    )
    for file in [*(ROOT / "raymtl/models").rglob("*.py"), ROOT / "raymtl/objectives/losses.py"]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert any(name == a or name.startswith(a + ".") for a in allowed), f"{file} imports {name}"
                assert not name.startswith("torch.distributed"), f"{file} imports {name}"


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model.refine.options \['size'\] do not match the constructor of"):
        build_ranker(config("mmoe", refine=custom(ScaledRefine, size=2)), FUNNEL, SPEC, {})


def test_the_registry_refuses_strangers_and_doubles() -> None:
    with pytest.raises(TypeError, match="not a RefineSlot"):
        register("refine", "position")(PositionBias)
    with pytest.raises(ValueError, match="already has the type none"):
        register("bias", "none")(PositionBias)
    with pytest.raises(ConfigError, match=r"model.bias.type is `mmoe`; use one of \['none', 'position', 'custom'\]"):
        find("bias", MMoE(type="mmoe"))


def test_single_task_refuses_company() -> None:
    with pytest.raises(ConfigError, match="2 tasks"):
        build_ranker(config("single_task"), {"a": Task(), "b": Task()}, SPEC, {})
