"""Run the programs of an export as a server would, in any format, also with table files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymtl.serving.formats import SUFFIX
from raymtl.serving.mapped_tables import MappedTables


def onnx_program(data: bytes | str, entry: Mapping[str, Any]) -> Callable[..., Any]:
    """A function with the arguments and the result of the program for torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == entry["onnx"]["inputs"]

    def run(*arguments: Any) -> Any:
        tensors = [t for a in arguments for t in (a.values() if isinstance(a, dict) else [a])]
        sent = {name: t.numpy() for name, t in zip(entry["onnx"]["inputs"], tensors, strict=True)}
        found = [torch.from_numpy(array) for array in session.run(entry["onnx"]["outputs"], sent)]
        if entry["gives"] == "predictions":
            return found[0]
        keys = [name.removeprefix(f"{entry['gives']}.") for name in entry["onnx"]["outputs"]]
        return dict(zip(keys, found, strict=True))

    return run


def run_part(folder: Path, facts: dict[str, Any], part: str, *arguments: Any) -> Any:
    """What a part gives for its arguments, of which the last, its features, may have more than it needs."""
    *others, features = arguments
    end = SUFFIX[facts["program_format"]]
    if "tables" in facts:
        made = _run(folder, facts, f"{part}.rows{end}", others, features)
        vectors = MappedTables(folder).vectors(f"{part}{end}", {**features, **made})
        features = {name: torch.as_tensor(array) for name, array in vectors.items()}
    return _run(folder, facts, f"{part}{end}", others, features)


def _run(folder: Path, facts: dict[str, Any], name: str, others: list[Any], features: dict[str, Tensor]) -> Any:
    entry, path = facts["programs"][name], str(folder / name)
    if facts["program_format"] == "onnx":
        program = onnx_program(path, entry)
    elif facts["program_format"] == "aoti":
        program = torch._inductor.aoti_load_package(path)
    else:
        program = torch.export.load(path).module()
    with torch.no_grad():
        return program(*others, {key: features[key] for key in entry["features"]})


def predictions(folder: Path, facts: dict[str, Any], raw: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Of the full model, and of the two parts with every row as a user of its own."""
    whole = run_part(folder, facts, "whole", raw)
    state = run_part(folder, facts, "user", raw)
    return whole.numpy(), run_part(folder, facts, "item", state, torch.arange(len(whole)), raw).numpy()
