"""Check the crosses of features against the features and tables that they name."""

from collections.abc import Iterator, Mapping

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.features import Crossed, CrossFeature, Feature, Table, table_of


def cross_problems(features: Mapping[str, Feature], tables: Mapping[str, Table]) -> Iterator[str]:
    """The problems of the features of kind `cross`."""
    fitting = [name for name, feature in features.items() if isinstance(feature, Crossed)]
    for name, feature in features.items():
        if not isinstance(feature, CrossFeature):
            continue
        for part in dict.fromkeys(feature.of):
            where = f"features.{name}.of names `{part}`"
            if part not in features:
                yield f"{where}, which is not one of the features {quoted(fitting)}{did_you_mean(part, fitting)}"
            elif part not in fitting:
                yield f"{where}, a feature of kind `{features[part].kind}`; only the kinds `id` and `bucket` can be crossed"
            elif feature.of.count(part) > 1:
                yield f"{where} {feature.of.count(part)} times; list it once"
        table = tables.get(table_of(name, feature))
        if table is not None and table.id_space == "direct":
            yield (
                f"tables.{table_of(name, feature)}.id_space is `direct`, but the IDs of features.{name} are hashes; use `hash` "
                "or `map`"
            )
