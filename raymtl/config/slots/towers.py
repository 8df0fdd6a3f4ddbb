"""`model.towers`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom, Dropout, Widths


class TaskTower(Section):
    """What is different in the tower of one task."""

    hidden: Annotated[Widths | None, Field(min_length=1), Role.MODEL] = None
    """Widths, with the last one of `model.towers.hidden`; null: those of the others."""
    dropout: Annotated[Dropout | None, Role.LEARNING] = None
    """After each layer; null: as in the others."""


class MLPTowers(Section):
    """Per-task MLPs between trunk and coupler."""

    type: Annotated[Literal["mlp"], Role.MODEL] = "mlp"
    """One MLP per task; the type may be left out."""
    hidden: Annotated[Widths, Role.MODEL] = [64, 32]
    """Widths; `[]`: the coupler reads the trunk's output."""
    activation: Annotated[Literal["relu", "leaky_relu", "gelu", "silu"], Role.MODEL] = "relu"
    """After each linear layer."""
    norm: Annotated[Literal["none", "layer"], Role.MODEL] = "none"
    """`layer`: a layer norm in front of each activation."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """After each layer."""
    per_task: dict[str, TaskTower] = {}
    """Tasks whose tower has other widths or another dropout."""


class PPNet(Section):
    """Towers whose layers are scaled, element by element, by what is known about user and item (PEPNet, KDD'23)."""

    type: Annotated[Literal["ppnet"], Role.MODEL]
    """Personalised towers."""
    hidden: Annotated[Widths, Field(min_length=1), Role.MODEL] = [128, 64, 32]
    """Widths."""
    features: Annotated[list[str], Field(min_length=1), Role.MODEL]
    """Features that the gates read beside the towers' input: IDs and other features of user, item and author."""
    gate_hidden: Annotated[PositiveInt, Role.MODEL] = 32
    """Width of the hidden layer of each layer's gate."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """After each layer."""


Towers = Annotated[MLPTowers | PPNet | Custom, Field(discriminator="type")]
