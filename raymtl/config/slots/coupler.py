"""`model.coupler`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.slots.common import Custom, Dropout, Groups


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
    mode: Literal["self", "cross"] = "self"
    """`self`: each candidate scores itself (paper). `cross`: the task's tower queries itself and its predecessors (EasyRec)."""
    predecessors: Groups = {}
    """For a task, all those that pass information on to it, in place of its parent; `cross` only. The order loss counts each
    such pair too."""
    share_attention: bool = True
    """One set of h1, h2, h3 for all transitions, as the authors' multi-task code has it; `self` only: `cross` never shares."""
    stop_gradient: bool = False
    """Keep later tasks from training earlier towers; the paper lets the gradient through."""
    dropout: Dropout = 0.0
    """On the transferred information."""


class Product(Section):
    """Probabilities multiply along the funnel: each head is conditional on its parent (ESMM, SIGIR'18)."""

    type: Literal["product"]
    """Product of probabilities along the funnel."""


class ESM2(Section):
    """A purchase is a mixture over two ways after the click: with a decisive action, or without (ESM², SIGIR'20)."""

    type: Literal["esm2"]
    """Click, then a decisive action or none, then the purchase."""
    click: str | None = None
    """Task of the click; null: the only top of a funnel that has two children."""
    action: str | None = None
    """Task of the decisive action (cart, wish list), with `parent: <click>`; null: the first child of the click."""
    buy: str | None = None
    """Task of the purchase, with `parent: <click>` too: it comes with or without the action; null: the second child."""


Coupler = Annotated[NoCoupler | AIT | Product | ESM2 | Custom, Field(discriminator="type")]
