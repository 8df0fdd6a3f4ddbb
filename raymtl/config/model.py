"""The model's slots and their options; `presets.py` fills them for the published models.

A slot of `type: custom` names a class of the user's own package (`docs/extending.md`).
"""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from raymtl.config.base import Section, Words, did_you_mean
from raymtl.config.presets import PRESETS, apply_preset

Widths = list[PositiveInt]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Custom(Section):
    """A slot class from outside the package."""

    type: Literal["custom"]
    """Your own class."""
    path: Annotated[str, Field(pattern=r"^[\w.]+:\w+$"), Words("the import path of a class, `package.module:Class`")]
    """`package.module:Class`, importable on every node."""
    options: dict[str, Any] = {}
    """Keyword arguments of the class."""


class ConcatInput(Section):
    """Pooled embeddings and dense features side by side."""

    type: Literal["concat"] = "concat"
    """All inputs side by side."""


class NoSequence(Section):
    """The model has no sequence features."""

    type: Literal["none"] = "none"
    """No sequence slot."""


class PooledSequence(Section):
    """Each sequence is averaged over its valid steps."""

    type: Literal["pooled"]
    """Mean over the steps."""


class NoRefine(Section):
    """All tasks read the same input."""

    type: Literal["none"] = "none"
    """No per-task inputs."""


class SharedBottom(Section):
    """One MLP shared by all tasks; with `hidden: []` the towers read the input itself."""

    type: Literal["shared_bottom"]
    """Shared bottom."""
    hidden: Widths = [256, 128]
    """Widths of the shared layers."""
    dropout: Dropout = 0.0
    """After each layer."""


class MMoE(Section):
    """Experts shared by all tasks, mixed by one softmax gate per task (KDD'18)."""

    type: Literal["mmoe"]
    """Multi-gate mixture of experts."""
    experts: PositiveInt = 4
    """Number E of experts."""
    hidden: Annotated[Widths, Field(min_length=1)] = [128, 64]
    """Widths of every expert."""
    gate_bias: bool = False
    """Adds a bias to the gates; the paper has none."""
    shared_gate: bool = False
    """One gate for all tasks (OMoE)."""
    dropout: Dropout = 0.0
    """After each expert layer."""


class PLE(Section):
    """Experts of each task and shared ones, in levels (RecSys'20); one level is CGC."""

    type: Literal["ple"]
    """Progressive layered extraction."""
    levels: PositiveInt = 2
    """Extraction levels."""
    task_experts: Annotated[int, Field(ge=0)] = 2
    """Own experts of each task, per level."""
    shared_experts: Annotated[int, Field(ge=0)] = 2
    """Shared experts, per level; `task_experts + shared_experts` ≥ 1."""
    hidden: Annotated[Widths, Field(min_length=1)] = [128, 64]
    """Widths of every expert."""
    gate_bias: bool = False
    """Adds a bias to the gates."""
    dropout: Dropout = 0.0
    """After each expert layer."""


class SingleTask(Section):
    """One MLP for exactly one task (`tasks_subset`), the yardstick of the multi-task models."""

    type: Literal["single_task"]
    """One task alone."""
    hidden: Widths = [256, 128]
    """Widths of the layers."""
    dropout: Dropout = 0.0
    """After each layer."""


class Towers(Section):
    """Per-task MLPs between trunk and coupler."""

    hidden: Widths = [64, 32]
    """Widths; `[]`: the coupler reads the trunk's output."""
    dropout: Dropout = 0.0
    """After each layer."""


class NoCoupler(Section):
    """Each task's logit is a linear function of its own tower."""

    type: Literal["none"] = "none"
    """No coupling."""


class AIT(Section):
    """Adaptive information transfer along the funnel (AITM, KDD'21)."""

    type: Literal["ait"]
    """Adaptive information transfer."""
    width: PositiveInt = 32
    """Width k of the transferred information; the towers' last width must be the same."""
    share_attention: bool = True
    """One set of h1, h2, h3 for all transitions, as the authors' multi-task code has it."""
    stop_gradient: bool = False
    """Keep later tasks from training earlier towers; the paper lets the gradient through."""
    dropout: Dropout = 0.0
    """On the transferred information."""


class OrderLoss(Section):
    """AITM's behavioural expectation calibrator: α · mean max(p_child − p_parent, 0) over the funnel's edges."""

    alpha: NonNegativeFloat = 0.0
    """Strength α; 0 turns the term off. The paper's code uses 0.6."""
    space: Literal["probability", "logit"] = "probability"
    """Where the gap is measured; the paper: probabilities."""


class NoBias(Section):
    """No position tower."""

    type: Literal["none"] = "none"
    """No position tower."""


Trunk = Annotated[SharedBottom | MMoE | PLE | SingleTask | Custom, Field(discriminator="type")]
Input = Annotated[ConcatInput | Custom, Field(discriminator="type")]
Sequence = Annotated[NoSequence | PooledSequence | Custom, Field(discriminator="type")]
Refine = Annotated[NoRefine | Custom, Field(discriminator="type")]
Coupler = Annotated[NoCoupler | AIT | Custom, Field(discriminator="type")]
Bias = Annotated[NoBias | Custom, Field(discriminator="type")]


class Model(Section):
    """The model: a preset, and whatever of its slots is to differ."""

    preset: str | None = None
    """A published model (`raymtl config presets` lists them); the keys below override its slots."""
    input: Input = ConcatInput()
    """Embeddings and dense features -> x [B, d]."""
    sequence: Sequence = NoSequence()
    """Behaviour sequences -> [B, d], appended to x."""
    refine: Refine = NoRefine()
    """x [B, d] -> per-task inputs [B, T, d]."""
    trunk: Trunk
    """x -> one representation per task [B, T, k]."""
    towers: Towers = Towers()
    """Per-task MLPs on top of the trunk."""
    coupler: Coupler = NoCoupler()
    """Tower outputs [B, T, k] -> logits [B, T]."""
    bias: Bias = NoBias()
    """Position tower, added to the logits in training only."""
    order_loss: OrderLoss = OrderLoss()
    """Penalty on a child more probable than its parent."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        preset = raw.get("preset")
        if isinstance(preset, str) and preset not in PRESETS:
            known = ", ".join(f"`{name}`" for name in PRESETS)
            raise ValueError(f"preset is `{preset}`; expected one of {known}{did_you_mean(preset, PRESETS)}")
        return apply_preset(raw)
