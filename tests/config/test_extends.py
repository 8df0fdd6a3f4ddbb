"""A configuration that extends another: what is merged, what is refused, and which file an error names."""

import json
from pathlib import Path

import fsspec
import pytest
import yaml

from raymtl.config.load import dump_config, load_config
from raymtl.errors import ConfigError
from tests.helpers.small_config import SMALL, small, small_raw


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.yaml"
    file.write_text(SMALL)
    return file


def extended(base: Path, text: str, name: str = "own.yaml") -> str:
    """A file beside the base."""
    file = base.parent / name
    file.write_text(f"extends: {base.name}\n{text}")
    return str(file)


def refused(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


class TestMerging:
    def test_a_file_that_adds_nothing_is_its_base(self, base):
        assert load_config(extended(base, "")) == small()

    def test_sections_merge_key_by_key_and_set_comes_last(self, base):
        path = extended(base, "train: {workers: 3, dense_optimizer: {lr: 0.5}}\n")
        base.write_text(SMALL + "train: {workers: 2, batch_size: 64, dense_optimizer: {lr: 0.1, eps: 1e-7}}\n")
        train = load_config(path, ["train.workers=5"]).train
        assert (train.workers, train.batch_size) == (5, 64)
        assert (train.dense_optimizer.lr, train.dense_optimizer.eps) == (0.5, 1e-7)

    def test_names_merge_and_new_ones_stand_last(self, base):
        raw = small_raw()
        config = load_config(extended(base, "features: {price: {kind: dense}}\ntasks: {more: {kind: real}}\n"))
        assert list(config.features) == [*raw["features"], "price"]
        assert list(config.tasks) == [*raw["tasks"], "more"]

    def test_lists_are_taken_whole(self, base):
        first = load_config(extended(base, "model: {trunk: {hidden: [64, 32, 16]}}\n"))
        assert first.model.trunk.hidden == [64, 32, 16]
        second = load_config(extended(base, "model: {trunk: {hidden: [8]}}\n"))
        assert second.model.trunk.hidden == [8]

    def test_another_type_takes_the_place_of_the_section(self, base):
        base.write_text(SMALL + "train: {sparse_optimizer: {type: rowwise_adagrad, lr: 0.3}}\n")
        optimizer = load_config(extended(base, "train: {sparse_optimizer: {type: adagrad}}\n")).train.sparse_optimizer
        assert (optimizer.type, optimizer.lr) == ("adagrad", type(optimizer)(type="adagrad").lr)

    def test_null_takes_a_name_or_a_section_away(self, base):
        base.write_text(SMALL + "tune: {trials: 3, space: {train.batch_size: {choices: [8, 16]}}}\n")
        config = load_config(extended(base, "tune: null\ntasks: {buy: null}\n"))
        assert config.tune is None
        assert list(config.tasks) == ["click"]

    def test_what_is_shown_and_saved_has_no_base(self, base):
        text = dump_config(load_config(extended(base, "name: own\n")))
        assert "extends" not in yaml.safe_load(text)
        assert load_config(None, text=text) == load_config(extended(base, "name: own\n"))


class TestPlaces:
    def test_the_base_is_seen_from_the_folder_of_its_file(self, base, monkeypatch):
        below = base.parent / "below"
        below.mkdir()
        (below / "own.yaml").write_text("extends: ../base.yaml\n")
        monkeypatch.chdir(below)
        assert load_config("own.yaml") == small()
        monkeypatch.chdir(base.parent)
        assert load_config("below/own.yaml") == small()

    def test_an_absolute_path_and_the_home_folder(self, base, monkeypatch, tmp_path_factory):
        other = tmp_path_factory.mktemp("other") / "own.yaml"
        other.write_text(f"extends: {base}\n")
        assert load_config(str(other)) == small()
        monkeypatch.setenv("HOME", str(base.parent))
        other.write_text("extends: ~/base.yaml\n")
        assert load_config(str(other)) == small()

    def test_urls(self, base):
        own = extended(base, "")
        assert load_config(f"file://{own}") == small()
        for name, text in (("base", SMALL), ("deep/own", "extends: ../base.yaml\n"), ("own", "extends: base.yaml\n")):
            with fsspec.open(f"memory://extends/{name}.yaml", "w") as file:
                file.write(text)
        assert load_config("memory://extends/own.yaml") == small()
        assert load_config("memory://extends/deep/own.yaml") == small()
        Path(own).write_text("extends: memory://extends/base.yaml\n")
        assert load_config(own) == small()


class TestRefused:
    def test_a_missing_base_names_the_file_that_wants_it(self, base):
        path = extended(base, "")
        base.unlink()
        message = refused(path)
        assert message.startswith(f"{path}: extends is `base.yaml`, but the configuration file `{base}` does not exist")
        assert "\n" not in message

    def test_a_missing_base_behind_a_url(self):
        with fsspec.open("memory://lonely/own.yaml", "w") as file:
            file.write("extends: base.yaml\n")
        assert "`memory://lonely/base.yaml` cannot be read" in refused("memory://lonely/own.yaml")

    def test_depth_two_and_circles(self, base):
        middle = extended(base, "name: middle\n", "middle.yaml")
        top = extended(Path(middle), "", "top.yaml")
        assert refused(top) == (
            f"{top}: extends is `middle.yaml`, which extends `base.yaml` in turn; a base cannot extend another "
            "file: copy those keys into `middle.yaml`"
        )
        base.write_text("extends: middle.yaml\n")
        assert "`middle.yaml` in turn" in refused(middle)
        base.write_text("extends: base.yaml\n")
        assert "`base.yaml` in turn" in refused(str(base))

    @pytest.mark.parametrize("value", ["", "3", "[base.yaml]", "{a: 1}", "''"])
    def test_something_else_than_a_path(self, base, value):
        path = extended(base, "")
        Path(path).write_text(f"extends: {value}\n")
        assert "expected the path or URL of one YAML file" in refused(path)

    def test_the_command_line_cannot_name_a_base(self, base):
        assert "write `extends` in the file" in refused(str(base), "extends=other.yaml")


class TestErrorsNameTheFile:
    def test_a_wrong_key_of_the_base(self, base):
        base.write_text(SMALL + "train: {wrokers: 2, batch_size: 0}\n")
        path = extended(base, "train: {epochs: 0}\n")
        lines = refused(path).splitlines()
        assert lines[0] == f"{path} has 3 errors:"
        found = {line.split()[0]: line.endswith(f"(in {base})") for line in lines[1:]}
        assert found == {"train.wrokers": True, "train.batch_size": True, "train.epochs": False}

    def test_a_value_that_the_file_corrects_is_no_error(self, base):
        base.write_text(SMALL + "train: {workers: 0}\n")
        assert f"train.workers is 0; expected a whole number ≥ 1 (in {base})" in refused(extended(base, ""))
        assert load_config(extended(base, "train: {workers: 1}\n")).train.workers == 1
        assert refused(str(base), "train.workers=-1").endswith("(given by --set)")

    def test_a_list_and_a_name(self, base):
        raw = small_raw()
        raw["features"]["price"] = {"kind": "dense", "mean": "high"}
        raw["model"] = {"trunk": {"type": "shared_bottom", "hidden": [4, 0]}}
        base.write_text(json.dumps(raw))
        lines = refused(extended(base, "")).splitlines()[1:]
        assert [line.split()[0] for line in lines] == ["features.price.mean", "model.trunk.hidden[1]"]
        assert all(line.endswith(f"(in {base})") for line in lines)

    def test_broken_yaml_of_the_base(self, base):
        base.write_text("data: [\n")
        assert f"{base}, line 2" in refused(extended(base, ""))
