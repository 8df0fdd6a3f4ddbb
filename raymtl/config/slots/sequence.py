"""`model.sequence`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom, Dropout, Groups, Layers, Widths


class NoSequence(Section):
    """The model has no sequence features."""

    type: Annotated[Literal["none"], Role.MODEL] = "none"
    """No sequence slot."""


class PooledSequence(Section):
    """Each sequence is averaged over its valid steps."""

    type: Annotated[Literal["pooled"], Role.MODEL]
    """Mean over the steps."""


class TransformerSequence(Section):
    """Multi-head self-attention over each behaviour with positions, then the mean over its steps (M2M)."""

    type: Annotated[Literal["transformer"], Role.MODEL]
    """Self-attention over the steps."""
    behaviours: Annotated[Groups | None, Role.MODEL] = None
    """Maps a behaviour to its `sequence` and `sequence_dense` features, aligned step by step; null: every sequence is one, with
    its numbers."""
    heads: Annotated[PositiveInt, Role.MODEL] = 2
    """Attention heads."""
    layers: Annotated[Layers, Role.MODEL] = 1
    """Layers of attention and feed-forward."""
    width: Annotated[PositiveInt, Role.MODEL] = 32
    """Width of a step inside and of each behaviour's output; a multiple of `heads`."""
    positions: Annotated[PositiveInt, Role.MODEL] = 50
    """Learned positions, counted back from the most recent step; older steps share the last one."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """On attention and feed-forward."""


class DUPNSequence(Section):
    """Property-gated LSTM over items and how the user acted on them, then attention with the user (DUPN, KDD'18)."""

    type: Annotated[Literal["dupn"], Role.MODEL]
    """Property-gated LSTM and attention."""
    item: Annotated[list[str] | None, Role.MODEL] = None
    """`sequence` and `sequence_dense` features that say what a step was about; null: all but the properties."""
    properties: Annotated[list[str], Role.MODEL] = []
    """`sequence` and `sequence_dense` features that say how the user acted on it (behaviour, time); they drive only the gates."""
    user: Annotated[list[str], Role.MODEL] = []
    """Pooled ID features and dense ones of the user; never of the candidate, so that the vector is computed once per request."""
    hidden: Annotated[PositiveInt, Role.MODEL] = 128
    """Width of the LSTM and of the user's vector; the slot's output is twice as wide, or the same width without `user`."""
    attention_hidden: Annotated[PositiveInt, Role.MODEL] = 64
    """Width of the hidden layer of the attention."""


class TIMSequence(Section):
    """One transformer for all tasks and behaviours, told apart by conditional layer norms (DTRN's TIM, CIKM'23)."""

    type: Annotated[Literal["tim"], Role.MODEL]
    """Task-specific interest from several behaviours."""
    behaviours: Annotated[Groups | None, Role.MODEL] = None
    """Maps a behaviour to its `sequence` and `sequence_dense` features, aligned step by step; null: every sequence is one, with
    its numbers."""
    target: Annotated[list[str], Field(min_length=1), Role.MODEL]
    """Pooled features of the candidate item: the decoder's query."""
    width: Annotated[PositiveInt, Role.MODEL] = 32
    """Width d of the transformer; each task gets d per behaviour."""
    heads: Annotated[PositiveInt, Role.MODEL] = 2
    """Attention heads."""
    layers: Annotated[Layers, Role.MODEL] = 1
    """Encoder layers; the decoder has one."""
    positions: Annotated[PositiveInt, Role.MODEL] = 50
    """Learned positions, counted back from the most recent step; older steps share the last one."""
    dropout: Annotated[Dropout, Role.LEARNING] = 0.0
    """On attention and feed-forward."""


class DINSequence(Section):
    """Steps weighted by the candidate item (DIN, KDD'18), of long histories only those that share an attribute (SIM, CIKM'20)."""

    type: Annotated[Literal["din"], Role.MODEL]
    """Histories pooled by the candidate."""
    behaviours: Annotated[Groups | None, Role.MODEL] = None
    """Maps a behaviour to its `sequence` features, aligned step by step; null: every sequence is a behaviour."""
    target: Annotated[list[str], Field(min_length=1), Role.MODEL]
    """Pooled features of the candidate item. One that reads the table of a feature of the steps is compared with it; each
    behaviour needs such a feature."""
    hidden: Annotated[Widths, Field(min_length=1), Role.MODEL] = [32, 16]
    """Hidden widths of the unit that weights the steps; each behaviour has its own unit."""
    heads: Annotated[PositiveInt, Role.MODEL] = 1
    """Weights per step; each gives a pooled vector as wide as a step."""
    softmax: Annotated[bool, Role.MODEL] = False
    """Whether the weights of a history sum to 1; as they are, they also tell how many steps fit."""
    search: Annotated[dict[str, str], Role.MODEL] = {}
    """Maps a behaviour to an `id` feature of the candidate, such as the category: only steps with the same ID are attended to. A
    feature of the behaviour must read its table. Behaviours that are left out are attended to in full."""
    search_steps: Annotated[PositiveInt, Role.MODEL] = 50
    """The most recent so many of these steps."""


Sequence = Annotated[
    NoSequence | PooledSequence | TransformerSequence | DUPNSequence | TIMSequence | DINSequence | Custom,
    Field(discriminator="type"),
]
