"""`model.refine`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom, Groups, Layers


class NoRefine(Section):
    """All tasks read the same input."""

    type: Annotated[Literal["none"], Role.MODEL] = "none"
    """No per-task inputs."""


class TRM(Section):
    """Each task scales every element of its input by a gate of its own (DTRN's TRM, CIKM'23)."""

    type: Annotated[Literal["trm"], Role.MODEL]
    """Task-specific refinement."""
    hidden: Annotated[PositiveInt, Role.MODEL] = 64
    """Width of the bottleneck of every task's gate."""


class DCNv2(Section):
    """Cross layers in front of the trunk (DCN-v2, stacked; WWW'21): each adds products of the input with what is below it."""

    type: Annotated[Literal["dcn_v2"], Role.MODEL]
    """Deep & cross network."""
    layers: Annotated[Layers, Role.MODEL] = 2
    """Cross layers L; the result has products of up to L + 1 elements of the input."""
    rank: Annotated[PositiveInt | None, Role.MODEL] = None
    """Factorises each layer's d × d matrix into two of d × rank; null: the full matrix. It saves work below half the width d."""


class SENet(Section):
    """Scales each feature's part of the input by a factor that depends on all of them (FiBiNET's SENET, RecSys'19)."""

    type: Annotated[Literal["senet"], Role.MODEL]
    """Squeeze and excitation over features."""
    reduction: Annotated[PositiveInt, Role.MODEL] = 3
    """The bottleneck has a unit for every so many features."""


class EPNet(Section):
    """Scales every element of the input by what is known about the scenario or domain (PEPNet's EPNet, KDD'23)."""

    type: Annotated[Literal["epnet"], Role.MODEL]
    """Gate of the scenario."""
    features: Annotated[list[str], Role.MODEL] = []
    """Features of the scenario or domain that the gate reads beside the scenario column: pooled ones and dense ones."""
    hidden: Annotated[PositiveInt, Role.MODEL] = 64
    """Width of the gate's hidden layer."""


class TaskFeatures(Section):
    """Each task reads only the features that it may; the others are zeros in its input."""

    type: Annotated[Literal["task_features"], Role.MODEL]
    """Features by task."""
    reads: Annotated[Groups, Field(min_length=1), Role.MODEL]
    """For a task, all features that it may read; a task without an entry reads every feature. The `sequence_dense` features of
    a history belong to it and are not named."""


Refine = Annotated[NoRefine | TRM | DCNv2 | SENet | EPNet | TaskFeatures | Custom, Field(discriminator="type")]
