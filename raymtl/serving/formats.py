"""Turn a traced program into a file: for torch, compiled by AOTInductor, or for ONNX."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree

from raymtl.errors import ConfigError

Format = Literal["torch", "aoti", "onnx"]
SUFFIX = {"torch": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}
"""End of a program's file name. AOTInductor's own loader accepts only `.pt2`."""
ONNX_OPSET = 20
_PROTOBUF_BYTES = 2**31
"""protobuf cannot write a larger message, and an ONNX file is one."""


def serialize(program: Any, form: Format, entry: dict[str, Any]) -> bytes:
    """The file of an exported program with its entry in `model.json`, which gets the names of its tensors in ONNX.

    ConfigError if the format cannot hold the program.
    """
    with quiet():
        if form == "aoti":
            return _compiled(program)
        if form == "onnx":
            entry["onnx"] = {
                "inputs": _input_names(program, entry["inputs"]),
                "outputs": _output_names(program, entry["gives"]),
            }
            return _onnx(program, **entry["onnx"])
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        return buffer.getvalue()


def check_format(form: Format) -> None:
    """Raise ConfigError if this machine lacks what the format needs, before anything is read."""
    if form == "aoti":
        _compiler()
    if form == "onnx":
        _onnx_packages()


def _compiler() -> None:
    from torch._inductor import config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        names = " or ".join(f"`{name}`" for name in config.cpp.cxx if name)
        raise ConfigError(
            f"--format aoti compiles C++, but there is no compiler {names}; install g++, set CXX to a compiler, "
            "or use --format torch"
        ) from error


def _compiled(program: Any) -> bytes:
    from torch._inductor.exc import CppCompileError

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "program.pt2"))
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=path)
        except CppCompileError as error:
            raise ConfigError(
                f"the C++ compiler fails on the program: {_first_line(error)}; use a newer g++, or --format torch"
            ) from error
        return Path(path).read_bytes()


def _onnx_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--format onnx needs the package {error.name}, which is not installed; run `pip install 'raymtl[onnx]'`"
        ) from error


def _onnx(program: Any, inputs: list[str], outputs: list[str]) -> bytes:
    weights = sum(t.numel() * t.element_size() for t in {**program.state_dict, **program.constants}.values())
    if weights >= _PROTOBUF_BYTES:
        raise ConfigError(
            f"an ONNX file holds at most 2 GiB and this program's tables and weights are {weights / 2**30:.1f} GiB; use "
            "--table-files, or --quantize"
        )
    try:
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=ONNX_OPSET,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table=_translations(),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        raise ConfigError(
            f"ONNX has no equivalent of an operation of the model: {_first_line(cause)}; change the slot of the model that "
            "uses it, or use --format torch"
        ) from error
    return found.model_proto.SerializeToString()


def _input_names(program: Any, arguments: list[str]) -> list[str]:
    """ONNX has no dictionaries: a feature by its name, the others behind the argument's."""
    names = []
    for argument, value in zip(arguments, program.example_inputs[0], strict=True):
        if argument == "features":
            names += list(value)
        else:
            names += [f"{argument}.{key}" for key in value] if isinstance(value, dict) else [f"{argument}.index"]
    return names


def _output_names(program: Any, gives: str) -> list[str]:
    spec = program.call_spec.out_spec
    found = pytree.tree_unflatten(range(spec.num_leaves), spec)
    return [f"{gives}.{key}" for key in found] if isinstance(found, dict) else [gives]


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def _translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """The operations of the rules that torch does not translate: the searches in IDs and in edges."""
    from onnxscript import opset20 as op

    def count_below(ordered: Any, values: Any, or_equal: bool) -> Any:
        """By binary search, the number of elements of `ordered` below each value; all of them for NaN, as in torch."""
        size = int(ordered.shape[0])
        found = op.Expand(op.Constant(value_int=0), op.Shape(values))
        for bit in reversed(range(size.bit_length())):
            tried = op.Add(found, op.Constant(value_int=1 << bit))
            place = op.Sub(op.Min(tried, op.Constant(value_int=size)), op.Constant(value_int=1))
            last = op.Gather(ordered, place)
            above = op.Greater(last, values) if or_equal else op.GreaterOrEqual(last, values)
            fits = op.LessOrEqual(tried, op.Constant(value_int=size))
            found = op.Where(op.And(fits, op.Not(above)), tried, found)
        return found

    def searchsorted(
        sorted_sequence: Any,
        self: Any,
        out_int32: bool = False,
        right: bool = False,
        side: Any = None,
        sorter: Any = None,
    ) -> Any:
        return count_below(sorted_sequence, self, right)

    def bucketize(self: Any, boundaries: Any, out_int32: bool = False, right: bool = False) -> Any:
        return count_below(boundaries, self, right)

    return {torch.ops.aten.searchsorted.Tensor: searchsorted, torch.ops.aten.bucketize.Tensor: bucketize}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress torch's own messages."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
