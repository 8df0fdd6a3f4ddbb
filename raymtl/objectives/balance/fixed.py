"""Weights that nothing learns: the tasks' own, and those relative to the start losses."""

from raymtl.objectives.balance.base import Balance, BalanceContext, StepStats, Weights, register
from raymtl.objectives.balance.start import StartLosses


@register("fixed")
class Fixed(Balance):
    """λ_t = weight_t."""

    def forward(self, step: StepStats) -> Weights:
        return Weights(self.task_weights)


@register("entropy")
class Entropy(Balance):
    """λ_t = weight_t / L_t(0), where L_t(0) of a binary task is the entropy of its base rate.

    So the loss of a binary task is its normalised entropy: 1 at the start whatever its base rate, with weight 1.
    """

    def __init__(self, context: BalanceContext):
        super().__init__(context)
        self.start = StartLosses(context)
        self.needs_losses = not self.start.known

    def forward(self, step: StepStats) -> Weights:
        return Weights(self.task_weights / self.start(step.losses, step.active))
