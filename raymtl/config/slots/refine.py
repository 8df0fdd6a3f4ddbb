"""`model.refine`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.slots.common import Custom


class NoRefine(Section):
    """All tasks read the same input."""

    type: Literal["none"] = "none"
    """No per-task inputs."""


class TRM(Section):
    """Each task scales every element of its input by a gate of its own (DTRN's TRM, CIKM'23)."""

    type: Literal["trm"]
    """Task-specific refinement."""
    hidden: PositiveInt = 64
    """Width of the bottleneck of every task's gate."""


Refine = Annotated[NoRefine | TRM | Custom, Field(discriminator="type")]
