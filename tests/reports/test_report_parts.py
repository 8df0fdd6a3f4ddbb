"""Formats, and the small arithmetic behind the plots."""

import math

import pytest

from raymtl.reports.facts import auc_remark
from raymtl.reports.plots import smooth, thin
from raymtl.reports.slices import _interval, scenario_auc, vague_scenarios
from raymtl.reports.style import PALETTE, count, duration, number, percent, short_count, significant, task_colours


def test_formats() -> None:
    assert [number(v) for v in (0.75, 0.00004, 0, None, 1234.5, -0.2)] == [
        "0.7500",
        "4.0e-05",
        "0.0000",
        "–",
        "1,234.5000",
        "-0.2000",
    ]
    assert [significant(v) for v in (0.080791, 1.2489, 1234.56, 0.0, 1.5e-7, 3.2e8, None)] == [
        "0.08079",
        "1.249",
        "1,235",
        "0",
        "1.500e-07",
        "3.200e+08",
        "–",
    ]
    assert [count(v) for v in (1234567, 0, None, math.nan)] == ["1,234,567", "0", "–", "–"]
    assert [short_count(v) for v in (950, 12_300, 4.21e6, 1.07e9, None)] == ["950", "12.3 k", "4.21 M", "1.07 B", "–"]
    assert [percent(v) for v in (0.0183, 0, None)] == ["1.8 %", "0.0 %", "–"]
    assert [duration(v) for v in (42, 185, 8040, 273_600, None, -1)] == [
        "42 s",
        "3 min 05 s",
        "2 h 14 min",
        "3 d 04 h",
        "–",
        "–",
    ]


def test_colours_go_by_place_and_start_over() -> None:
    colours = task_colours([f"t{i}" for i in range(10)])
    assert colours["t0"] == colours["t8"] == PALETTE[0]
    assert len(set(colours.values())) == len(PALETTE)


def test_thinning_keeps_the_mean_and_the_order() -> None:
    points = [(float(i), float(i % 7)) for i in range(6_000)]
    few = thin(points)
    assert len(few) == 600
    assert few == sorted(few)
    assert sum(y for _, y in few) / 600 == pytest.approx(sum(y for _, y in points) / 6_000)
    assert thin(points[:50]) == points[:50]


def test_smoothing_keeps_constants_and_follows() -> None:
    assert smooth([2.0] * 300) == pytest.approx([2.0] * 300)
    assert smooth([0.0] * 200 + [1.0] * 200)[-1] == pytest.approx(1.0, abs=1e-3)
    assert smooth([5.0, 1.0]) == [5.0, 1.0]


def test_interval_of_a_rate() -> None:
    low, high = _interval(0.1, 1000)
    assert (low, high) == pytest.approx((0.0829, 0.1202), abs=1e-4)
    assert _interval(0.0, 50)[0] == pytest.approx(0.0)


def test_what_an_auc_on_a_tile_rests_on() -> None:
    click = {"auc": 0.7, "count": 24_000, "intervals": {"auc": [0.69, 0.71]}}
    assert auc_remark({"click": click}) == "click, 95 % interval 0.6900 to 0.7100, 24 k rows"
    assert auc_remark({"click": {"auc": 0.7, "count": 9}}) == "click, no interval, 9 rows"
    assert auc_remark({"click": click, "buy": click}) == "mean of 2 tasks, 24 k rows"
    assert auc_remark({"click": click, "buy": click | {"count": 900}}) == "mean of 2 tasks, 900 to 24 k rows"


def test_bars_that_say_little_are_named_with_their_reason() -> None:
    good = {"kind": "binary", "auc": 0.7, "count": 9_000, "positives": 900, "intervals": {"auc": [0.68, 0.72]}}
    scenarios = {
        "feed": {"click": good},
        "live": {"click": good | {"positives": 99}},
        "near": {"click": good | {"positives": 8_950}},
        "wide": {"click": good | {"intervals": {"auc": [0.6, 0.8]}}},
        "none": {"click": good | {"auc": None, "positives": 0}},
    }
    said = vague_scenarios({"tasks": {"click": good}, "scenarios": scenarios}, ["click"])
    assert said == (
        "Grey bars say little: fewer than 100 positives or negatives (click in live, click in near); "
        "a 95 % interval wider than 0.1 (click in wide)."
    )
    drawn = scenario_auc({"tasks": {"click": good}, "scenarios": scenarios}, ["click"])
    assert drawn is not None
    assert "live · 99" in drawn
