"""DUPN's user representation: a property-gated LSTM and attention over one history (Ni et al., KDD 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raymtl.errors import ConfigError
from raymtl.models.inputs import ModelInput, Pick
from raymtl.models.layers import MLP, full_precision, glorot_
from raymtl.models.registry import register
from raymtl.models.sequences.steps import side_by_side, with_numbers
from raymtl.models.slots import Context, SequenceSlot

_CANDIDATE = 2
"""Index of the candidate gate among the four blocks of an LSTM in torch: input gate, forget gate, candidate, output gate."""


@register("sequence", "dupn")
class DUPNSequence(SequenceSlot):
    """History and user -> [rep ‖ u], [B, 2·hidden]; without `user` features it is rep alone, [B, hidden].

    With h_i the states of `PropertyGatedLSTM` over items e_i and properties p_i:

        u = ReLU(W_x x_user + b_x)
        α = softmax over the valid i of v · ReLU(W_h h_i + W_p p_i + W_u u + b)      in fp32 also under autocast
        rep = Σ_i α_i h_i                                                            zeros for an empty history

    The search query of the paper is not used, and neither is the candidate item: as long as `user` names features of
    the user only, the output is the same for all candidates of a request, so serving computes it once and repeats it.
    """

    def __init__(
        self,
        context: Context,
        *,
        item: Sequence[str] | None = None,
        properties: Sequence[str] = (),
        user: Sequence[str] = (),
        hidden: int,
        attention_hidden: int,
    ):
        super().__init__()
        spec, widths = context.spec, context.spec.sequences
        if item is None:
            item = [name for name in widths if name not in properties and name not in spec.numbers]
        listed = (*item, *properties)
        self._item, self._properties = (with_numbers(spec, names, listed) for names in (item, properties))
        if not self._item:
            raise ConfigError(
                "model.sequence `dupn` has no `item`: all sequence features are in `properties`; leave one out"
            )
        self._user = Pick(context.spec, user)
        self.reads = (*self._item, *self._properties, *user)
        width = sum(widths[name] for name in self._item)
        properties_width = sum(widths[name] for name in self._properties)
        self.lstm = PropertyGatedLSTM(width, properties_width, hidden)
        self.user = MLP(self._user.width, [hidden]) if user else None
        self.attention = HistoryAttention(hidden, properties_width, hidden if user else 0, attention_hidden)
        self.width = 2 * hidden if user else hidden

    def forward(self, inputs: ModelInput) -> Tensor:
        items, mask = side_by_side(inputs, self._item)
        properties = side_by_side(inputs, self._properties)[0] if self._properties else None
        user = self.user(self._user(inputs)) if self.user is not None else None
        h = self.lstm(items, properties)
        weight = self.attention(h, properties, user, mask).to(h.dtype)
        rep = torch.bmm(weight.unsqueeze(1), h).squeeze(1)
        return rep if user is None else torch.cat((rep, user), 1)


class PropertyGatedLSTM(nn.Module):
    """LSTM whose properties open and close the gates but never enter the content: e [B, L, d], p [B, L, m] -> h [B, L, hidden].

        i, f, o = σ(W e + P p + U h⁻ + b)      each with its own W, P, U, b
        g = tanh(W e + U h⁻ + b)               no property
        c = f ⊙ c⁻ + i ⊙ g,    h = o ⊙ tanh(c)

    The fused LSTM kernels compute exactly this on [e ‖ p] if P of g is zero. Here g has no P at all: the kernels' weights
    are put together in every forward with a constant block of zeros, so no optimizer, weight decay or rounding moves it.
    The paper's cell also lets c⁻ reach the gates (peepholes), which no fused kernel offers; they are left out.
    """

    def __init__(self, d_in: int, properties: int, hidden: int):
        super().__init__()
        self.item = nn.Parameter(glorot_(torch.empty(4, hidden, d_in)))
        self.property = nn.Parameter(glorot_(torch.empty(3, hidden, properties))) if properties else None
        self.recurrent = nn.Parameter(torch.empty(4, hidden, hidden))
        for block in self.recurrent.data:
            nn.init.orthogonal_(block)
        self.bias = nn.Parameter(torch.zeros(4, hidden))
        nn.init.ones_(self.bias.data[1])  # forget gates start open, so that gradients reach the early steps

    def input_weight(self) -> Tensor:
        """The weights of [e ‖ p] in the order of torch's LSTM: [4·hidden, d + m]."""
        if self.property is None:
            return self.item.flatten(0, 1)
        before, after = self.property[:_CANDIDATE], self.property[_CANDIDATE:]
        property_weight = torch.cat((before, torch.zeros_like(before[:1]), after))
        return torch.cat((self.item, property_weight), 2).flatten(0, 1)

    def forward(self, items: Tensor, properties: Tensor | None) -> Tensor:
        x = items if properties is None else torch.cat((items, properties), 2)
        if x.shape[0] == 0:
            # Kernels of recurrent layers refuse an empty batch, but its gradients (zeros) must flow all the same.
            return self._states(nn.functional.pad(x, (0, 0, 0, 0, 0, 1)))[:0]
        return self._states(x)

    def _states(self, x: Tensor) -> Tensor:
        # One buffer in cuDNN's own layout, seen as four matrices: otherwise cuDNN copies it together, with a warning.
        bias = self.bias.flatten()
        parts = (self.input_weight(), self.recurrent.flatten(0, 1), bias, torch.zeros_like(bias))
        flat = torch.cat([part.flatten() for part in parts])
        weights = [w.view_as(part) for w, part in zip(flat.split([p.numel() for p in parts]), parts, strict=True)]
        start = x.new_zeros(1, x.shape[0], self.bias.shape[1])
        states, _, _ = torch.lstm(x, (start, start), weights, True, 1, 0.0, self.training, False, True)
        return states


class HistoryAttention(nn.Module):
    """Weights of the steps of a history, from a network of two layers: h [B, L, hidden] -> [B, L] in fp32.

    properties [B, L, m] and user [B, k] or None; mask [B, L]. Weights are zero beyond the end and sum to one, but for an
    empty history, which gets zeros.
    """

    def __init__(self, hidden: int, properties: int, user: int, width: int):
        super().__init__()
        self.state = nn.Linear(hidden, width)
        self.property = nn.Linear(properties, width, bias=False) if properties else None
        self.user = nn.Linear(user, width, bias=False) if user else None
        self.score = nn.Linear(width, 1, bias=False)  # a bias would add the same to all scores
        for layer in (self.state, self.property, self.user, self.score):
            if layer is not None:
                glorot_(layer.weight.data)
        nn.init.zeros_(self.state.bias)

    def forward(self, h: Tensor, properties: Tensor | None, user: Tensor | None, mask: Tensor) -> Tensor:
        x = self.state(h)
        if self.property is not None:
            x = x + self.property(properties)
        if self.user is not None:
            x = x + self.user(user).unsqueeze(1)
        with full_precision(x):
            score = self.score(x.relu().float()).squeeze(2)
            # A finite stand-in for minus infinity, since the softmax of a row without steps would be NaN.
            weight = score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(1)
            return weight * mask
