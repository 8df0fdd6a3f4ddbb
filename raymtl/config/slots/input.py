"""`model.input`."""

from typing import Annotated, Literal

from pydantic import Field

from raymtl.config.base import Section
from raymtl.config.slots.common import Custom, Groups


class _Missing(Section):
    missing: Literal["fill", "learned"] = "fill"
    """What a null of a dense feature becomes: its `fill`, or a learned value that starts there (Missing Value Layer)."""
    missing_flags: bool = False
    """Adds one input per dense feature that says whether it was null; `missing: learned` only."""


class ConcatInput(_Missing):
    """Pooled embeddings and dense features side by side."""

    type: Literal["concat"] = "concat"
    """All inputs side by side."""


class FieldWise(_Missing):
    """Field-wise bi-interaction (NFwFM, FLEN) beside the concatenated inputs; all pooled features need one width D."""

    type: Literal["field_wise"]
    """Field-wise bi-interaction."""
    fields: Groups | None = None
    """Groups of pooled features, such as user, item and context; null: every feature is a field of its own. Features of no
    group stay out of the interaction."""
    linear: bool = True
    """The linear module S."""
    mf: bool = True
    """The MF module: products of different fields."""
    fm: bool = True
    """The FM module: products of features of one field."""
    dice: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Dicefactor β: in training each element of the interaction is kept with this probability, in evaluation all are scaled by
    it; 1: off."""


Input = Annotated[ConcatInput | FieldWise | Custom, Field(discriminator="type")]
