"""Files, overrides, paths, round trip and hash."""

import datetime as dt
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymtl.config.load import config_from_dict, config_hash, dump_config, load_config
from raymtl.config.presets import PRESETS, apply_preset
from raymtl.config.root import Config
from raymtl.config.slots.common import Custom
from raymtl.config.slots.trunk import MMoE
from raymtl.config.yamltext import dump_yaml, parse_yaml
from raymtl.errors import ConfigError
from raymtl.storage.paths import absolute
from tests.helpers.small_config import SMALL, small, small_raw


def refused(*overrides: str, text: str | None = SMALL, path: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, text=text)
    return str(caught.value)


_HISTORY = "features.history={kind: sequence, table: user}"
NEEDED = {
    "m2m": [_HISTORY, "data.scenario={column: scenario, values: [feed]}"],
    "dupn": [_HISTORY],
    "dtrn": [_HISTORY, "model.sequence.target=[user]"],
    "pepnet": ["model.towers.features=[user]", "model.refine.features=[age]"],
    "din": [_HISTORY, "model.sequence.target=[user]"],
    "youtube": ["features.position={kind: bias}", "tables.position={rows: 10}"],
    "esm2": ["tasks.cart={parent: click}"],
    "meituan": ["tasks.order={label: buy}", "tasks.conversion={label: buy, given: click}"],
}
"""What a preset asks of a configuration beyond the small one."""


class TestFile:
    def test_a_file_is_read(self, tmp_path):
        path = tmp_path / "conf.yaml"
        path.write_text(SMALL)
        assert load_config(str(path)) == small()

    def test_a_url_is_read(self, tmp_path):
        path = tmp_path / "conf.yaml"
        path.write_text(SMALL)
        assert load_config(f"file://{path}") == small()

    def test_a_url_of_fsspec_is_read(self):
        import fsspec

        with fsspec.open("memory://folder/conf.yaml", "w") as file:
            file.write(SMALL)
        assert load_config("memory://folder/conf.yaml") == small()

    def test_a_missing_file_says_where_it_was_looked_for(self):
        message = refused(path="nowhere.yaml", text=None)
        assert "`nowhere.yaml` does not exist" in message
        assert os.getcwd() in message

    def test_a_missing_url(self, tmp_path):
        assert "cannot be read" in refused(path=f"file://{tmp_path}/nowhere.yaml", text=None)

    def test_an_unknown_scheme(self):
        assert "`nosuch://x.yaml`: unknown scheme `nosuch:`" in refused(path="nosuch://x.yaml", text=None)

    def test_a_folder(self, tmp_path):
        assert (
            refused(path=str(tmp_path), text=None) == f"`{tmp_path}` is a folder; give the path of the YAML file in it"
        )

    def test_a_binary_file(self, tmp_path):
        path = tmp_path / "conf.yaml"
        path.write_bytes(b"name: \xff")
        assert "not text in UTF-8" in refused(path=str(path), text=None)

    def test_a_byte_order_mark_is_no_part_of_the_first_key(self, tmp_path):
        path = tmp_path / "conf.yaml"
        path.write_text("\ufeff" + SMALL.strip())
        assert load_config(str(path)) == small()

    @pytest.mark.parametrize("text", ["", "# only a comment\n"])
    def test_an_empty_file(self, text):
        assert "is empty; it needs the sections" in refused(text=text)

    @pytest.mark.parametrize(("text", "found"), [("- a\n", "holds a list"), ("hello", "the single value `hello`")])
    def test_something_else_than_a_mapping(self, text, found):
        message = refused(text=text)
        assert found in message
        assert "must be a mapping" in message

    def test_overrides_alone_make_a_configuration(self):
        config = load_config(None, [f"{key}={json.dumps(value)}" for key, value in small_raw().items()])
        assert config == small()

    def test_nothing_at_all_names_what_is_missing(self):
        message = refused(text=None)
        for key in ("data", "features", "tasks", "model"):
            assert f"\n  {key} is missing; expected" in message


