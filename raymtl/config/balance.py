"""`train.balance`: how the tasks' losses are weighed against each other. `docs/losses.md` has the formulas."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role

_BALANCE = Role.LEARNING | Role.COUPLING
Cosine = PositiveInt | None
Share = Annotated[float, Field(ge=0, lt=1)]


class Fixed(Section):
    """The tasks' own weights."""

    type: Annotated[Literal["fixed"], _BALANCE] = "fixed"
    """Σ weight · loss."""
    cosine_every_steps: Annotated[Cosine, _BALANCE] = None
    """Steps between two measurements of the cosine between the tasks' gradients at the looked-up embeddings, each of which
    costs T partial backward passes; null: never. For the log alone."""


class Entropy(Section):
    """Each loss relative to what the best constant prediction costs: normalised entropies."""

    type: Annotated[Literal["entropy"], _BALANCE]
    """Σ weight · loss / start loss; the start loss of a `binary` task is the entropy of its base rate, that of
    another one the mean of its first 100 losses."""
    cosine_every_steps: Annotated[Cosine, _BALANCE] = None
    """As with `fixed`."""


class Uncertainty(Section):
    """Learned weights (Kendall, CVPR'18). They settle at 1/(2·loss), so they favour rare events: for mixes with `real` tasks."""

    type: Annotated[Literal["uncertainty"], _BALANCE]
    """Weights from one learned log variance s per task, trained by the dense optimizer."""
    start: Annotated[Literal["base_rate", "one"], _BALANCE] = "base_rate"
    """Weight at the start. `base_rate`: where it would settle for a `binary` task that predicts its base rate. `one`: 1."""
    cosine_every_steps: Annotated[Cosine, _BALANCE] = None
    """As with `fixed`."""


class FAMO(Section):
    """Gives more weight to tasks whose loss fell least, relative to itself (NeurIPS'23); one backward pass."""

    type: Annotated[Literal["famo"], _BALANCE]
    """Fast adaptive multitask optimisation."""
    lr: Annotated[PositiveFloat, _BALANCE] = 1.0
    """Step β of the weights' logits, along the plain gradient of the paper's algorithm 1."""
    decay: Annotated[NonNegativeFloat, _BALANCE] = 1e-3
    """Pull γ of the logits to 0: the past is forgotten within about 1/(lr · decay) steps."""
    smoothing: Annotated[Share, _BALANCE] = 0.99
    """Decay of the running means of the losses; 0: every batch as it comes, whose noise then moves the weights."""
    cosine_every_steps: Annotated[Cosine, _BALANCE] = None
    """As with `fixed`."""


class PCGrad(Section):
    """Gradient surgery at the looked-up embeddings (NeurIPS'20): each task's gradient loses what works against another's."""

    type: Annotated[Literal["pcgrad"], _BALANCE]
    """Projects conflicting gradients; T partial backward passes a step."""


class CAGrad(Section):
    """The direction near the mean gradient, at the looked-up embeddings, that helps the worst-off task most (NeurIPS'21)."""

    type: Annotated[Literal["cagrad"], _BALANCE]
    """Conflict-averse gradient; T partial backward passes a step."""
    c: Annotated[Share, _BALANCE] = 0.5
    """Radius of the search around the mean gradient, relative to its norm; 0: the tasks' own weights."""


class GradNorm(Section):
    """Learned weights that even out the gradients' norms at the looked-up embeddings (ICML'18)."""

    type: Annotated[Literal["gradnorm"], _BALANCE]
    """Gradient normalisation; T partial backward passes a step."""
    alpha: Annotated[NonNegativeFloat, _BALANCE] = 1.5
    """How much more a task gets that learns slowly: its norm is steered to the mean norm times (relative loss)^α."""
    lr: Annotated[PositiveFloat, _BALANCE] = 0.025
    """Adam's learning rate of the weights' logits."""


Balance = Annotated[
    Fixed | Entropy | Uncertainty | FAMO | PCGrad | CAGrad | GradNorm,
    Field(discriminator="type"),
]
