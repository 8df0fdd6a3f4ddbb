"""Check what stands beside the elements of lists: weights of IDs, and numbers of the steps of a history."""

from collections.abc import Iterator, Mapping

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.features import Feature, SequenceDenseFeature, SequenceFeature, Table, table_of, weighted


def list_problems(features: Mapping[str, Feature], tables: Mapping[str, Table]) -> Iterator[str]:
    """The problems of `of` and of the widths of tables that are looked up unpooled."""
    histories = [name for name, feature in features.items() if isinstance(feature, SequenceFeature)]
    for name, feature in features.items():
        if not isinstance(feature, SequenceDenseFeature) or feature.of in histories:
            continue
        where = f"features.{name}.of names `{feature.of}`"
        fitting = f"one of {quoted(histories)}" if histories else "a feature of kind `sequence`, which must be added"
        if feature.of in features:
            yield f"{where}, a feature of kind `{features[feature.of].kind}`; set it to {fitting}"
        else:
            yield f"{where}, which is not a feature; set it to {fitting}{did_you_mean(feature.of, histories)}"
    used = dict.fromkeys(table_of(name, features[name]) for name in (*histories, *weighted(features)))
    dims = {name: tables[name].dim for name in used if name in tables}
    if len(set(dims.values())) > 1:
        found = ", ".join(f"`{table}` {dim}" for table, dim in dims.items())
        reads = "as sequences or with weights" if weighted(features) else "as sequences"
        yield f"tables that are read {reads} need one `dim` (TorchRec keeps them in one module), but they have {found}"
