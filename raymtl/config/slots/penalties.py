"""`model.order_loss`, `model.kl_bound` and `model.conversion_loss`: terms of the loss that tie tasks together."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from raymtl.config.base import Section
from raymtl.config.roles import Role


class OrderLoss(Section):
    """AITM's behavioural expectation calibrator: α · mean max(p_child − p_parent, 0) over the funnel's edges."""

    alpha: Annotated[NonNegativeFloat, Role.LEARNING | Role.COUPLING] = 0.0
    """Strength α; 0 turns the term off. The paper's code uses 0.6."""
    space: Annotated[Literal["probability", "logit"], Role.LEARNING | Role.COUPLING] = "probability"
    """Where the gap is measured; the paper: probabilities."""


class KLBound(Section):
    """Meituan's bound: symmetric KL divergence between p(click)·p(conversion | click) and p(order), mean over all rows.

    A conversion is a task with `given: <click>`, an order one on all rows with the same label column; every such pair is bound.
    """

    weight: Annotated[NonNegativeFloat, Role.LEARNING | Role.COUPLING] = 0.0
    """Weight λ of the term; 0 turns it off."""


class ConversionLoss(Section):
    """A loss of P(child | parent) on the rows of the parent's event, weighted for all rows (ESCM²-IPS).

    It trains the conditional heads of `coupler: {type: product}`, which otherwise learn from the products alone.
    """

    weight: Annotated[NonNegativeFloat, Role.LEARNING | Role.COUPLING] = 0.0
    """Weight λ of the term; 0 turns it off."""
    min_propensity: Annotated[float, Field(gt=0, le=1), Role.LEARNING | Role.COUPLING] = 1.0
    """A row counts 1 / max(P(parent), this): below 1, rows with an improbable event count more. 1: all count the same."""