class TestYaml:
    def test_a_syntax_error_is_one_line_with_file_line_and_column(self):
        message = refused(text="name: x\ndata: {path: [1\n", path="conf.yaml")
        assert message.startswith("conf.yaml, line 3, column 1: ")
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("text", "line", "first"), [("a: 1\nb: 2\na: 3\n", 3, 1), ("a:\n  b: {c: 1,\n  c: 2}\n", 3, 2)]
    )
    def test_a_key_given_twice_is_refused(self, text, line, first):
        message = refused(text=text, path="conf.yaml")
        assert f"conf.yaml, line {line}, column" in message
        assert f"is given twice, first in line {first}" in message

    def test_a_merged_key_is_no_duplicate(self):
        text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a}\n"
        assert parse_yaml(text, "") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2}}

    def test_a_key_that_is_a_number_is_refused(self):
        assert "line 2, column 3: the key `2026` is not text; put it in quotes" in refused(text="tasks:\n  2026: {}\n")

    def test_two_documents_are_refused(self):
        assert "another document" in refused(text="a: 1\n---\nb: 2\n")

    def test_a_control_character_is_refused_with_its_line(self):
        assert "line 2: special characters are not allowed" in refused(text="a: 1\nb: \x01\n")

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("1.", 1.0), ("-4.5e+3", -4500.0), (".inf", float("inf")),
            ("1_000_000", 1_000_000), ("0x1F", 31), ("0o17", 15), ("010", 10), ("-3", -3), ("+3", 3),
            ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
            ("yes", "yes"), ("on", "on"), ("2026-01-31", "2026-01-31"), ("12:30", "12:30"), ("e5", "e5"),
            ("1.2.3", "1.2.3"), ("-", "-"), ("'1'", "1"), ("[1, a]", [1, "a"]),
        ],
    )  # fmt: skip
    def test_scalars_are_read_as_yaml_1_2_has_them(self, text, value):
        if text == "-":
            text = "'-'"
        parsed = parse_yaml(f"x: {text}", "")["x"]
        assert parsed == value
        assert type(parsed) is type(value)

    @settings(deadline=None)
    @given(st.text())
    def test_any_text_survives_the_round_trip(self, text):
        assert parse_yaml(dump_yaml({"x": text, "y": [text]}), "") == {"x": text, "y": [text]}

    @pytest.mark.parametrize(
        "text", ["1e5", "1_0", "010", "0o7", "yes", "null", "~", ".5", "=", "<<", "2026-01-31", "-1e-3"]
    )
    def test_text_that_looks_like_something_else_survives(self, text):
        assert parse_yaml(dump_yaml({"x": text}), "") == {"x": text}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class TestOverrides:
    def test_values_are_yaml(self):
        config = small(
            "train.workers=4", "train.dense_optimizer.lr=1e-2", "data.eval={start: 2026-01-04, end: 2026-01-04}"
        )
        assert config.train.workers == 4
        assert config.train.dense_optimizer.lr == 1e-2
        assert config.data.eval is not None
        assert config.data.eval.start == dt.date(2026, 1, 4)

    @pytest.mark.parametrize("value", ["", "null", "~"])
    def test_an_empty_value_is_null(self, value):
        assert small("data.weight=w", f"data.weight={value}").data.weight is None

    def test_lists_are_set_whole(self):
        assert small("model.towers.hidden=[8, 4]").model.towers.hidden == [8, 4]

    def test_the_last_one_wins(self):
        assert small("train.seed=1", "train.seed=2").train.seed == 2

    def test_a_value_may_hold_an_equals_sign(self):
        assert small("data.path=s3://b/x=1").data.path == "s3://b/x=1"

    def test_sections_that_are_not_in_the_file_are_made(self):
        assert small("train.schedule.warmup_steps=5").train.schedule.warmup_steps == 5

    def test_an_empty_section_of_the_file_is_filled(self):
        assert load_config(None, ["train.workers=2"], text=SMALL + "train:\n").train.workers == 2

    def test_the_preset_can_be_changed(self):
        config = small("model.preset=mmoe", "model.trunk.experts=7")
        assert isinstance(config.model.trunk, MMoE)
        assert config.model.trunk.experts == 7
        assert config.model.trunk.hidden == [128, 64]

    def test_a_key_of_the_towers_keeps_their_widths(self):
        by_type = small("model.preset=din", *NEEDED["din"], "model.towers={type: mlp, dropout: 0.1}").model.towers
        assert by_type == small("model.preset=din", *NEEDED["din"], "model.towers.dropout=0.1").model.towers
        assert by_type.hidden == [64, 32]

    def test_a_slot_can_be_changed_against_the_preset(self):
        assert small("model.trunk.type=ple").model.trunk.type == "ple"

    @pytest.mark.parametrize("override", ["train.workers", "=3", "train..workers=3", ".x=3", "train.=3"])
    def test_another_form_is_refused(self, override):
        message = refused(override)
        assert message.startswith(f"--set {override}: ")
        assert "such as `train.workers=4`" in message

    def test_a_value_that_is_not_yaml_is_refused(self):
        assert refused("train.workers=[1").startswith("--set train.workers=[1, line 1, column 3: ")

    def test_a_key_below_a_value_is_refused(self):
        assert "`data.path` is the single value `/logs`" in refused("data.path.x=1")

    def test_a_key_below_a_list_is_refused(self):
        message = refused("model.towers.hidden=[8]", "model.towers.hidden.0=4")
        assert "`model.towers.hidden` is a list" in message
        assert "not a section; set model.towers.hidden=… instead" in message

    def test_an_unknown_path_names_the_nearest_key(self):
        message = refused("train.wokers=3")
        assert message.endswith("train.wokers is an unknown key; did you mean `workers`? (given by --set)")

    def test_an_unknown_section_is_marked_too(self):
        assert "trian is an unknown key; did you mean `train`? (given by --set)" in refused("trian.workers=3")

    def test_what_the_file_says_is_not_marked(self):
        message = refused("train.workers=0", text=SMALL + "train: {batch_size: 0}")
        assert "train.workers is 0; expected a whole number ≥ 1 (given by --set)" in message
        assert message.count("given by --set") == 1

    @settings(deadline=None, max_examples=40)
    @given(values)
    def test_any_value_arrives_as_it_is(self, value):
        slot = "model.refine={type: custom, path: 'a:B'}"
        refine = small(slot, f"model.refine.options={dump_yaml({'x': value})}").model.refine
        assert isinstance(refine, Custom)
        assert refine.options == {"x": value}


