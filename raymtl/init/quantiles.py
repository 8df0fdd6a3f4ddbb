"""Edges for buckets and piecewise linear encodings, from values of a column."""

import numpy as np


def quantile_edges(values: np.ndarray, ranges: int) -> list[float]:
    """At most `ranges` + 1 ascending edges that split the values about evenly, without edges that are equal as float32.

    A value that fills a range by itself (0 in amounts) is an edge, and the others share the rest of the edges; else nearly all
    quantiles of such a column would be that value.
    """
    found, counts = np.unique(values.astype(np.float32), return_counts=True)
    if len(found) <= ranges + 1:
        return _rounded(found)
    often = counts * ranges >= len(values)
    own, others = found[often], np.repeat(found[~often], counts[~often])
    levels = np.linspace(0, 1, max(2, ranges + 1 - len(own)))
    edges = np.union1d(own, np.quantile(others, levels, method="nearest")) if len(others) else own
    return _rounded(edges)


def _rounded(edges: np.ndarray) -> list[float]:
    """To the digits that tell them apart, at least four."""
    for digits in (4, 6):
        rounded = [float(f"{edge:.{digits}g}") for edge in edges]
        if len(np.unique(np.array(rounded, np.float32))) == len(edges):
            return rounded
    return edges.astype(np.float64).tolist()
