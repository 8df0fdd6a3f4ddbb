"""Check the input slot against the features: field-wise interaction and missing values."""

from collections.abc import Iterator, Mapping

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.features import Feature, Table, is_pooled, width_of
from raymtl.config.model import Model
from raymtl.config.slots.input import ConcatInput, FieldWise


def input_problems(model: Model, features: Mapping[str, Feature], tables: Mapping[str, Table]) -> Iterator[str]:
    """The problems of `model.input`."""
    section = model.input
    if isinstance(section, ConcatInput | FieldWise) and section.missing_flags and section.missing != "learned":
        yield (
            f"model.input.missing_flags is on but model.input.missing is `{section.missing}`; flags belong to "
            "`missing: learned`: set that, or missing_flags to false"
        )
    if not isinstance(section, FieldWise):
        return
    pooled = [n for n, f in features.items() if is_pooled(f)]
    if not pooled:
        yield (
            "model.input is `field_wise` but no feature has the kind `id`, `bucket`, `cross`, `vector` or `ids`, or `embed`; add "
            "one, or use the type `concat`"
        )
        return
    wrong = [*_member_problems(features, section, pooled)]
    if wrong:
        yield from wrong
        return
    fields = [*section.fields.values()] if section.fields else [[name] for name in pooled]
    wide = width_problem({name: width_of(name, features[name], tables) for field in fields for name in field})
    if wide:
        yield wide
    pairs = (section.mf and len(fields) > 1) or (section.fm and any(len(field) > 1 for field in fields))
    if len(pooled) > 1 and not pairs:
        yield (
            "model.input is `field_wise` but no two features interact: `mf` needs two fields, `fm` a field of two features; "
            "turn them on, change model.input.fields, or use the type `concat`"
        )


def width_problem(widths: Mapping[str, int]) -> str | None:
    """The message about features of an interaction whose embeddings differ in width; None if there is no problem."""
    first, width = next(iter(widths.items()))
    others = {name: other for name, other in widths.items() if other != width}
    if not others:
        return None
    found = ", ".join(f"`{name}` has {other}" for name, other in others.items())
    return (
        f"model.input is `field_wise`, whose features need embeddings of one width: `{first}` has {width}, {found}; "
        "give their tables one `dim`, or keep the others out of model.input.fields"
    )


def _member_problems(features: Mapping[str, Feature], section: FieldWise, pooled: list[str]) -> Iterator[str]:
    """Names in the fields that are not pooled features, or that occur twice."""
    if section.fields == {}:
        yield "model.input.fields is empty; name the groups of features, or leave it out: then every feature is a field"
    of: dict[str, str] = {}
    for field, names in (section.fields or {}).items():
        for name in names:
            where = f"model.input.fields.{field} names `{name}`"
            if name not in features:
                yield f"{where}, which is not one of the features {quoted(pooled)}{did_you_mean(name, pooled)}"
            elif name not in pooled:
                kind = features[name].kind
                kinds = "`id`, `bucket`, `cross`, `vector` and `ids`, and `dense` with `embed`"
                yield f"{where}, a feature of kind `{kind}`; fields are made of the kinds {kinds}"
            elif name in of:
                yield f"{where}, which is in the field `{of[name]}` already; a feature belongs to one field"
            of.setdefault(name, field)
