"""What the kinds with classes share."""

import math
from collections.abc import Sequence
from typing import Any

TOP = 3
"""Classes that the metric `top_3_accuracy` looks at."""


def shares_entropy(shares: Sequence[float]) -> float:
    """Cross entropy in nats if every prediction is the shares of the classes."""
    return -sum(share * math.log(share) for share in shares if share > 0)


def class_details(names: Sequence[str], means: Sequence[float], own: Sequence[str]) -> dict[str, Any]:
    """What the best constant reaches in the metrics `own`, and of each class its share and mean probability.

    `means` are those of one-hot labels, and then of the probabilities.
    """
    shares, predicted = means[: len(names)], means[len(names) :]
    ranked = sorted(shares, reverse=True)
    best = {"logloss": shares_entropy(shares), "accuracy": ranked[0], "top_3_accuracy": sum(ranked[:TOP])}
    rows = zip(names, shares, predicted, strict=True)
    return {f"constant_{metric}": best[metric] for metric in own} | {
        "classes": [{"class": name, "share": share, "mean_prediction": mean} for name, share, mean in rows]
    }
