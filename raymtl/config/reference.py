"""The reference of every configuration key, generated from the classes; `make docs` writes it to docs/config.md."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from raymtl.config.base import Section
from raymtl.config.features import Table, TableDefaults
from raymtl.config.presets import PRESETS
from raymtl.config.roles import purpose
from raymtl.config.root import Config
from raymtl.config.schema import FieldType, SectionAt, field_type, in_words, sections
from raymtl.config.source import EXTENDS

INTRO = """\
<!-- Written by `make docs` from the classes in raymtl/config: edit their docstrings instead. -->
# Configuration

One YAML file describes a run. `raymtl config schema` prints its JSON schema for editors. An error message names the dotted path,
what was found, what was expected and, for a misspelt name, the closest valid one.

* Any key can also be set on the command line: `--set train.workers=4 --set model.trunk.hidden=[256,128]`. The value is YAML. A
  list replaces the old one. `--set data.weight=` means `null`.
* `null` and an omitted key mean the same unless the text says otherwise.
* Numbers may be written `1e-3` and `1_000_000`. Days are written `2026-01-31`. `yes`, `no`, `on` and `off` are text; a flag is
  `true` or `false`.
* A key given twice is an error.
* `extends: base.yaml` inherits from another file (its path is relative to this file), and this file overrides it. Sections merge
  key by key; so do `features`, `tables` and `tasks`, by name. Lists are replaced, not merged; so is a section with another `type`
  or `kind`. `null` removes a section or an entry. Entries of the base come first. A base cannot extend a third file. `--set`
  applies afterwards. `raymtl config show` prints the result, a run saves it and `raymtl submit` sends it; it contains no
  `extends`.
* A relative local path starts at the current working directory, and `~` is your home folder; URLs do not change.

Keys without a default are required. The column *role* says when a key may change; a section without a role has keys with their
own roles.

| role | resuming a run | finishing a day of `raymtl daily` | resuming a search |
| --- | --- | --- | --- |
| learning | must not change | a change restarts the day | must not change |
| single run | must not change | not used | must not change |
| publishing | must not change | may change | must not change |
| execution | may change | may change | may change |
| serving | may change | may change | may change |
| search | not used | not used | must not change |
| search size | not used | not used | may change |

`name` and `output` determine which run or search is resumed.
"""


def reference() -> str:
    """The text of docs/config.md."""
    parts = [INTRO, *_section_parts(), _presets()]
    return "\n".join(parts)


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration file, for editors; a file may omit `model.trunk` (with a preset), and everything (with a
    base)."""
    schema = Config.model_json_schema()
    model = schema["$defs"]["Model"]
    model["required"] = [key for key in model.get("required", []) if key != "trunk"]
    schema["properties"][EXTENDS] = {"type": "string", "description": "Path or URL of the file that this one adds to."}
    schema["anyOf"] = [{"required": [EXTENDS]}, {"required": schema.pop("required")}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _section_parts() -> Iterator[str]:
    described: dict[type[Section], str] = {}
    last = None
    for found in sections(Config):
        if found.path and found.path != last:
            yield f"## `{found.path}`\n"
        heading = f"### `{found.choice}`\n\n" if found.choice else "## The file\n\n" if not found.path else ""
        if found.section in described:
            yield f"{heading}See {described[found.section]}.\n"
        else:
            link = _link(found.path) if found.path else ""
            described[found.section] = f"`{found.choice}` of {link}" if found.choice else link
            yield f"{heading}{_paragraph(found.section.__doc__)}\n\n{_table(found)}"
        last = found.path


def _table(found: SectionAt) -> str:
    rows = []
    for key, info in found.section.model_fields.items():
        field = field_type(found.section, key)
        if found.choice.startswith(f"{key}: "):
            continue
        where = f"{found.path}.{key}".removeprefix(".")
        shared = found.section is Table and key in TableDefaults.model_fields
        default = f"that of {_link('table_defaults')}" if shared else _default(info)
        role = purpose(found.section, key)
        rows.append(f"| `{key}` | {_type(field, where)} | {default} | {role} | {_paragraph(info.description)} |\n")
    if not rows:
        return "It has no keys of its own.\n"
    return "".join(["| key | what it is | default | role | meaning |\n", "| --- | --- | --- | --- | --- |\n", *rows])


def _type(field: FieldType, path: str) -> str:
    """The kind in words, with a link to its section if there is one."""
    null = ", or null" if field.nullable else ""
    inner, path = (field.item, f"{path}.<name>") if field.item and field.key else (field, path)
    if inner.section or inner.variants:
        return f"{'names to sections' if field.key else 'section'}, see {_link(path)}{null}"
    return _cell(in_words(field).removeprefix("a "))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        chosen = next((getattr(value, k) for k in ("type", "kind") if k in type(value).model_fields), None)
        return f"`{chosen}`" if chosen is not None and len(type(value).model_fields) == 1 else "its defaults"
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`".replace('"', "")


def _presets() -> str:
    rows = [f"| `{name}` | {_slots(slots)} |\n" for name, slots in PRESETS.items()]
    return "".join(
        [
            "## Presets\n\n",
            "`model.preset` sets these keys of `model`; keys in the file override them one by one. A slot that the file ",
            "sets with another `type` replaces the preset's slot.\n\n",
            "| preset | what it sets |\n| --- | --- |\n",
            *rows,
        ]
    )


def _slots(slots: dict[str, dict[str, Any]]) -> str:
    said = (f"`{slot}.{key}: {json.dumps(value)}`" for slot, keys in slots.items() for key, value in keys.items())
    return ", ".join(said).replace('"', "")


def _link(path: str) -> str:
    return f"[`{path}`](#{re.sub(r'[^a-z0-9_-]', '', path.lower())})"


def _paragraph(text: str | None) -> str:
    return _cell(" ".join((text or "").split()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
