"""What the types of columns can hold: which fit a use, and which are the same to raymtl."""

from collections.abc import Callable
from typing import Literal

import pyarrow as pa

Kind = Literal["id", "ids", "map", "number", "numbers", "vector", "flag", "category", "label", "time"]


def fits(found: pa.DataType, kind: Kind) -> bool:
    """Whether a column of type `found` can be read as `kind`; type null (no value at all) always can."""
    found = plain_type(found)
    return pa.types.is_null(found) or _FITS[kind](found)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in which `read_fragment` hands on a column: views and extension types, which many Arrow functions lack, become
    their plain counterparts with the same values."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_map(kind):
        plain = pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
        return kind if (plain.key_type, plain.item_type) == (kind.key_type, kind.item_type) else plain
    if not has_elements(kind):
        return kind
    element = kind.value_field.with_type(plain_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(element, kind.list_size)
    return pa.list_(element) if pa.types.is_list(kind) else pa.large_list(element)


def leaf_type(kind: pa.DataType) -> pa.DataType:
    """The plain type of the values of a list and of a dictionary, and of the keys of a map."""
    kind = plain_type(kind)
    while has_elements(kind) or pa.types.is_dictionary(kind) or pa.types.is_map(kind):
        kind = kind.key_type if pa.types.is_map(kind) else kind.value_type
    return kind


def has_elements(kind: pa.DataType) -> bool:
    """Whether a column holds lists of any type."""
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def is_empty(kind: pa.DataType) -> bool:
    """Whether a column, or all of its lists, can only hold nulls."""
    return pa.types.is_null(leaf_type(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of IDs, or of lists of them, holds strings or bytes, which are the same to raymtl."""
    return _is_bytes(leaf_type(kind))


def is_string(kind: pa.DataType) -> bool:
    """Whether a column holds strings."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_id(kind: pa.DataType) -> bool:
    """Whether a column can hold IDs."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    whole = pa.types.is_integer(inner) or (pa.types.is_decimal(inner) and inner.scale == 0)
    # pandas turns a column of integers into doubles at its first null; `rules.not_whole` checks the values
    return whole or _is_bytes(inner) or pa.types.is_float32(inner) or pa.types.is_float64(inner)


def id_word(kind: pa.DataType) -> str:
    """What a column of IDs, or of lists of them, holds; equal IDs are equal only under the same word."""
    while has_elements(kind) or pa.types.is_map(kind):
        kind = kind.key_type if pa.types.is_map(kind) else kind.value_type
    if getattr(kind, "extension_name", None) == "arrow.uuid":
        return "UUID"
    return "string" if is_text(kind) else "integer"


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers or booleans."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a column can hold lists of IDs."""
    return has_elements(kind) and (is_id(kind.value_type) or pa.types.is_null(kind.value_type))


def is_weighted(kind: pa.DataType) -> bool:
    """Whether a column can hold maps from IDs to weights."""
    if not pa.types.is_map(kind):
        return False
    return is_id(kind.key_type) and (is_number(kind.item_type) or pa.types.is_null(kind.item_type))


def _is_vector(kind: pa.DataType) -> bool:
    return has_elements(kind) and (is_number(kind.value_type) or pa.types.is_null(kind.value_type))


def is_label(kind: pa.DataType) -> bool:
    """Whether a column can hold labels."""
    return is_number(kind) or _is_bytes(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_flag(kind: pa.DataType) -> bool:
    return pa.types.is_boolean(kind) or pa.types.is_integer(kind)


def is_time(kind: pa.DataType) -> bool:
    """Whether a column can hold times."""
    return (
        pa.types.is_timestamp(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_date(kind)
        or is_string(kind)
    )


_FITS: dict[Kind, Callable[[pa.DataType], bool]] = {
    "id": is_id,
    "ids": is_list,
    "map": is_weighted,
    "number": is_number,
    "numbers": _is_vector,
    "vector": _is_vector,
    "flag": _is_flag,
    "category": is_id,
    "label": is_label,
    "time": is_time,
}
