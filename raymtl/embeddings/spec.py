"""The model's view of the features: names and widths, in the order of the configuration."""

import numpy as np

from raymtl.config.features import (
    BiasFeature,
    DenseFeature,
    SequenceDenseFeature,
    SequenceFeature,
    VectorFeature,
    width_of,
)
from raymtl.config.numbers import AutoDis, Embed, Piecewise
from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.models.inputs import InputSpec


def input_spec(config: Config) -> InputSpec:
    """The static description of the tables' and dense columns' outputs."""
    pooled: dict[str, int] = {}
    sequences: dict[str, int] = {}
    bias: dict[str, int] = {}
    tables: dict[str, str] = {}
    for name, feature in config.features.items():
        if not isinstance(feature, DenseFeature):
            kinds = {SequenceFeature: sequences, SequenceDenseFeature: sequences, BiasFeature: bias}
            target = kinds.get(type(feature), pooled)
            given = feature.width if isinstance(feature, VectorFeature) else None
            target[name] = given or width_of(name, feature, config.tables)
            if given is None:
                tables[name] = config.table_of(name)
    return InputSpec(
        pooled=pooled,
        sequences=sequences,
        numbers={n: f.of for n, f in config.features.items() if isinstance(f, SequenceDenseFeature)},
        dense=tuple(n for n, f in config.features.items() if isinstance(f, DenseFeature)),
        dense_fill=tuple(f.fill for f in config.features.values() if isinstance(f, DenseFeature)),
        bias=bias,
        embed={n: _embed(f) for n, f in config.features.items() if isinstance(f, DenseFeature) and f.embed is not None},
        project={n: f.project for n, f in config.features.items() if isinstance(f, VectorFeature) and f.project},
        scenarios=len(config.data.scenario.values) + 1 if config.data.scenario else 0,
        tables=tables,
    )


def _embed(feature: DenseFeature) -> Embed:
    """The embedding of a feature, with its edges in the units of what the model reads."""
    embed = feature.embed
    assert embed is not None
    if isinstance(embed, AutoDis):
        return embed
    edges = np.array(embed.edges, np.float32).astype(np.float64)  # of numbers that are read as float32
    return Piecewise.model_construct(type="piecewise", edges=rules.scaled(edges, feature).tolist())
