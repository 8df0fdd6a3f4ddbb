"""The published models, as defaults of the slots."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "single_task": {
        "trunk": {"type": "single_task", "hidden": [128, 64]},
        "towers": {"type": "mlp", "hidden": [32]},
    },
    "shared_bottom": {
        "trunk": {"type": "shared_bottom", "hidden": [256, 128]},
        "towers": {"type": "mlp", "hidden": [64, 32]},
    },
    "mmoe": {
        "trunk": {"type": "mmoe", "experts": 4, "hidden": [128, 64]},
        "towers": {"type": "mlp", "hidden": [32]},
    },
    "ple": {
        "trunk": {"type": "ple", "levels": 2, "task_experts": 2, "shared_experts": 2, "hidden": [128, 64]},
        "towers": {"type": "mlp", "hidden": [32]},
    },
    "aitm": {
        "trunk": {"type": "shared_bottom", "hidden": []},
        "towers": {"type": "mlp", "hidden": [128, 64, 32]},
        "coupler": {"type": "ait", "width": 32},
        "order_loss": {"alpha": 0.6},
    },
    "esmm": {
        "trunk": {"type": "shared_bottom", "hidden": []},
        "towers": {"type": "mlp", "hidden": [128, 64]},
        "coupler": {"type": "product"},
    },
    "esm2": {
        "trunk": {"type": "shared_bottom", "hidden": []},
        "towers": {"type": "mlp", "hidden": [128, 64]},
        "coupler": {"type": "esm2"},
    },
    "m2m": {
        "sequence": {"type": "transformer"},
        "trunk": {"type": "m2m"},
        "towers": {"type": "mlp", "hidden": []},
    },
    "dupn": {
        "sequence": {"type": "dupn"},
        "trunk": {"type": "shared_bottom", "hidden": [256, 128]},
        "towers": {"type": "mlp", "hidden": [64, 32]},
    },
    "meituan": {
        "input": {"type": "concat", "missing": "learned", "missing_flags": True},
        "trunk": {"type": "shared_bottom", "hidden": [256, 128]},
        "towers": {"type": "mlp", "hidden": [32]},
        "kl_bound": {"weight": 0.5},
    },
    "youtube": {
        "trunk": {"type": "mmoe", "experts": 4, "hidden": [128, 64], "bottom": [256]},
        "towers": {"type": "mlp", "hidden": [32]},
        "bias": {"type": "position"},
    },
    "zhihu": {
        "trunk": {"type": "shared_bottom", "hidden": [256, 128]},
        "towers": {"type": "mlp", "hidden": [64]},
    },
    "nfwfm": {
        "input": {"type": "field_wise", "dice": 0.9},
        "trunk": {"type": "shared_bottom", "hidden": [256, 128]},
        "towers": {"type": "mlp", "hidden": [64]},
    },
    "pepnet": {
        "refine": {"type": "epnet"},
        "trunk": {"type": "shared_bottom", "hidden": []},
        "towers": {"type": "ppnet", "hidden": [128, 64, 32]},
    },
    "din": {
        "sequence": {"type": "din"},
        "trunk": {"type": "shared_bottom", "hidden": [256, 128]},
        "towers": {"type": "mlp", "hidden": [64, 32]},
    },
    "dtrn": {
        "sequence": {"type": "tim"},
        "refine": {"type": "trm"},
        "trunk": {"type": "mmoe", "experts": 4, "hidden": [128, 64]},
        "towers": {"type": "mlp", "hidden": [32]},
    },
}


def apply_preset(model: dict[str, Any]) -> dict[str, Any]:
    """Return the model section with the preset's slots filled in under the user's own keys.

    A slot that the user sets with another `type` replaces the preset's slot; otherwise the user's keys override it one by one. An
    unknown preset changes nothing; the `Model` section refuses it.
    """
    name = model.get("preset")
    preset = PRESETS.get(name, {}) if isinstance(name, str) else {}
    merged: dict[str, Any] = {**preset, **model}
    for slot, defaults in preset.items():
        own = model.get(slot)
        if isinstance(own, dict) and own.get("type", defaults.get("type")) == defaults.get("type"):
            merged[slot] = {**defaults, **own}
    return merged
