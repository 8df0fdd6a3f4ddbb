"""Events that a run, a daily job or a search sends to its caller."""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
"""A record of `metrics.jsonl` (`kind` is `train` or `eval`), or one of these:

* `{"note": sentence}`
* `{"total_rows": rows}` of all epochs, before the training starts
* `{"day": date, "state": state}` of a daily job
* `{"trial": Trial}` of a search, whenever a trial changes
"""
Listener = Callable[[Event], None]
