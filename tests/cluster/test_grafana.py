"""The Grafana dashboard asks for metrics that there are, and its panels have places of their own."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from raymtl.telemetry.metrics import COMMON_TAGS, METRICS, PREFIX, RAY_PREFIX
from tests.helpers.command_lines import ROOT

DASHBOARD = json.loads((ROOT / "cluster" / "grafana-raymtl.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DECLARED = {f"{RAY_PREFIX}{PREFIX}{m.name}": {*COMMON_TAGS, *m.tags} for m in METRICS}
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel.get("targets", [])]


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{t}-{x['refId']}" for t, x in TARGETS])
def test_queries_name_declared_metrics_and_their_tags(title: str, target: dict[str, Any]) -> None:
    asked = re.findall(r"\bray_\w+", target["expr"])
    assert asked
    assert set(asked) <= set(DECLARED)
    tags = set.intersection(*(DECLARED[name] for name in asked))
    used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    for group in re.findall(r"by \(([^)]*)\)", target["expr"]):
        used |= set(re.split(r",\s*", group))
    assert used <= tags
    assert target["expr"].count('{run=~"$run"}') == len(asked)
    assert target["datasource"]["uid"] == "${datasource}"


def test_every_metric_is_shown() -> None:
    asked = {name for _, target in TARGETS for name in re.findall(r"\bray_\w+", target["expr"])}
    assert set(DECLARED) - asked <= {"ray_raymtl_trained_steps", "ray_raymtl_epoch"}


def test_variables() -> None:
    variables = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    name, tag = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["run"]["definition"]).groups()  # type: ignore[union-attr]
    assert tag in DECLARED[name]


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        apart = [
            one[at] + one[size] <= other[at] or other[at] + other[size] <= one[at]
            for at, size in (("x", "w"), ("y", "h"))
        ]
        assert any(apart), (one, other)
