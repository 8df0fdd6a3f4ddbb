"""Times in the logs: timestamps, dates, numbers or text, in microseconds since 1970."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.column_types import is_string
from raymtl.data.rules import int64_values

_MOST_MICROSECONDS = 2.0**62
_ISO_TIME = (
    r"^(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<minute>\d\d:\d\d)(?::(?P<second>\d\d)(?:[.,](?P<part>\d{1,9}))?)? ?(?P<zone>Z|[+-]\d\d:?\d\d)?)?$"
)


def microseconds(times: pa.Array) -> np.ndarray:
    """Times without nulls in microseconds since 1970 (UTC), [N] int64: timestamps, dates, Unix time as numbers, or text.

    The unit of a number follows from its size: seconds below 10^11, milliseconds below 10^14, microseconds below 10^17,
    nanoseconds above (each from 1973 to 5138). Numbers that are not finite, and text that is no time, are left out.
    """
    if is_string(times.type):
        times = text_times(times).drop_null()
    if pa.types.is_timestamp(times.type) or pa.types.is_date(times.type):
        return int64_values(times.cast(pa.timestamp("us"), safe=False).cast(pa.int64()))
    numbers = times.to_numpy(zero_copy_only=False)
    numbers = numbers[np.isfinite(numbers)].astype(np.float64)
    size = np.abs(numbers)
    factor = np.select([size < 1e11, size < 1e14, size < 1e17], [1e6, 1e3, 1.0], 1e-3)
    return np.clip(numbers * factor, -_MOST_MICROSECONDS, _MOST_MICROSECONDS).astype(np.int64)


def text_times(texts: pa.Array) -> pa.Array:
    """Times of ISO 8601 in text, [N] timestamp in UTC; null for other text.

    A date, or a date and a time to the minute, second or a part of it (to microseconds), with `T` or a space between and `Z`, an
    offset or nothing (UTC) behind: `2026-01-31`, `2026-01-31 12:00`, `2026-01-31T12:00:00.25+02:00`.
    """
    if not is_string(texts.type):
        return pa.nulls(len(texts), pa.timestamp("us"))
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    found = pc.extract_regex(texts.cast(pa.string()), _ISO_TIME)
    day, minute, second, part, zone = (pc.struct_field(found, n) for n in ("day", "minute", "second", "part", "zone"))
    minute, second = (
        pc.if_else(pc.equal(value, ""), zero, value) for value, zero in ((minute, "00:00"), (second, "00"))
    )
    whole = pc.strptime(
        pc.binary_join_element_wise(day, minute, second, " "), "%Y-%m-%d %H:%M %S", unit="us", error_is_null=True
    )
    exists = pc.equal(pc.strftime(whole, format="%Y-%m-%d"), day)  # else 30 February is 2 March
    whole = pc.if_else(exists, whole, pa.scalar(None, whole.type))
    part = pc.utf8_slice_codeunits(pc.utf8_rpad(part, 6, "0"), 0, 6).cast(pa.int64())
    digits = pc.replace_substring(pc.utf8_slice_codeunits(zone, 1), ":", "")
    digits = pc.utf8_lpad(digits, 4, "0").cast(pa.int64())  # "" of no zone and of `Z`
    offset = pc.add(
        pc.multiply(pc.divide(digits, 100), 60), pc.subtract(digits, pc.multiply(pc.divide(digits, 100), 100))
    )
    offset = pc.if_else(pc.starts_with(zone, "-"), pc.negate(offset), offset)
    moment = pc.subtract(pc.add(whole.cast(pa.int64()), part), pc.multiply(offset, 60_000_000))
    return moment.cast(pa.timestamp("us"))
