"""What `raymtl check` counts about requests: their rows, what is shared, and what would be if it were said."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raymtl.config.features import CrossFeature, columns_of
from raymtl.config.root import Config
from raymtl.data.contract import uses_of
from raymtl.data.requests import Requests, by_request, feature_changes


@dataclass
class RequestStats:
    """Counts of some rows; a request that two tables hold counts twice."""

    requests: int = 0
    rows: int = 0
    longest: int = 0
    bytes: int = 0
    """Decoded bytes of the columns that the configuration reads, of flat rows."""
    user_bytes: int = 0
    """Those of the user's side among them."""
    changes: Counter[str] = field(default_factory=Counter)
    """By feature, the rows that differ from the one before in the same request; features that have none are there with 0."""

    def merge(self, other: "RequestStats") -> None:
        self.requests += other.requests
        self.rows += other.rows
        self.longest = max(self.longest, other.longest)
        self.bytes += other.bytes
        self.user_bytes += other.user_bytes
        for name, count in other.changes.items():
            self.changes[name] += count


class RequestCounter:
    """Counts the requests of raw tables of one configuration."""

    def __init__(self, config: Config, read: frozenset[str]):
        """`read`: the keys of the configuration whose columns are read."""
        self._config = config
        self._features = [
            name
            for name, feature in config.features.items()
            if not isinstance(feature, CrossFeature) and read.issuperset(uses_of(name, config))
        ]

    def count(self, raw: pa.Table | Requests) -> tuple[RequestStats, dict[str, np.ndarray]]:
        """The counts of a table, and by feature of the user's side which rows differ within their request, [N] bool."""
        features, column = self._config.features, self._config.data.request
        if isinstance(raw, Requests):
            requests, table = raw, raw.per_row([*raw.users.column_names, *raw.rows.column_names])
        else:
            assert column is not None
            requests, table = by_request(raw, column, []), raw
        first = requests.first_rows
        found = RequestStats(len(first), len(requests), int(np.diff(first, append=len(requests)).max(initial=0)))
        of_users, wrong = set(self._config.request_features()), {}
        for name in self._features:
            changed = feature_changes(table, name, features)
            changed[first] = False
            found.changes[name] = int(changed.sum())
            if name in of_users:
                wrong[name] = changed
        sizes = {name: table.column(name).nbytes for name in table.column_names}
        shared = {c for name in of_users.intersection(self._features) for c in columns_of(name, features)}
        found.bytes, found.user_bytes = sum(sizes.values()), sum(sizes[name] for name in shared)
        return found, wrong
