"""What the switches of synthetic logs add: engagement, conflict, telling nulls; and that they add nothing unasked."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymtl.config.load import config_from_dict, load_config
from raymtl.data.units import plan_input
from raymtl.synth import ScenarioSpec, SynthSpec, synth_config, write_logs
from raymtl.synth.calibrate import calibrate
from raymtl.synth.columns import LABELS, Columns, label_columns
from raymtl.synth.engagement import ACTIONS, RATES
from raymtl.synth.rows import Rows
from raymtl.synth.shard import Shard
from raymtl.synth.truth import BUY, CART, CLICK

SPEC = SynthSpec(days=2, rows_per_day=40_000, users=1000, items=500)
SMALL = SynthSpec(days=2, rows_per_day=3000, users=200, items=150, shards=2)
EVERYTHING = {
    "behaviours": True,
    "engagement": True,
    "spend": True,
    "conflict": 0.7,
    "missing_signal": 0.5,
    "position": "bias",
}


def changed(spec: SynthSpec, **fields) -> SynthSpec:
    return SynthSpec.model_validate({**spec.model_dump(), **fields})


def table_of(out) -> pa.Table:
    return pa.concat_tables(pq.read_table(f, partitioning=None) for f in sorted(out.glob("ds=*/*.parquet")))


def blocks(spec: SynthSpec) -> list[Rows]:
    """The first day, in memory."""
    return list(Shard(spec, 0, calibrate(spec)).rows(0))


def truth(spec: SynthSpec) -> np.ndarray:
    """P(click), P(cart), P(buy), ... of the first day, [N, 6]."""
    return np.concatenate([rows.truth for rows in blocks(spec)]).astype(float)


@pytest.fixture(scope="module")
def engaged(tmp_path_factory) -> pa.Table:
    out = tmp_path_factory.mktemp("engaged")
    write_logs(changed(SPEC, engagement=True), str(out))
    return table_of(out)


# made before there was any switch; a numpy that draws or rounds otherwise needs new ones, a change of the code must not
REFERENCE = "bd476660a6c6f389426fd176008c50f7"
# fmt: off
REFERENCE_MEANS = {
    "user_clicks_30d": 137.3627, "price": 27.43925, "item_age_days": 21.99933, "item_ctr_7d": 0.1280773, "rating": 3.667644,
    "page_views": 2.125167, "watch_time": 31.43738, "weight": 0.98, "p_click": 0.1665846, "p_cart": 0.04399807,
    "p_buy": 0.013584, "p_click_first": 0.2519951, "mean_page_views": 2.138358, "mean_watch_time": 28.78028,
}
# fmt: on


def test_without_switches_the_logs_are_what_they_were(tmp_path):
    """Integers, booleans and strings are equal, floating-point columns have the same means."""
    write_logs(SMALL, str(tmp_path))
    table, digest, means = table_of(tmp_path), hashlib.sha256(), {}
    for name in table.column_names:
        column = table[name].cast(pa.int64()) if pa.types.is_timestamp(table[name].type) else table[name]
        if pa.types.is_floating(column.type):
            means[name] = pc.mean(column.cast(pa.float64())).as_py()
        else:
            digest.update(f"{name}:{column.to_pylist()}".encode())
    assert digest.hexdigest()[:32] == REFERENCE
    assert means == pytest.approx(REFERENCE_MEANS, rel=1e-5)


def test_everything_switched_on_gives_the_same_rows_however_they_are_written(tmp_path):
    spec = changed(SMALL, **EVERYTHING)
    write_logs(spec, str(tmp_path / "one"))
    write_logs(changed(spec, rows_per_file=700, row_group_rows=200), str(tmp_path / "cut"))
    write_logs(spec, str(tmp_path / "two"), processes=2)
    want = table_of(tmp_path / "one")
    assert table_of(tmp_path / "cut").equals(want)
    assert table_of(tmp_path / "two").equals(want)
    assert {*label_columns(spec), "hist_buys", "p_follow", "mean_stars"} <= set(want.column_names)


def test_spend_changes_nothing_but_what_it_adds_and_has_its_true_mean(tmp_path):
    spec = changed(SPEC, days=1, buy_rate=0.01)
    for name, spend in (("without", False), ("with", True)):
        write_logs(changed(spec, spend=spend), str(tmp_path / name))
    plain, table = table_of(tmp_path / "without"), table_of(tmp_path / "with")
    assert table.drop_columns(["spend", "mean_spend"]).equals(plain)
    spent, buy = table["spend"].to_numpy(), table["buy"].to_numpy()
    known = ~np.isnan(spent)
    assert np.array_equal(known, ~np.isnan(buy))
    assert np.array_equal(spent[known] > 0, buy[known] > 0)
    assert (spent[known] == 0).mean() == pytest.approx(0.99, abs=0.005)
    mean = table["mean_spend"].to_numpy()[known]
    assert spent[known].mean() == pytest.approx(mean.mean(), abs=4 * float(spent[known].std()) / len(mean) ** 0.5)
    assert synth_config(changed(spec, spend=True), str(tmp_path))["tasks"]["spend"]["truth"] == "mean_spend"


def test_engagement_changes_nothing_but_what_it_adds(engaged, tmp_path):
    write_logs(SPEC, str(tmp_path))
    plain = table_of(tmp_path)
    assert engaged.select(plain.column_names).equals(plain)
    added = {*ACTIONS, "stars", *(f"p_{name}" for name in ACTIONS), "mean_stars"}
    assert set(engaged.column_names) - set(plain.column_names) == added


@pytest.mark.parametrize("name", ACTIONS)
def test_actions_come_at_their_true_rates_and_only_after_a_click(engaged, name):
    label, chance = engaged[name].to_numpy(), engaged[f"p_{name}"].to_numpy().astype(float)
    assert str(engaged[name].type) == "int8"
    assert engaged[name].null_count == 0
    assert (label <= engaged["click"].to_numpy()).all()
    assert (chance <= engaged["p_click"].to_numpy()).all()
    tenth = np.searchsorted(np.quantile(chance, np.arange(1, 10) / 10), chance)
    for group in (np.ones(len(label), bool), *(tenth == n for n in range(10))):
        assert abs((label - chance)[group].sum()) < 4 * np.sqrt((chance * (1 - chance))[group].sum()) + 1
    assert chance.mean() == pytest.approx(RATES[ACTIONS.index(name)], rel=0.15)


def test_stars_are_integers_and_given_after_a_click_only(engaged):
    stars, mean = engaged["stars"].to_numpy(), engaged["mean_stars"].to_numpy().astype(float)
    given = ~np.isnan(stars)
    assert (given == (engaged["click"].to_numpy() == 1)).all()
    assert set(np.unique(stars[given])) == {1, 2, 3, 4, 5}
    error = (stars - mean)[given]
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(given.sum())
    assert np.corrcoef(stars[given], mean[given])[0, 1] > 0.3


def test_tastes_of_the_engagement_agree_in_part_and_conflict_in_part(engaged):
    """Correlation of the logit of each action given a click with the click's."""
    click = engaged["p_click_first"].to_numpy().astype(float)
    shown = engaged["p_click"].to_numpy().astype(float)
    given = {name: engaged[f"p_{name}"].to_numpy() / shown for name in ACTIONS}
    with_click = {n: np.corrcoef(np.log(click / (1 - click)), np.log(p / (1 - p)))[0, 1] for n, p in given.items()}
    assert with_click["like"] > 0.3
    assert with_click["favourite"] > 0.2
    assert with_click["comment"] < -0.3
    assert with_click["follow"] < -0.3