class TestPaths:
    def test_relative_paths_are_taken_from_the_current_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = small("data.path=logs", "data.eval_path=../other", "output=out")
        assert config.data.path == str(tmp_path / "logs")
        assert config.data.eval_path == str(tmp_path.parent / "other")
        assert config.output == str(tmp_path / "out")
        assert small().output == str(tmp_path / "runs")
        assert config_from_dict(small_raw()).output == str(tmp_path / "runs")

    def test_stores_are_taken_from_the_current_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = small(
            "daily.store=model",
            "data.group=user",
            "tune={space: {}, presets: [loss_weights], start: {store: ../old}}",
        )
        assert config.daily.store == str(tmp_path / "model")
        assert config.tune.start.store == str(tmp_path.parent / "old")
        assert small("daily.store=s3://bucket/model", "data.group=user").daily.store == "s3://bucket/model"

    def test_the_home_folder_is_expanded(self):
        assert small("data.path=~/logs").data.path == str(Path.home() / "logs")

    @pytest.mark.parametrize("url", ["s3://bucket/logs", "gs://b/x/../y", "file:///logs", "memory://x"])
    def test_urls_stay(self, url):
        assert absolute(url) == url
        config = small(f"data.path={url}", f"output={url}")
        assert (config.data.path, config.output) == (url, url)

    def test_an_empty_path_is_refused(self):
        assert 'data.path is ""; expected a folder or a URL, not empty' in refused("data.path=''")


