"""The model's view of the features: names and widths, in the order of the configuration."""

from raymtl.config.features import BiasFeature, DenseFeature, SequenceFeature, width_of
from raymtl.config.root import Config
from raymtl.models.inputs import InputSpec


def input_spec(config: Config) -> InputSpec:
    """The static description of the tables' and dense columns' outputs."""
    pooled: dict[str, int] = {}
    sequences: dict[str, int] = {}
    bias: dict[str, int] = {}
    for name, feature in config.features.items():
        if not isinstance(feature, DenseFeature):
            target = {SequenceFeature: sequences, BiasFeature: bias}.get(type(feature), pooled)
            target[name] = width_of(name, feature, config.tables)
    return InputSpec(
        pooled=pooled,
        sequences=sequences,
        dense=tuple(n for n, f in config.features.items() if isinstance(f, DenseFeature)),
        dense_fill=tuple(f.fill for f in config.features.values() if isinstance(f, DenseFeature)),
        bias=bias,
        scenarios=len(config.data.scenario.values) + 1 if config.data.scenario else 0,
    )
