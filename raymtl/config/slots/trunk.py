"""`model.trunk`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom, Dropout, Layers, Widths


class SharedBottom(Section):
    """One MLP shared by all tasks; with `hidden: []` the towers read the input itself."""

    type: Annotated[Literal["shared_bottom"], Role.MODEL]
    """Shared bottom."""
    hidden: Annotated[Widths, Role.MODEL] = [256, 128]
    """Widths of the shared layers."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """After each layer."""


class MMoE(Section):
    """Experts shared by all tasks, mixed by one softmax gate per task (KDD'18)."""

    type: Annotated[Literal["mmoe"], Role.MODEL]
    """Multi-gate mixture of experts."""
    experts: Annotated[PositiveInt, Role.MODEL] = 4
    """Number E of experts."""
    hidden: Annotated[Widths, Field(min_length=1), Role.MODEL] = [128, 64]
    """Widths of every expert."""
    bottom: Annotated[Widths, Role.MODEL] = []
    """Shared layers in front of experts and gates, where the input is wide (YouTube); []: they read the input."""
    gate_bias: Annotated[bool, Role.MODEL] = False
    """Adds a bias to the gates; the paper has none."""
    shared_gate: Annotated[bool, Role.MODEL] = False
    """One gate for all tasks (OMoE)."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """After each expert layer."""


class PLE(Section):
    """Experts of each task and shared ones, in levels (RecSys'20); one level is CGC."""

    type: Annotated[Literal["ple"], Role.MODEL]
    """Progressive layered extraction."""
    levels: Annotated[Layers, Role.MODEL] = 2
    """Extraction levels."""
    task_experts: Annotated[int, Field(ge=0), Role.MODEL] = 2
    """Own experts of each task, per level."""
    shared_experts: Annotated[int, Field(ge=0), Role.MODEL] = 2
    """Shared experts, per level; `task_experts + shared_experts` ≥ 1."""
    hidden: Annotated[Widths, Field(min_length=1), Role.MODEL] = [128, 64]
    """Widths of every expert."""
    gate_bias: Annotated[bool, Role.MODEL] = False
    """Adds a bias to the gates."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """After each expert layer."""


class SingleTask(Section):
    """One MLP for exactly one task (`tasks_subset`), the baseline of the multi-task models."""

    type: Annotated[Literal["single_task"], Role.MODEL]
    """One task alone."""
    hidden: Annotated[Widths, Role.MODEL] = [256, 128]
    """Widths of the layers."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """After each layer."""


class M2M(Section):
    """Experts, attention and towers whose weights the row's scenario generates (WSDM'22); set `towers.hidden` to []."""

    type: Annotated[Literal["m2m"], Role.MODEL]
    """Multi-scenario multi-task meta learning."""
    experts: Annotated[PositiveInt, Role.MODEL] = 4
    """Number E of experts."""
    hidden: Annotated[Widths, Field(min_length=1), Role.MODEL] = [128, 64]
    """Widths of every expert; the last one is D, the common width of experts, attention and towers."""
    knowledge: Annotated[list[str], Role.MODEL] = []
    """Features that describe the scenario and who acts in it, beside the scenario column: pooled ID features and dense ones."""
    knowledge_dim: Annotated[PositiveInt, Role.MODEL] = 64
    """Width of the scenario knowledge from which weights are generated."""
    meta_layers: Annotated[Layers, Role.MODEL] = 1
    """Layers K of the meta unit in the attention."""
    tower_layers: Annotated[Layers, Role.MODEL] = 2
    """Layers J of the residual meta tower."""
    meta_attention: Annotated[bool, Role.MODEL] = True
    """False: the scenario takes no part in mixing the experts (ablation): plain softmax gates."""
    meta_tower: Annotated[bool, Role.MODEL] = True
    """False: residual towers with fixed weights (ablation)."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """After each expert layer."""


Trunk = Annotated[SharedBottom | MMoE | PLE | SingleTask | M2M | Custom, Field(discriminator="type")]
