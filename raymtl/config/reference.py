"""The reference of every configuration key, written from the classes; `make docs` puts it into docs/config.md."""

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

One YAML file describes a run. `raymtl config schema` prints a JSON schema of it that editors understand. Every mistake is
named with its dotted path, what was found, what was expected and, for a misspelt name, the nearest right one.

* Any key can be set on the command line too: `--set train.workers=4 --set model.trunk.hidden=[256,128]`. The value is YAML.
  Lists are set whole. `--set data.weight=` means `null`.
* `null` and a key left out mean the same unless the text says otherwise.
* Numbers may be written `1e-3` and `1_000_000`. Days are written `2026-01-31`. `yes`, `no`, `on` and `off` are text; a flag is
  `true` or `false`.
* A key given twice is an error.
* `extends: base.yaml` takes everything from another file, seen from the folder (or URL) of the file that has it, and what this
  file says wins: sections, and `features`, `tables` and `tasks` by name, merge key by key; lists are taken whole, a section of
  another `type` or `kind` too, and `null` takes a section or a name away. What the base names stands first. A base cannot extend
  a third file. `--set` applies afterwards. `raymtl config show` prints the result, a run saves it and `raymtl submit` sends it:
  none of them has `extends` any more.
* A relative local path is taken from the folder in which the configuration is loaded, and `~` is your home; URLs stay as they
  are.

The keys below that have no default must be given. The column *role* says when a key may change; a
section without a role has keys with roles of their own.

| role | resuming a run | finishing a day of `raymtl daily` | resuming a search |
| --- | --- | --- | --- |
| learning | must stay | a change starts the day again | must stay |
| single run | must stay | not used | must stay |
| publishing | must stay | may change | must stay |
| execution | may change | may change | may change |
| serving | may change | may change | may change |
| search | not used | not used | must stay |
| search size | not used | not used | may change |

`name` and `output` say which run or search is resumed.
"""


def reference() -> str:
    """The text of docs/config.md."""
    parts = [INTRO, *_section_parts(), _presets()]
    return "\n".join(parts)


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration file, for editors; a file may leave `model.trunk` to its preset, and all to a base."""
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
    """The type in words, with a link where there is a section to read on."""
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
            "`model.preset` fills these keys of `model`; what the file says itself wins, key by key. A slot that the file ",
            "gives with another `type` replaces the preset's slot whole.\n\n",
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
