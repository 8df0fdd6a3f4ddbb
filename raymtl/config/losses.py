"""`tasks.<name>.losses`: what the training of a task minimises. `docs/losses.md` has the formulas."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role

Within = Literal["request", "group"]
"""What a list of rows is that a loss compares: a request, or all rows of a value of `data.group`."""


class LossTerm(Section):
    """One loss of a task."""

    events_only: ClassVar[bool] = False
    """Whether only binary tasks can have it."""

    weight: Annotated[PositiveFloat, Role.LEARNING | Role.COUPLING] = 1.0
    """Weight among the losses of the task."""


class ListTerm(LossTerm):
    """One loss that compares the rows of a list."""

    within: Annotated[Within, Role.LEARNING | Role.READ] = "request"
    """A list is: `request`: the rows of a request. `group`: the rows of a value of `data.group`. Only rows in the same worker's
    batch are compared."""


class OwnLoss(LossTerm):
    """The loss of the task's kind."""

    smoothing: Annotated[float, Field(ge=0, lt=1), Role.LEARNING] = 0.0
    """Label smoothing: the share ε of each label that is spread over both classes, (1 − ε)·y + ε/2; 0: none. Predictions then lie
    between ε/2 and 1 − ε/2. Binary tasks only."""


class FocalLoss(LossTerm):
    """Cross entropy that counts a row less the better it is predicted (Lin et al., ICCV'17); binary tasks only. Its predictions
    are not calibrated."""

    events_only = True

    gamma: Annotated[NonNegativeFloat, Role.LEARNING] = 2.0
    """Focusing exponent γ: a row counts (1 − p)^γ, with p the probability of its label. 0: cross entropy."""
    alpha: Annotated[float | None, Field(gt=0, lt=1), Role.LEARNING] = None
    """Factor α of the positives, and 1 − α of the negatives; null: 1 for both. The paper uses 0.25."""


class RankNetLoss(ListTerm):
    """Pairwise logistic loss of the rows of a list (RankNet, ICML'05): of two rows, the one with the larger label should have the
    larger logit."""

    window: Annotated[PositiveInt, Role.LEARNING] = 64
    """Compares a row with so many rows that follow it in its list. Lists of at most one row more have all their pairs; time and
    memory grow with rows · window."""


class ListwiseLoss(ListTerm):
    """Softmax cross entropy of the rows of a list (ListNet, ICML'07; Bruch et al., ICTIR'19): each row's share of the labels
    against its share of the exponentials of the logits."""


class TaskLossTerms(Section):
    """The losses of a task, by type; their weighted sum is the task's loss. At least one of `own` and `focal` keeps the level of
    the predictions; the others see only the order."""

    own: OwnLoss | None = OwnLoss()
    """The loss of the task's kind; null: leave it out."""
    focal: FocalLoss | None = None
    """Focal loss; null: none."""
    ranknet: RankNetLoss | None = None
    """Pairwise loss; null: none."""
    listwise: ListwiseLoss | None = None
    """Listwise loss; null: none."""

    def chosen(self) -> dict[str, LossTerm]:
        """The sections that are set, by type."""
        return {name: term for name in type(self).model_fields if (term := getattr(self, name)) is not None}

    def lists(self) -> list[Within]:
        """What the lists are whose rows are compared, each once."""
        return list(dict.fromkeys(term.within for term in self.chosen().values() if isinstance(term, ListTerm)))

    @staticmethod
    def is_own_alone(plain: object) -> bool:
        """Whether a section, as plain data of a result, has the loss of the kind alone, so that a task's loss has its unit."""
        return plain in (None, {}, TaskLossTerms().model_dump(mode="json"))
