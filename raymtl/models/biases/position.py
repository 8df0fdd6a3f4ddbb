"""The shallow tower over position-like features (YouTube's ranking, Zhao et al., RecSys 2019, section 4.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.inputs import ModelInput
from raymtl.models.layers import GroupedMLP
from raymtl.models.registry import register
from raymtl.models.slots import BiasSlot, Context


@register("bias", "position")
class PositionTower(BiasSlot):
    """The contribution of an item's position to the logits of some tasks: bias embeddings [B, d] -> [B, number of tasks].

        bias_t = m · v_t · MLP_t(position)          for the tasks listed, an exact 0 for all others

    m is 1 where the row has all its bias features and, in training, where they were not hidden at random (`dropout`).
    There is no constant in the last layer, so a row without a position, a row whose position was hidden and serving, where
    the tower is left out, have the same logits, so predictions without a position stay calibrated. The last layer
    starts at zero, so the untrained model is the one without the tower. Keep the tower small: a logged position also reflects
    the relevance that the ranker of that day estimated, and a large tower would learn that instead of the model.
    """

    def __init__(
        self,
        context: Context,
        *,
        tasks: Sequence[str] | None = None,
        hidden: Sequence[int] = (16,),
        dropout: float = 0.1,
    ):
        super().__init__()
        names = list(context.tasks)
        chosen = names[:1] if tasks is None else [name for name in names if name in tasks]
        if not chosen:
            raise ConfigError(
                f"model.bias.tasks is {list(tasks or [])}, none of which is trained; list a trained task, or remove it"
            )
        width = sum(context.spec.bias.values())
        if not width:
            raise ConfigError(
                "model.bias is `position` but no feature has the kind `bias`; add one, or set it to `none`"
            )
        self._column = {names.index(name): i for i, name in enumerate(chosen)}
        self._tasks = len(names)
        self.mlps = GroupedMLP(len(chosen), width, hidden) if hidden else None
        self.weight = nn.Parameter(torch.zeros(len(chosen), hidden[-1] if hidden else width))
        self.dropout = dropout

    def forward(self, inputs: ModelInput) -> Tensor:
        assert inputs.bias is not None
        h = self.mlps(inputs.bias).transpose(0, 1) if self.mlps is not None else inputs.bias.unsqueeze(1)
        columns = self._present(inputs, (h.float() * self.weight).sum(-1)).unbind(1)
        zero = torch.zeros_like(columns[0])
        return torch.stack([columns[self._column[t]] if t in self._column else zero for t in range(self._tasks)], 1)

    def _present(self, inputs: ModelInput, bias: Tensor) -> Tensor:
        present = inputs.bias_present
        if self.dropout and self.training:
            kept = torch.rand(len(bias), device=bias.device) >= self.dropout
            present = kept if present is None else present & kept
        return bias if present is None else torch.where(present.unsqueeze(1), bias, 0.0)
