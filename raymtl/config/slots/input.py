"""`model.input`."""

from typing import Annotated, Literal

from pydantic import Field

from raymtl.config.base import Section
from raymtl.config.roles import Role
from raymtl.config.slots.common import Custom, Groups


class _Missing(Section):
    missing: Annotated[Literal["fill", "learned"], Role.MODEL | Role.READ] = "fill"
    """What a null of a dense feature becomes: its `fill`, or a learned value that starts there (Missing Value Layer). Slots that
    read dense features by name see `fill`."""
    missing_flags: Annotated[bool, Role.MODEL] = False
    """Adds one input per dense feature that says whether it was null; `missing: learned` only."""


class ConcatInput(_Missing):
    """Pooled embeddings and dense features side by side."""

    type: Annotated[Literal["concat"], Role.MODEL] = "concat"
    """All inputs side by side."""


class FieldWise(_Missing):
    """Field-wise bi-interaction (NFwFM, FLEN) beside the concatenated inputs; the pooled features in it need one width D."""

    type: Annotated[Literal["field_wise"], Role.MODEL]
    """Field-wise bi-interaction."""
    fields: Annotated[Groups | None, Role.MODEL] = None
    """Groups of pooled features, such as user, item and context; null: every feature is a field of its own. Features of no
    group stay out of the interaction."""
    linear: Annotated[bool, Role.MODEL] = True
    """The linear module S: one learned vector per feature."""
    mf: Annotated[bool, Role.MODEL] = True
    """The MF module: products of different fields, one weight per pair of fields."""
    fm: Annotated[bool, Role.MODEL] = True
    """The FM module: products of features of one field, one weight per field; nothing where every field has one feature."""
    dice: Annotated[float, Field(gt=0, le=1), Role.MODEL] = 1.0
    """Dicefactor β: in training each element of the products is kept with this probability, in evaluation all are scaled by it;
    1: off."""


Input = Annotated[ConcatInput | FieldWise | Custom, Field(discriminator="type")]
