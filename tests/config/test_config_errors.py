"""Every mistake is one line with the dotted path, what was found, what was expected, and the nearest name."""

import pytest

from raymtl.config.load import config_from_dict, load_config
from raymtl.errors import ConfigError
from tests.helpers.small_config import small, small_raw


def put(raw, path, value):
    *keys, last = path.split(".")
    for key in keys:
        raw = raw.setdefault(key, {})
    raw[last] = value


def refused(**changes) -> str:
    """The error after the keys (dots as `__`) were set in the small configuration."""
    raw = small_raw()
    for path, value in changes.items():
        put(raw, path.replace("__", "."), value)
    with pytest.raises(ConfigError) as caught:
        config_from_dict(raw, "conf.yaml")
    return str(caught.value)


JARGON = ("Input should", "Extra inputs", "Field required", "validation error", "Value error", "pydantic", "type=")

CASES = [
    # unknown keys
    ({"train__wokers": 2}, "train.wokers is an unknown key; did you mean `workers`?"),
    ({"trian": {}}, "trian is an unknown key; did you mean `train`?"),
    ({"batch_size": 2}, "batch_size is an unknown key; it belongs to `train`"),
    ({"lr": 2}, "lr is an unknown key; it belongs to `table_defaults` or `tables.<name>` or `train.dense_optimizer`"),
    ({"data__train__from": 2}, "data.train.from is an unknown key; use one of `start`, `end`"),
    ({"features__user__tabel": "x"}, "features.user.tabel is an unknown key of `id`; did you mean `table`?"),
    (
        {"features__gap": {"kind": "sequence_dense", "of": "seen", "side": "item"}},
        "features.gap.side is an unknown key of `sequence_dense`; numbers have that of their history: set it at the feature that "
        "`of` names",
    ),
    (
        {"features__gap": {"kind": "sequence_dense", "of": "seen", "max_length": 5}},
        "features.gap.max_length is an unknown key of `sequence_dense`; numbers have that of their history",
    ),
    (
        {"features__tags": {"kind": "ids", "table": "user", "weights": ""}},
        'features.tags.weights is ""; expected text, not empty, or null',
    ),
    ({"tables__user__dimm": 3}, "tables.user.dimm is an unknown key; did you mean `dim`?"),
    ({"tasks__buy__parnt": "click"}, "tasks.buy.parnt is an unknown key; did you mean `parent`?"),
    ({"model__trunk": {"type": "mmoe", "expert": 3}}, "model.trunk.expert is an unknown key of `mmoe`; did you mean `experts`?"),
    (
        {"model__trunk": {"experts": 3}},
        "model.trunk.experts is an unknown key of `shared_bottom`; it belongs to `model.trunk` with `type: mmoe`",
    ),
    # wrong types and ranges
    ({"train__workers": 0}, "train.workers is 0; expected a whole number ≥ 1"),
    ({"train__workers": "two"}, "train.workers is the text `two`; expected a whole number ≥ 1"),
    ({"train__workers": 1.5}, "train.workers is 1.5; expected a whole number ≥ 1"),
    ({"train__workers": True}, "train.workers is true; expected a whole number ≥ 1"),
    ({"train__workers": None}, "train.workers is null; expected a whole number ≥ 1"),
    ({"train__use_gpu": "maybe"}, "train.use_gpu is `maybe`; expected `true` or `false`"),
    ({"train__clip_grad_norm": -1}, "train.clip_grad_norm is -1; expected a number > 0, or null"),
    ({"train__step_timeout_s": float("inf")}, "train.step_timeout_s is inf; expected a number ≥ 1"),
    ({"train__schedule": {"final_factor": 2}}, "train.schedule.final_factor is 2; expected a number ≥ 0 and ≤ 1"),
    (
        {"train__dense_optimizer": {"betas": [0.9, 1]}},
        "train.dense_optimizer.betas[1] is 1; expected a number ≥ 0 and < 1",
    ),
    (
        {"train__dense_optimizer": {"betas": [0.9]}},
        "train.dense_optimizer.betas[1] is missing; expected a number ≥ 0 and < 1",
    ),
    (
        {"train__dense_optimizer": {"betas": 0.9}},
        "train.dense_optimizer.betas is 0.9; expected a list of 2 entries, each a number ≥ 0 and < 1",
    ),
    ({"model__towers": {"hidden": [8, 0]}}, "model.towers.hidden[1] is 0; expected a whole number ≥ 1"),
    ({"model__towers": {"hidden": 8}}, "model.towers.hidden is 8; expected a list, each a whole number ≥ 1"),
    (
        {"model__trunk": {"type": "mmoe", "hidden": []}},
        "model.trunk.hidden is []; expected a list with at least 1 entry, each a whole number ≥ 1",
    ),
    ({"features__old": {"kind": "bucket", "edges": []}}, "features.old.edges is []; expected a list with at least 1 entry"),
    (
        {"features__old": {"kind": "bucket", "edges": [1, 3, 2]}},
        "features.old.edges is [1, 3, 2]; 2.0 follows 3.0; list the edges in ascending order, each once",
    ),
    (
        {"features__old": {"kind": "bucket", "edges": [16777216, 16777217]}},
        "16777217.0 follows 16777216.0; list the edges in ascending order, each once (as float32)",
    ),
    (
        {"features__old": {"kind": "bucket", "edges": [1, 2]}, "tables__old": {"rows": 2}},
        "tables.old.rows is 2, but the buckets of features.old need 3; set it to 3 or more, or leave the table out",
    ),
    (
        {"features__both": {"kind": "cross", "of": ["user"]}, "tables__both": {"rows": 9}},
        "features.both.of is [\"user\"]; expected a list of 2 to 4 names of features",
    ),
    (
        {"features__both": {"kind": "cross", "of": ["user"] * 5}, "tables__both": {"rows": 9}},
        "expected a list of 2 to 4 names of features",
    ),
    (
        {"features__both": {"kind": "cross", "of": ["user", "uzer"]}, "tables__both": {"rows": 9}},
        "features.both.of names `uzer`, which is not one of the features `user`; did you mean `user`?",
    ),
    (
        {"features__both": {"kind": "cross", "of": ["user", "age"]}, "tables__both": {"rows": 9}},
        "features.both.of names `age`, a feature of kind `dense`; only the kinds `id` and `bucket` can be crossed",
    ),
    (
        {"features__both": {"kind": "cross", "of": ["user", "user"]}, "tables__both": {"rows": 9}},
        "features.both.of names `user` 2 times; list it once",
    ),
    (
        {
            "features__old": {"kind": "bucket", "column": "age", "edges": [30]},
            "features__both": {"kind": "cross", "of": ["user", "old"]},
            "tables__both": {"rows": 9, "id_space": "direct"},
        },
        "tables.both.id_space is `direct`, but the IDs of features.both are hashes; use `hash` or `map`",
    ),
    ({"features__age__clip": [5, 1]}, "features.age.clip is [5, 1]; the first number must be below the second"),
    ({"features__age__clip": [None, None]}, "features.age.clip is [null, null]; it changes nothing; set"),
    ({"features__age__clip": [1]}, "features.age.clip[1] is missing; expected a number, or null"),
    ({"features__age__clip": [0, 1e39]}, "features.age.clip[1] is 1e+39; expected a number up to 3.4e+38"),
    ({"features": {}}, "features is {}; expected a mapping from names to sections with at least 1 entry"),
    ({"train": 3}, "train is 3; expected a section with keys such as `workers`, `use_gpu`, `cpus_per_worker`"),
    ({"tables": [1]}, "tables is [1]; expected a mapping from names to sections"),
    ({"model__trunk": 3}, "model.trunk is 3; expected a section whose `type` is one of `shared_bottom`, `mmoe`"),
    ({"train__pipeline": "y" * 200}, f"train.pipeline is `{'y' * 60}…`; expected one of `sparse_dist`, `none`"),
    # choices
    ({"train__precision": "fp16"}, "train.precision is `fp16`; expected one of `auto`, `fp32`, `bf16`"),
    ({"train__precision": "BF16"}, "expected one of `auto`, `fp32`, `bf16`; did you mean `bf16`?"),
    ({"tables__user__id_space": "mapp"}, "id_space is `mapp`; expected one of `hash`, `direct`, `map`; did you mean `map`?"),
    (
        {"tables__user__id_space": "zch"},
        "tables.user.id_space is `zch`; TorchRec's managed collision trains on CUDA only, and raymtl does not yet publish which "
        "ID holds which of its rows; use `map`",
    ),
    ({"table_defaults__id_space": "zch"}, "table_defaults.id_space is `zch`; TorchRec's managed collision trains on CUDA only"),
    ({"tasks__buy__kind": "binery"}, "buy.kind is `binery`; expected one of `binary`, `fraction`, "),
    (
        {"model__trunk": {"type": "mmo"}},
        "trunk.type is `mmo`; expected one of `shared_bottom`, `mmoe`, `ple`, `single_task`, `m2m`, `custom`",
    ),
    ({"model__trunk": {"type": [1]}}, "model.trunk.type is [1]; expected one of `shared_bottom`"),
    ({"model__coupler": {"width": 8}}, "model.coupler.type is missing; expected one of `none`, `ait`, `product`"),
    ({"features__age": {}}, "features.age.kind is missing; expected one of `id`, `ids`, `sequence`, `dense`, `bucket`"),
    ({"model__preset": "mmo"}, "model.preset is `mmo`; expected one of `single_task`, `shared_bottom`, `mmoe`"),
    ({"model__preset": "mmo"}, "did you mean `mmoe`?"),
    # missing
    ({"model": {}}, "model.trunk is missing; expected a section whose `type` is one of `shared_bottom`"),
    ({"tables": {"user": {}}}, "tables.user.rows is missing; expected a whole number ≥ 1"),
    ({"data__train": {"start": "2026-01-01"}}, "data.train.end is missing; expected a day, `YYYY-MM-DD`"),
    # names and text
    ({"features__u-x": {"kind": "dense"}}, "features.u-x: `u-x` cannot be a name here; expected a name of letters, digits"),
    ({"name": "a/b"}, "name is `a/b`; expected a name of letters, digits, `_`, `.` and `-`"),
    ({"name": 2026}, "name is 2026; expected a name of letters"),
    ({"data__group": 2026}, "data.group is 2026; expected text, or null; put it in quotes to make it text"),
    (
        {"model__input": {"type": "custom", "path": "mine.Input"}},
        "model.input.path is `mine.Input`; expected the import path of a class, `package.module:Class`",
    ),
    # days
    ({"data__train__start": 20260101}, "data.train.start is 20260101; a day is written YYYY-MM-DD"),
    ({"data__train__start": "2026-1-1"}, "data.train.start is `2026-1-1`; a day is written YYYY-MM-DD"),
    ({"data__train__start": "2026-02-30"}, "data.train.start is `2026-02-30`; expected a day, `YYYY-MM-DD`"),
    ({"data__train__end": "2025-01-01"}, "data.train.end (2025-01-01) is before start (2026-01-01); swap them"),
    # scenarios
    ({"data__scenario": {"column": "c", "values": ["a", "a"]}}, "data.scenario.values has `a` 2 times; list it once"),
    ({"data__scenario": {"column": "c", "values": ["all"]}}, "data.scenario.values has `all`, a reserved name; remove it"),
    ({"data__scenario": {"column": "c", "values": []}}, "data.scenario.values is []; expected a list with at least 1 entry"),
    ({"data__scenario": {"column": "c", "values": [1.5]}}, "data.scenario.values[0] is 1.5; expected text or a whole number"),
    ({"data__scenario": {"column": "c", "values": [True]}}, "data.scenario.values[0] is true; expected text or a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), CASES)
def test_the_sentence(changes, sentence):
    message = refused(**changes)
    assert message.startswith("conf.yaml: ")
    assert sentence in message
    assert "\n" not in message
    assert not any(word in message for word in JARGON)


def test_a_preset_that_is_no_text():
    assert 'model.preset is ["mmoe"]; expected text, or null' in refused(model__preset=["mmoe"])


def test_an_invalid_entry_of_a_union_is_told_once():
    assert refused(data__scenario={"column": "c", "values": [1.5, 2.5]}).count("expected text or a whole number") == 2


def test_all_errors_are_listed_one_per_line():
    message = refused(train__wokers=2, data__weigth="w", tasks__buy__kind="x")
    first, *rest = message.splitlines()
    assert first == "conf.yaml has 3 errors:"
    assert [line.split()[0] for line in rest] == ["data.weigth", "tasks.buy.kind", "train.wokers"]


def test_a_long_list_of_errors_is_cut():
    message = refused(tasks={f"t{n}": {"weight": -1} for n in range(15)})
    assert message.startswith("conf.yaml has 15 errors:")
    assert message.splitlines()[-1].strip() == "… and 5 more"
    assert len(message.splitlines()) == 12


def test_an_empty_configuration_names_every_missing_section():
    with pytest.raises(ConfigError) as caught:
        config_from_dict({})
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == ["data", "features", "tasks", "model"]


def test_the_traceback_holds_no_pydantic_error():
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["train.workers=0"], text="data: {}")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("path", ["table_defaults.dim", "tables.user.dim"])
@pytest.mark.parametrize("dim", [1, 2, 3, 6, 18])
def test_a_width_that_the_kernels_lack_is_refused(path: str, dim: int) -> None:
    with pytest.raises(ConfigError) as error:
        small(f"{path}={dim}")
    assert str(error.value) == (
        f"the configuration: {path} is {dim}; expected a multiple of 4, as fbgemm's kernels need, up to 8192 (given by --set)"
    )


@pytest.mark.parametrize("path", ["features.{}.kind=dense", "name={}"])
def test_a_name_that_no_file_could_have_is_refused(path: str) -> None:
    small(path.format("n" * 100))
    with pytest.raises(ConfigError, match="at most 100 characters"):
        small(path.format("n" * 101))
