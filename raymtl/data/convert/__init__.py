"""Public data sets as raymtl logs: `convert(name, source, out)`; `CONVERTERS` lists what there is."""

from raymtl.data.convert.registry import CONVERTERS, Converter, convert

__all__ = ["CONVERTERS", "Converter", "convert"]
