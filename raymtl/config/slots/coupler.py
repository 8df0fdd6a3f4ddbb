"""`model.coupler`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom, Dropout, Groups


class NoCoupler(Section):
    """Each task's logit is a linear function of its own tower."""

    type: Annotated[Literal["none"], Role.MODEL] = "none"
    """No coupling."""


class AIT(Section):
    """Adaptive information transfer along the funnel (AITM, KDD'21)."""

    type: Annotated[Literal["ait"], Role.MODEL]
    """Adaptive information transfer."""
    width: Annotated[PositiveInt, Role.MODEL] = 32
    """Width k of the transferred information; the towers' last width must be the same."""
    mode: Annotated[Literal["self", "cross"], Role.MODEL] = "self"
    """`self`: each candidate scores itself (paper). `cross`: the task's tower queries itself and its predecessors (EasyRec)."""
    predecessors: Annotated[Groups, Role.MODEL] = {}
    """For a task, all those that pass information on to it, in place of its parent; `cross` only. The order loss counts each
    such pair too."""
    share_attention: Annotated[bool, Role.MODEL] = True
    """One set of h1, h2, h3 for all transitions, as the authors' multi-task code has it; `self` only: `cross` never shares."""
    stop_gradient: Annotated[bool, Role.MODEL] = False
    """Keep later tasks from training earlier towers; the paper lets the gradient through."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """On the transferred information."""


class Product(Section):
    """Probabilities multiply along the funnel: each head is conditional on its parent (ESMM, SIGIR'18)."""

    type: Annotated[Literal["product"], Role.MODEL]
    """Product of probabilities along the funnel."""


class ESM2(Section):
    """A purchase is a mixture over two ways after the click: with a decisive action, or without (ESM², SIGIR'20)."""

    type: Annotated[Literal["esm2"], Role.MODEL]
    """Click, then a decisive action or none, then the purchase."""
    click: Annotated[str | None, Role.MODEL] = None
    """Task of the click; null: the only top of a funnel that has two children."""
    action: Annotated[str | None, Role.MODEL] = None
    """Task of the decisive action (cart, wish list), with `parent: <click>`; null: the first child of the click."""
    buy: Annotated[str | None, Role.MODEL] = None
    """Task of the purchase, with `parent: <click>` too: it comes with or without the action; null: the second child."""


MULTIPLYING = ("product", "esm2")
"""Types whose tasks are products of probabilities along the funnel."""

Coupler = Annotated[NoCoupler | AIT | Product | ESM2 | Custom, Field(discriminator="type")]
