"""Public data sets as raymtl logs: `convert(name, source, out)`; `CONVERTERS` lists them."""

from raymtl.data.convert.registry import CONVERTERS, Converter, convert

__all__ = ["CONVERTERS", "Converter", "convert"]
