"""How a dense feature becomes a vector."""

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from raymtl.config.base import Section
from raymtl.config.roles import Role


def _ascending(edges: list[float]) -> list[float]:
    for low, high in pairwise(edges):
        if not np.float32(low) < np.float32(high):
            raise ValueError(f"{high} follows {low}; list the edges in ascending order, each once (as float32)")
    return edges


Edges = Annotated[list[float], AfterValidator(_ascending)]
"""Limits between ranges of a number, in the units of its column."""


class Piecewise(Section):
    """A piecewise linear encoding: one element per range between two `edges`, 0 below it and 1 above (Gorishniy et al. 2022)."""

    type: Annotated[Literal["piecewise"], Role.MODEL]
    """Ranges with given edges."""
    edges: Annotated[Edges, Field(min_length=3), Role.MODEL]
    """The edges, ascending: n of them make n − 1 elements; quantiles of the column are a good choice. The first and the last
    range go on beyond them. Inside a range the element is linear in the number after `transform`."""

    @property
    def width(self) -> int:
        """Elements of the vector."""
        return len(self.edges) - 1


class AutoDis(Section):
    """A mixture of learned vectors, whose weights are a small network of the number (Guo et al. 2021)."""

    type: Annotated[Literal["autodis"], Role.MODEL]
    """Automatic discretisation."""
    width: Annotated[PositiveInt, Field(le=8192), Role.MODEL] = 16
    """Elements of the vector."""
    buckets: Annotated[int, Field(ge=2, le=1024), Role.MODEL] = 20
    """Learned vectors H of the feature."""
    temperature: Annotated[PositiveFloat, Role.MODEL] = 1.0
    """τ of the softmax over them; near 0 a single one is chosen."""


Embed = Annotated[Piecewise | AutoDis, Field(discriminator="type")]
