"""The reference page and the JSON schema."""

import json
from pathlib import Path

import pytest

from raymtl.config.presets import PRESETS
from raymtl.config.reference import json_schema, reference
from raymtl.config.root import Config
from raymtl.config.schema import sections
from tests.helpers.small_config import small_raw

PAGE = Path(__file__).parent.parent.parent / "docs" / "config.md"


def test_the_page_is_current():
    current = PAGE.exists() and PAGE.read_text() == reference()
    assert current, "docs/config.md is not what the classes in raymtl/config say; run `make docs`"


def test_every_key_has_a_meaning():
    silent = [
        f"{found.path}.{key}"
        for found in sections(Config)
        for key, f in found.section.model_fields.items()
        if not f.description
    ]
    assert silent == []


def test_every_section_has_a_meaning():
    assert [found.path for found in sections(Config) if not found.section.__doc__] == []


def test_every_link_leads_to_a_heading():
    text = reference()
    anchors = {
        "".join(c for c in line.lstrip("# ").strip("`").lower() if c.isalnum() or c in "_-")
        for line in text.splitlines()
        if line.startswith("## ")
    }
    links = {part.split(")")[0] for part in text.split("](#")[1:]}
    assert links <= anchors


def test_every_preset_is_listed():
    assert all(f"| `{name}` |" in reference() for name in PRESETS)


def test_tables_of_the_page_have_five_cells():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert {line.replace("\\|", "").count("|") for line in rows} <= {6, 3}


def test_the_json_schema_accepts_a_file_that_names_a_preset():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    json.dumps(schema)
    jsonschema.validate(small_raw(), schema)
    raw = small_raw()
    raw["train"] = {"wokers": 1}
    jsonschema.validate({"extends": "base.yaml", "train": {"workers": 2}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, schema)
    assert schema["$defs"]["Train"]["properties"]["workers"]["description"]
