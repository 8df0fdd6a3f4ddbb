"""`train.balance`: how the task losses are weighted. `docs/losses.md` has the formulas."""

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
    """Steps between two measurements of the cosine between the tasks' gradients at the looked-up embeddings; null: never. Each
    measurement costs T partial backward passes and is only logged."""


class Entropy(Section):
    """Each loss divided by the loss of the best constant prediction (normalised entropy)."""

    type: Annotated[Literal["entropy"], _BALANCE]
    """Σ weight · loss / initial loss; the initial loss of a `binary` task is the entropy of its base rate, for other kinds it
    is the mean of the task's first 100 losses."""
    cosine_every_steps: Annotated[Cosine, _BALANCE] = None
    """As with `fixed`."""


class Uncertainty(Section):
    """Learned weights (Kendall, CVPR'18). They converge to 1/(2·loss), which favours rare events; use it with `real` tasks."""

    type: Annotated[Literal["uncertainty"], _BALANCE]
    """Weights from one learned log variance s per task, trained by the dense optimizer."""
    start: Annotated[Literal["base_rate", "one"], _BALANCE] = "base_rate"
    """Initial weight. `base_rate`: the limit for a `binary` task that predicts its base rate. `one`: 1."""
    cosine_every_steps: Annotated[Cosine, _BALANCE] = None
    """As with `fixed`."""


class FAMO(Section):
    """Gives more weight to the tasks with the smallest relative decrease of the loss (NeurIPS'23); one backward pass."""

    type: Annotated[Literal["famo"], _BALANCE]
    """Fast adaptive multitask optimisation."""
    lr: Annotated[PositiveFloat, _BALANCE] = 1.0
    """Learning rate β of the weight logits (plain gradient descent, algorithm 1 of the paper)."""
    decay: Annotated[NonNegativeFloat, _BALANCE] = 1e-3
    """Weight decay γ of the logits; the memory is about 1/(lr · decay) steps."""
    smoothing: Annotated[Share, _BALANCE] = 0.99
    """Decay of the running means of the losses; 0: no smoothing, so the weights follow the noise of single batches."""
    cosine_every_steps: Annotated[Cosine, _BALANCE] = None
    """As with `fixed`."""


class PCGrad(Section):
    """Gradient surgery at the looked-up embeddings (NeurIPS'20): projects out the conflicting part of each gradient."""

    type: Annotated[Literal["pcgrad"], _BALANCE]
    """Projects conflicting gradients; T partial backward passes per step."""


class CAGrad(Section):
    """The direction near the mean gradient at the looked-up embeddings that most improves the worst task (NeurIPS'21)."""

    type: Annotated[Literal["cagrad"], _BALANCE]
    """Conflict-averse gradient; T partial backward passes per step."""
    c: Annotated[Share, _BALANCE] = 0.5
    """Radius of the search around the mean gradient, relative to its norm; 0: the tasks' own weights."""


class GradNorm(Section):
    """Learned weights that equalise the norms of the gradients at the looked-up embeddings (ICML'18)."""

    type: Annotated[Literal["gradnorm"], _BALANCE]
    """Gradient normalisation; T partial backward passes per step."""
    alpha: Annotated[NonNegativeFloat, _BALANCE] = 1.5
    """How strongly slow tasks are favoured: the target gradient norm of a task is the mean norm times (relative loss)^α."""
    lr: Annotated[PositiveFloat, _BALANCE] = 0.025
    """Adam's learning rate for the weight logits."""


Balance = Annotated[
    Fixed | Entropy | Uncertainty | FAMO | PCGrad | CAGrad | GradNorm,
    Field(discriminator="type"),
]
