"""The start of a table does not depend on how it is cut."""

import math

import pytest
import torch
from scipy import stats

from raymtl.config.features import Init
from raymtl.embeddings.initialisation import drawn_rows, fill_rows

ROWS, DIM = 200, 12


def filled(
    init: Init, seed: int = 3, table: str = "user", rows: slice = slice(0, ROWS), columns: slice = slice(0, DIM)
) -> torch.Tensor:
    weight = torch.full((rows.stop - rows.start, columns.stop - columns.start), math.nan)
    fill_rows(weight, init, seed=seed, table=table, first_row=rows.start, first_column=columns.start, dim=DIM)
    return weight


@pytest.mark.parametrize("distribution", ["normal", "uniform", "zeros"])
def test_any_cut_gives_the_same_elements(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    init = Init(distribution=distribution, scale=0.1)
    whole = filled(init)
    assert torch.equal(filled(init, rows=slice(37, 90)), whole[37:90])
    assert torch.equal(filled(init, columns=slice(4, 8)), whole[:, 4:8])
    monkeypatch.setattr("raymtl.embeddings.initialisation._CHUNK_ELEMENTS", 50)
    assert torch.equal(filled(init), whole)


@pytest.mark.parametrize("distribution", ["normal", "uniform", "zeros"])
def test_single_rows_are_drawn_like_the_full_table(distribution: str) -> None:
    init = Init(distribution=distribution, scale=0.1)
    whole = filled(init)
    for rows in ([], [7], [199, 0, 3, 3, 120]):
        for first, width in ((0, DIM), (4, 4), (DIM - 1, 1)):
            numbers = torch.tensor(rows, dtype=torch.int64)
            found = drawn_rows(numbers, init, seed=3, table="user", columns=(first, width), dim=DIM)
            assert found.shape == (len(rows), width)
            assert torch.equal(found, whole[rows, first : first + width])


def test_rows_far_beyond_what_32_bits_hold() -> None:
    init, far = Init(distribution="uniform", scale=0.1), 10**11
    weight = torch.empty(3, DIM)
    fill_rows(weight, init, seed=3, table="user", first_row=far, first_column=0, dim=DIM)
    rows = torch.arange(far, far + 3)
    assert torch.equal(drawn_rows(rows, init, seed=3, table="user", columns=(0, DIM), dim=DIM), weight)
    assert len(set(weight.flatten().tolist())) == 3 * DIM


def test_seed_and_table_change_everything() -> None:
    init = Init(distribution="normal", scale=1.0)
    one, two, three = filled(init), filled(init, seed=4), filled(init, table="item")
    for a, b in ((one, two), (one, three)):
        assert (a == b).float().mean() < 0.01
        assert abs(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]) < 0.08


def test_distributions() -> None:
    weight = torch.empty(20_000, 16)
    fill_rows(weight, Init(distribution="normal", scale=0.01), seed=0, table="t", first_row=0, first_column=0, dim=16)
    assert stats.kstest(weight.flatten().numpy() / 0.01, "norm").pvalue > 1e-3
    fill_rows(weight, Init(distribution="uniform", scale=0.2), seed=0, table="t", first_row=0, first_column=0, dim=16)
    assert stats.kstest(weight.flatten().numpy(), "uniform", args=(-0.2, 0.4)).pvalue > 1e-3
    # neighbours are unrelated, along rows and along columns
    assert abs(torch.corrcoef(weight[:, :2].T)[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack((weight[:-1, 0], weight[1:, 0])))[0, 1]) < 0.03
