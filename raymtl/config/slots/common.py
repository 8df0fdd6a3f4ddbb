"""What the sections of several slots share."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from raymtl.config.base import ExpectedText, Section
from raymtl.config.roles import Role

Widths = list[PositiveInt]
Layers = Annotated[int, Field(ge=1, le=100)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Groups = dict[str, Annotated[list[str], Field(min_length=1)]]
"""Names to lists of features."""


class Custom(Section):
    """A slot class from outside the package."""

    type: Annotated[Literal["custom"], Role.MODEL]
    """Your own class."""
    path: Annotated[
        str,
        Field(pattern=r"^[\w.]+:\w+$"),
        ExpectedText("the import path of a class, `package.module:Class`"),
        Role.MODEL,
    ]
    """`package.module:Class`, importable on every node."""
    options: Annotated[dict[str, Any], Role.MODEL] = {}
    """Keyword arguments of the class."""
