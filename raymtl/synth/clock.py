"""The times of the requests: quiet nights, a peak in the evening."""

import numpy as np

_HOURLY = np.array(
    [
        2.0,
        1.2,
        0.8,
        0.6,
        0.6,
        0.9,
        1.8,
        3.0,
        3.8,
        4.0,
        4.1,
        4.4,
        5.2,
        5.0,
        4.4,
        4.2,
        4.3,
        4.8,
        5.6,
        6.6,
        7.6,
        8.0,
        6.8,
        4.0,
    ]
)
_EDGES = np.concatenate([[0.0], np.cumsum(_HOURLY / _HOURLY.sum())])
_EDGES[-1] = 1.0
DAY_MS = 86_400_000


def milliseconds(part: np.ndarray) -> np.ndarray:
    """Milliseconds after midnight at which the share `part` in [0, 1) of a day's requests has happened, int64."""
    return np.minimum(np.interp(part, _EDGES, np.arange(25.0)) * 3_600_000, DAY_MS - 1).astype(np.int64)