class TestRoundTrip:
    @pytest.mark.parametrize("preset", sorted(PRESETS))
    def test_every_preset_validates_and_comes_back(self, preset):
        overrides = (
            [f"model.preset={preset}", "tasks_subset=[click]"]
            if preset == "single_task"
            else [f"model.preset={preset}", *NEEDED.get(preset, [])]
        )
        config = small(*overrides)
        for slot, keys in PRESETS[preset].items():
            resolved = getattr(config.model, slot).model_dump()
            assert {key: resolved[key] for key in keys} == keys
        again = load_config(None, text=dump_config(config))
        assert again == config
        assert config_hash(again) == config_hash(config)

    @pytest.mark.parametrize("preset", sorted(PRESETS))
    def test_the_type_that_a_preset_has_anyway_replaces_nothing(self, preset):
        for slot, keys in PRESETS[preset].items():
            if slot not in ("order_loss", "kl_bound"):  # the only ones without types
                own = {"type": keys["type"], "dropout": 0.1}
                assert apply_preset({"preset": preset, slot: own})[slot] == {**keys, "dropout": 0.1}

    def test_a_preset_whose_slot_was_replaced_comes_back(self):
        config = small("model.preset=aitm", "model.coupler={type: none}", "model.trunk={type: mmoe, experts: 2}")
        assert load_config(None, text=dump_config(config)) == config

    def test_every_kind_of_key_comes_back(self):
        config = small(
            "name='1e5'",
            "data.eval={start: 2026-01-04, end: 2026-01-05}",
            "data.scenario={column: place, values: ['on', '1', 2]}",
            "features.tags={kind: ids, table: user, max_length: 3}",
            "features.history={kind: sequence, table: user}",
            "model.sequence.type=pooled",
            "model.refine={type: custom, path: 'my.code:Refine', options: {a: [1, x], b: {c: null}}}",
            "train.early_stop={metric: buy.auc}",
            "tables.user.init={distribution: zeros}",
        )
        text = dump_config(config)
        assert load_config(None, text=text) == config
        assert "start: 2026-01-04" in text
        assert dump_config(load_config(None, text=text)) == text

    def test_the_dump_keeps_the_order_of_the_fields(self):
        keys = [line.partition(":")[0] for line in dump_config(small()).splitlines() if line and line[0] not in " -}"]
        assert keys == list(Config.model_fields)


class TestHash:
    def test_it_is_short_and_stable(self):
        assert config_hash(small()) == config_hash(config_from_dict(small_raw()))
        assert len(config_hash(small())) == 16
        int(config_hash(small()), 16)

    def test_name_and_output_do_not_count(self):
        assert config_hash(small("name=a", "output=/a")) == config_hash(small("name=b", "output=/b"))

    def test_what_only_serving_asks_for_does_not_count(self):
        raw = small_raw()
        name = next(iter(raw["features"]))
        other = {**raw, "features": {**raw["features"], name: {**raw["features"][name], "side": "item"}}}
        assert config_hash(config_from_dict(raw)) == config_hash(config_from_dict(other))

    def test_every_other_key_counts(self):
        assert len({config_hash(small(*o)) for o in ((), ("train.seed=1",), ("tasks.buy.weight=2",))}) == 3

    def test_the_order_of_the_tasks_counts(self):
        raw = small_raw()
        raw["tasks"] = {"click": {}, "buy": {}}
        turned = {**raw, "tasks": {"buy": {}, "click": {}}}
        assert config_hash(config_from_dict(raw)) != config_hash(config_from_dict(turned))
