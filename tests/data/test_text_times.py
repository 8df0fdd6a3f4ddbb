"""Times of ISO 8601 in text, against Python's own parser."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from raymtl.data.column_types import fits
from raymtl.data.times import microseconds, text_times

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def of_python(text: str) -> int:
    moment = dt.datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


def test_every_form_is_the_moment_that_python_reads() -> None:
    random = np.random.default_rng(0)
    texts = ["2026-01-31", "2026-01-31 12:07", "1969-12-31T23:59:59.5Z", "2026-02-28T23:30:00-05:30"]
    for _ in range(997):
        moment = EPOCH + dt.timedelta(microseconds=int(random.integers(-(10**15), 4 * 10**15)))
        zone = dt.timezone(dt.timedelta(minutes=int(random.integers(-839, 839))))
        moment = moment.astimezone(zone) if random.random() < 0.5 else moment.replace(tzinfo=None)
        texts.append(moment.isoformat("T" if random.random() < 0.5 else " "))
    expected = [of_python(text) for text in texts]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        assert fits(kind, "time")
        assert microseconds(pa.array(texts).cast(kind)).tolist() == expected


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13-01", "2026-02-29", "2026-01-31T25:00", "31.01.2026", "2026-01-31T", "1769900000"]
)
def test_other_text_is_no_time(text: str) -> None:
    assert text_times(pa.array([text, None, "2026-01-31"])).is_null().to_pylist() == [True, True, False]
    assert len(microseconds(pa.array([text, "2026-01-31"]))) == 1


def test_lists_and_bytes_are_no_times() -> None:
    assert not fits(pa.list_(pa.string()), "time")
    assert not fits(pa.binary(), "time")
    assert text_times(pa.array([b"\xff"])).null_count == 1
