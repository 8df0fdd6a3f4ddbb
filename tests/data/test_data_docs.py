"""The code in docs/data.md runs, and agrees with raymtl's own hashes."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from raymtl.data.ids.hashing import cross, hash_rows, hash_strings
from raymtl.serving import rules

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_reference_code_of_the_docs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict = {}
    exec(code, names)
    for text in ("", "u123", "日本語"):
        assert names["fnv1a_64"](text) == hash_strings(pa.array([text]))[0]
    for number in (0, 1, -1, 2**63 - 1, -(2**63)):
        assert names["mix64"](number) % 1000 == hash_rows(np.array([number]), 1000)[0]
        others = np.array([number]), np.array([7]), np.array([-5])
        assert names["cross"](number, 7, -5) == cross(others)[0] == rules.cross([*map(torch.from_numpy, others)])[0]
