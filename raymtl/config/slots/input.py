"""`model.input`."""

from typing import Annotated, Literal

from pydantic import Field

from raymtl.config.base import Section
from raymtl.config.slots.common import Custom, Groups


class _Missing(Section):
    missing: Literal["fill", "learned"] = "fill"
    """What a null of a dense feature becomes: its `fill`, or a learned value that starts there (Missing Value Layer). Slots that
    read dense features by name see `fill`."""
    missing_flags: bool = False
    """Adds one input per dense feature that says whether it was null; `missing: learned` only."""


class ConcatInput(_Missing):
    """Pooled embeddings and dense features side by side."""

    type: Literal["concat"] = "concat"
    """All inputs side by side."""


class FieldWise(_Missing):
    """Field-wise bi-interaction (NFwFM, FLEN) beside the concatenated inputs; the pooled features in it need one width D."""

    type: Literal["field_wise"]
    """Field-wise bi-interaction."""
    fields: Groups | None = None
    """Groups of pooled features, such as user, item and context; null: every feature is a field of its own. Features of no
    group stay out of the interaction."""
    linear: bool = True
    """The linear module S: one learned vector per feature."""
    mf: bool = True
    """The MF module: products of different fields, one weight per pair of fields."""
    fm: bool = True
    """The FM module: products of features of one field, one weight per field; nothing where every field has one feature."""
    dice: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Dicefactor β: in training each element of the products is kept with this probability, in evaluation all are scaled by it;
    1: off."""


Input = Annotated[ConcatInput | FieldWise | Custom, Field(discriminator="type")]
