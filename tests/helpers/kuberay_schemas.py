"""Checks objects against the schemas of KubeRay, and finds fields that no schema has: Kubernetes drops those silently."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FOLDER = Path(__file__).parents[2].parent / "shared" / "kuberay-crds"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def schema(kind: str, *path: str) -> dict[str, Any]:
    """The schema of a kind in the version that is stored, or of a field inside it."""
    text = (FOLDER / f"ray.io_{kind.lower()}s.yaml").read_text()
    (version,) = (one for one in yaml.load(text, LOADER)["spec"]["versions"] if one["storage"])
    found = version["schema"]["openAPIV3Schema"]
    for name in path:
        found = found["properties"][name]
    return found


def problems(value: Any, of: dict[str, Any]) -> list[str]:
    """What a schema says against a value, and the fields of the value that it does not have."""
    wrong = jsonschema.Draft202012Validator(of).iter_errors(value)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in wrong] + [
        f"{path}: there is no such field" for path in unknown_fields(value, of)
    ]


def unknown_fields(value: Any, of: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of the fields that a schema does not have."""
    if of.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknown_fields(item, of.get("items", {}), f"{path}[{number}]")
    elif isinstance(value, dict):
        others = of.get("additionalProperties", False)
        for key, inner in value.items():
            here = f"{path}.{key}".lstrip(".")
            if here == "metadata":  # of the object itself; the API server knows its fields
                continue
            if key in of.get("properties", {}):
                yield from unknown_fields(inner, of["properties"][key], here)
            elif isinstance(others, dict):
                yield from unknown_fields(inner, others, here)
            elif not others:
                yield here
