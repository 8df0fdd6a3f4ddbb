"""Losses and weights of tasks change nothing that is served."""

from pathlib import Path

import numpy as np

from raymtl.config.load import config_from_dict
from raymtl.serving.export import export_version
from raymtl.serving.version import open_version, read_dense
from tests.helpers.exported_programs import predictions
from tests.helpers.served_version import few_features, publish_version, raw_features, write_logs

LOSSES = {
    "own": {"weight": 0.5, "smoothing": 0.1},
    "focal": {},
    "ranknet": {"within": "group"},
    "listwise": {"within": "group"},
}


def test_exported_programs_are_those_without_them(tmp_path: Path) -> None:
    write_logs(tmp_path)
    plain = few_features(tmp_path, group="user")
    raw = plain.model_dump(mode="json")
    raw["tasks"]["click"] |= {"losses": LOSSES, "weight_column": "age"}
    found = []
    for name, config in (("v1", plain), ("v2", config_from_dict(raw))):
        evaluated = publish_version(tmp_path, config, name)
        version = open_version(str(tmp_path / "store"))
        facts = export_version(version, str(tmp_path / name), "none")
        full, split = predictions(tmp_path / name, facts, raw_features(tmp_path))
        np.testing.assert_allclose(full, evaluated, atol=1e-6)
        np.testing.assert_allclose(split, evaluated, atol=1e-6)
        found.append((full, facts["programs"]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_the_arrival_head_is_not_served(tmp_path: Path) -> None:
    """How labels arrive is one more head in the version, which no prediction reads."""
    write_logs(tmp_path)
    raw = few_features(tmp_path).model_dump(mode="json")
    raw["tasks"]["click"] |= {"delay_days": 2, "early_labels": {"time": "buy"}}
    evaluated = publish_version(tmp_path, config_from_dict(raw))
    version = open_version(str(tmp_path / "store"))
    assert any(".arrival." in name for name in read_dense(version))
    facts = export_version(version, str(tmp_path / "program"), "none")
    assert not any("arrival" in column["name"] for column in facts["outputs"])
    for found in predictions(tmp_path / "program", facts, raw_features(tmp_path)):
        np.testing.assert_allclose(found, evaluated, atol=1e-6)
