"""`model.bias`."""

from typing import Annotated, Literal

from pydantic import Field

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom, Dropout, Widths


class NoBias(Section):
    """No position tower."""

    type: Annotated[Literal["none"], Role.MODEL] = "none"
    """No position tower."""


class PositionTower(Section):
    """A shallow tower over the `bias` features, added to some heads in training only (YouTube, RecSys'19)."""

    type: Annotated[Literal["position"], Role.MODEL]
    """Shallow tower over position-like features."""
    tasks: Annotated[list[str] | None, Role.MODEL] = None
    """Tasks whose labels depend on where the item was shown, such as clicks, but not the tasks after them in the funnel. Null:
    the first task."""
    hidden: Annotated[Widths, Role.MODEL] = [16]
    """Widths of the tower; []: linear."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.1
    """Share of the rows whose position is hidden in training, so that the model does not rely on it."""


Bias = Annotated[NoBias | PositionTower | Custom, Field(discriminator="type")]
