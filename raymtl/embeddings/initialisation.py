"""Initial values of the tables: each element is a function of seed, table, row and column alone.

TorchRec draws each shard from the rank's own random state, so the same seed would give other tables with another number of
workers or another plan. Here a 64-bit mixer (SplitMix64's finaliser) maps a counter to each element's value, wherever the
element is stored.
"""

import zlib

import torch
from torch import Tensor

from raymtl.config.features import Init

_CHUNK_ELEMENTS = 1 << 22
_MASKS = {shift: (1 << (64 - shift)) - 1 for shift in (27, 30, 31, 40)}


def fill_rows(
    weight: Tensor,
    init: Init,
    *,
    seed: int,
    table: str,
    first_row: int,
    first_column: int,
    dim: int,
    unknown_row: bool = False,
) -> None:
    """Fill a shard in place.

    `weight` [rows, columns] begins at (`first_row`, `first_column`) of the table; `dim` is the table's full width.
    `unknown_row`: row 0 of the table stands for unknown IDs and starts at zeros.
    """
    rows, columns = weight.shape
    step = max(1, _CHUNK_ELEMENTS // columns)
    for start in range(0, rows, step):
        row = torch.arange(first_row + start, first_row + min(rows, start + step), device=weight.device)
        weight[start : start + step] = drawn_rows(
            row, init, seed=seed, table=table, columns=(first_column, columns), dim=dim
        )
    if unknown_row and first_row == 0:
        weight[:1].zero_()


def drawn_rows(rows: Tensor, init: Init, *, seed: int, table: str, columns: tuple[int, int], dim: int) -> Tensor:
    """Initial values of any rows [N] int64 of a table of width `dim`: [N, columns] float32 from column `columns[0]` on."""
    first_column, width = columns
    if init.distribution == "zeros" or init.scale == 0:
        return torch.zeros(len(rows), width, device=rows.device)
    base = _signed(zlib.crc32(table.encode()) * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03)
    column = torch.arange(first_column, first_column + width, device=rows.device)
    counter = rows.unsqueeze(1) * dim + column
    if init.distribution == "uniform":
        return (_uniform(counter, base) * 2 - 1) * init.scale
    # Box and Muller: one normal out of two uniforms
    radius = torch.sqrt(-2 * torch.log(_uniform(counter, base) + 2.0**-25))
    angle = _uniform(counter, _signed(base + 0x632BE59BD9B4E019)) * (2 * torch.pi)
    return radius * torch.cos(angle) * init.scale


def _uniform(counter: Tensor, key: int) -> Tensor:
    """A float32 in [0, 1) for every counter, 24 random bits."""
    z = (counter + 1) * _signed(0x9E3779B97F4A7C15) + key
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift(z, 31)
    return _shift(z, 40).to(torch.float32) * 2.0**-24


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (z >> bits) & _MASKS[bits]


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
