"""`scenario_tastes`: every scenario weighs the same few traits of what is shown to whom by its own numbers.

    score[o] += strength · LOADS[o] · Σ_k weight[scenario, k] · trait_k
    trait_k   = (category_k + segment_k · match_k[category]) / √2

The weights of a scenario are a random direction: any two scenarios agree, differ or oppose each other by chance. The traits are
common to all, so a model that has learned them from the large scenarios needs only the few weights of a small one.

Shapes: R requests of K items, S scenarios, F traits.
"""

import numpy as np

from raymtl.synth.chance import generator
from raymtl.synth.spec import SynthSpec

LOADS = np.array([1.0, 0.5, 0.5], dtype=np.float32)
"""Effect of the weighted traits, of standard deviation 1, on the scores of click, cart and buy at strength 1."""
TRAITS = 4


class ScenarioTastes:
    """The traits and the weights of one seed; the same on every day."""

    def __init__(self, spec: SynthSpec):
        draw = generator(spec.seed, 13)
        weights = draw.normal(size=(len(spec.scenarios), TRAITS))
        self.weights = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
        """[S, F], of length 1 for each scenario."""
        self._category, self._match, self._segment = (
            draw.normal(size=(count, TRAITS)).astype(np.float32)
            for count in (spec.categories, spec.categories, spec.segments)
        )
        self._strength = LOADS * np.float32(spec.scenario_tastes * spec.signal / np.sqrt(2))

    def scores(self, scenario: np.ndarray, segment: np.ndarray, category: np.ndarray) -> np.ndarray:
        """What the scores of the funnel gain, [R, K, 3] float32; scenario and segment [R], category [R, K]."""
        traits = self._category[category] + self._segment[segment][:, None] * self._match[category]
        return (traits * self.weights[scenario][:, None]).sum(axis=2, keepdims=True) * self._strength