def test_conflict_turns_cart_and_buy_against_the_click():
    correlations = []
    for conflict in (0.0, 0.5, 1.0):
        logs = np.log(truth(changed(SPEC, conflict=conflict)))
        correlations.append([np.corrcoef(logs[:, CLICK], logs[:, o])[0, 1] for o in (CART, BUY)])
    cart, buy = np.array(correlations).T
    assert cart[0] > 0.8 > 0.6 > cart[1] > 0.1 > 0 > cart[2]
    assert buy[0] > buy[1] > buy[2]


def test_conflict_leaves_the_click_as_it_is_and_the_rates_about_right():
    plain, against = truth(SPEC), truth(changed(SPEC, conflict=1.0))
    assert against[:, CART:].mean(axis=0)[:2] == pytest.approx([SPEC.cart_rate, SPEC.buy_rate], rel=0.1)
    first = SPEC.request_rows * (SPEC.rows_per_day // SPEC.request_rows // SPEC.refreshes_per_day)
    np.testing.assert_array_equal(plain[:first, CLICK], against[:first, CLICK])


def effect_of_nulls(signal: float, column: str) -> tuple[float, float]:
    """Share of rows with a null, and how far the true click logit is from that of the same items on days with a value."""
    spec = changed(SPEC, missing_signal=signal, drift=0.0, history=0, days=4, new_items=0.0, new_users=0.0)
    shard, item, null, logit = Shard(spec, 0, calibrate(spec)), [], [], []
    for day in range(spec.days):
        for rows in shard.rows(day):
            values = rows.day.items.price if column == "price" else rows.day.item_rating
            item.append(rows.item.reshape(-1))
            null.append(np.isnan(values)[item[-1]])
            logit.append(np.log(rows.truth[:, 3] / (1 - rows.truth[:, 3])))
    item, null, logit = map(np.concatenate, (item, null, logit))
    rows = [np.bincount(item[m], minlength=spec.items) for m in (null, ~null)]
    sums = [np.bincount(item[m], logit[m], spec.items) for m in (null, ~null)]
    both = np.minimum(*rows) >= 50
    apart = (sums[0] / np.maximum(rows[0], 1) - sums[1] / np.maximum(rows[1], 1))[both]
    return float(null.mean()), float(apart.mean()) if len(apart) else 0.0


@pytest.mark.parametrize(("column", "shift"), [("price", -0.6), ("rating", 0.5)])
def test_withheld_values_tell_something_and_no_id_tells_them(column, shift):
    """The same item is null on one day and not on another, and its score moves with it; without the signal never."""
    rare, none = effect_of_nulls(0.0, column)
    often, told = effect_of_nulls(1.0, column)
    assert rare < 0.2
    assert often == pytest.approx(1 - (1 - rare) * 0.75, abs=0.06)
    assert none == 0
    assert told == pytest.approx(shift, abs=0.15)


def test_a_tiny_scenario_has_its_share_its_rate_and_its_own_truth():
    shares = (("feed", 0.7, 0.12), ("search", 0.29, 0.2), ("live", 0.01, 0.16))
    kinds = [ScenarioSpec(name=name, share=share, click_rate=rate) for name, share, rate in shares]
    spec = changed(SPEC, scenarios=kinds, rows_per_day=200_000, users=3000)
    rows = blocks(spec)
    scenario = np.repeat(np.concatenate([r.scenario for r in rows]), spec.request_rows)
    chance = np.concatenate([r.truth[:, CLICK] for r in rows])
    assert (scenario == 2).mean() == pytest.approx(0.01, abs=0.002)
    assert chance[scenario == 2].mean() == pytest.approx(0.16, rel=0.2)
    shard, day = Shard(spec, 0), rows[0].day
    draw = np.random.default_rng(0)
    user, item = day.draw_user(draw.random(5000)), day.draw_item(draw.random((5000, 10)))
    hour, nothing = np.full(5000, 20), np.zeros((5000, 0), int)
    feed, live = (
        shard._scores(day, (user, np.full(5000, s), hour, item), nothing, nothing > 0, None)[:, :, CLICK].ravel()
        for s in (0, 2)
    )
    agreement = np.corrcoef(feed, live)[0, 1]
    assert 0.6 < agreement < 0.97  # what feed and search teach helps in live, but a fifth of its taste is its own


def test_everything_switched_on_has_a_configuration_that_fits(tmp_path):
    spec = changed(SMALL, **EVERYTHING)
    summary = write_logs(spec, str(tmp_path))
    config = load_config(summary.config)
    assert plan_input(config, "train").rows == plan_input(config, "eval").rows == 3000
    assert set(config.tasks) == set(label_columns(spec)) == set(summary.label_means)
    kinds = {name: feature.kind for name, feature in config.features.items()}
    assert kinds["position"] == "bias"
    assert [n for n, kind in kinds.items() if kind == "sequence"] == [
        "hist_items", "hist_carts", "hist_buys", "hist_kinds", "hist_gaps", "hist_hours"
    ]  # fmt: skip
    assert {config.table_of(name) for name in ("hist_items", "hist_carts", "hist_buys")} == {"item_id"}
    table = table_of(tmp_path)
    for name in ("hist_kinds", "hist_gaps", "hist_hours"):
        assert config.tables[name].id_space == "direct"
        assert pc.max(pc.list_flatten(table[name])).as_py() < config.tables[name].rows
    assert config.model.bias.tasks == ["click", "cart", "buy", *ACTIONS]
    assert all(task.truth in table.column_names for task in config.tasks.values())


@pytest.mark.parametrize(
    ("preset", "logs", "model"),
    [
        ("mmoe", {"behaviours": True, "engagement": True}, {}),
        ("zhihu", {"engagement": True}, {}),
        ("youtube", {"engagement": True, "position": "bias"}, {}),
        ("meituan", {"missing_signal": 0.5}, {}),
        ("m2m", {"behaviours": True}, {"sequence": {"type": "transformer"}}),
        (
            "din",
            {"interest": 1.0},
            {
                "sequence": {
                    "type": "din",
                    "behaviours": {"clicks": ["hist_items", "hist_categories"]},
                    "target": ["item_id", "category"],
                    "search": {"clicks": "category"},
                }
            },
        ),
        ("dtrn", {"behaviours": True}, {"sequence": {"type": "tim", "target": ["item_id", "category"]}}),
        (
            "dupn",
            {"behaviours": True},
            {
                "sequence": {
                    "type": "dupn",
                    "item": ["hist_items"],
                    "properties": ["hist_kinds", "hist_gaps", "hist_hours"],
                }
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_configuration_takes_the_presets_that_the_logs_are_for(preset, logs, model):
    config = synth_config(changed(SMALL, **logs), "/logs")
    config["model"] |= {"preset": preset, **model}
    if preset == "dupn":  # its properties are of one behaviour
        del config["features"]["hist_carts"], config["features"]["hist_buys"]
    if preset == "meituan":
        config["tasks"]["conversion"] = {"label": "buy", "observed": "buy_mature", "given": "click"}
    assert config_from_dict(config).model.preset == preset


def test_without_histories_there_is_nothing_to_tell_about_their_steps(tmp_path):
    spec = changed(SMALL, behaviours=True, history=0)
    config = load_config(write_logs(spec, str(tmp_path)).config)
    assert not any(name.startswith("hist") for name in (*config.features, *config.tables))
    assert pc.max(pc.list_value_length(table_of(tmp_path)["hist_buys"])).as_py() == 0


def test_logs_of_a_version_without_the_switches_are_known_again(tmp_path):
    spec = changed(SMALL, rows_per_day=200)
    write_logs(spec, str(tmp_path))
    marker = tmp_path / "_synth.json"
    old = {key: value for key, value in json.loads(marker.read_text()).items() if key not in EVERYTHING}
    marker.write_text(json.dumps(old, indent=1))
    assert write_logs(spec, str(tmp_path)).rows == 400


def test_every_column_of_the_switches_is_described():
    """The columns of the logs without switches: test_convert_docs.py."""
    page = (Path(__file__).parents[2] / "docs" / "synth.md").read_text()
    described = page.split("## Columns")[1].split("## The world")[0]
    spec = changed(SMALL, **EVERYTHING)
    rows = next(Shard(spec, 0, calibrate(spec)).rows(0))
    assert [n for n in Columns(spec, 0).table(rows).column_names if f"`{n}`" not in described] == []


def test_the_labels_of_the_funnel_stay_first():
    assert label_columns(SPEC) == LABELS
    assert label_columns(changed(SPEC, engagement=True))[: len(LABELS)] == LABELS
