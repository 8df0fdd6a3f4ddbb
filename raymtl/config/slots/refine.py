"""`model.refine`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom


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


Refine = Annotated[NoRefine | TRM | Custom, Field(discriminator="type")]
