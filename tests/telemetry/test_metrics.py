"""The table of metrics, and what sets them."""

import pytest

from raymtl.telemetry import metrics
from raymtl.telemetry.collectives import _union
from raymtl.telemetry.metrics import METRICS, Gauges

UNITS = ("_rows", "_steps", "_units", "_count", "epoch", "_second", "_seconds", "_ratio", "_bytes", "_mean", "_ids")


class Heard:
    """Stands for Ray's Gauge."""

    said: list[tuple[str, float, dict[str, str]]] = []

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]):
        self.name, self.keys = name, tag_keys
        self.tags: dict[str, str] = {}

    def set_default_tags(self, tags: dict[str, str]) -> "Heard":
        self.tags = tags
        return self

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(self.keys) == {*self.tags, *tags}  # Ray raises for one that is missing
        Heard.said.append((self.name, value, {**self.tags, **tags}))


def test_names_end_with_their_unit_and_are_told_apart() -> None:
    assert len({m.name for m in METRICS}) == len(METRICS)
    assert [m.name for m in METRICS if not m.name.endswith(UNITS)] == []


def test_a_value_that_there_is_not_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "Gauge", Heard)
    monkeypatch.setattr(Heard, "said", [])
    gauges = Gauges("first", 3)
    for value in (None, float("nan"), float("inf"), 0.5):
        gauges.set("eval_auc_ratio", value, task="click")
    assert Heard.said == [("raymtl_eval_auc_ratio", 0.5, {"run": "first", "rank": "3", "task": "click"})]


def test_without_ray_nothing_breaks() -> None:
    Gauges("no listener", 0).set("step_seconds", 0.1)


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0), ([(0, 5), (3, 8), (4, 6)], 8), ([(10, 20), (0, 5)], 15), ([(0, 9), (2, 3)], 9)]
)
def test_time_that_is_shared_counts_once(spans: list[tuple[int, int]], length: int) -> None:
    assert _union(spans) == length
