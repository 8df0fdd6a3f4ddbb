"""The rules of raw values as tensor operations, against those of the reading tasks."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from raymtl.config.features import DenseFeature, IdFeature, SequenceFeature
from raymtl.data.ids import hashing
from raymtl.data.ids.id_map import IdMap
from raymtl.serving.rows import new_users
from raymtl.serving.rules import MapRows, hash_rows, mix64
from raymtl.serving.tables import Int8Table, make_table

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@given(IDS, st.integers(1, 2**40))
def test_the_hash_is_that_of_the_logs(ids: list[int], rows: int) -> None:
    values = np.array(ids, np.int64)
    assert mix64(torch.from_numpy(values)).numpy().view(np.uint64).tolist() == hashing.mix64(values).tolist()
    assert hash_rows(torch.from_numpy(values), rows).tolist() == hashing.hash_rows(values, rows).tolist()


@given(IDS, IDS)
def test_a_map_gives_the_rows_of_the_logs(known: list[int], asked: list[int]) -> None:
    ids = np.unique(np.array(known, np.int64))
    rows = np.random.default_rng(0).permutation(len(ids)) + 1
    id_map = IdMap.of(len(ids) + 1, ids, rows, np.ones(len(ids)), np.ones(len(ids)))
    some = np.array([*asked, *known, 2**63 - 1, -(2**63)], np.int64)
    assert MapRows(id_map)(torch.from_numpy(some)).tolist() == id_map.lookup.rows(some).tolist()


def test_an_empty_map_knows_no_id() -> None:
    assert MapRows(IdMap.empty(5))(torch.tensor([0, 7, 2**63 - 1])).tolist() == [0, 0, 0]


def test_a_byte_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(50, 8) * torch.logspace(-4, 3, 50).unsqueeze(1)
    weight[3] = 0.25
    table = make_table(weight, "int8")
    assert isinstance(table, Int8Table)
    off = (table(torch.arange(50)) - weight).abs()
    step = (weight.amax(1) - weight.amin(1)) / 255
    assert (off <= 0.5001 * step.unsqueeze(1) + 1e-6 * weight.abs()).all()
    assert off[3].max() == 0


LISTS = st.lists(st.sampled_from("ab"), max_size=3)
CONFIG = SimpleNamespace(
    features={
        "user": IdFeature(kind="id"),
        "history": SequenceFeature(kind="sequence"),
        "age": DenseFeature(kind="dense"),
    },
    data=SimpleNamespace(scenario=SimpleNamespace(column="place")),
)


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, None]), LISTS, st.sampled_from([0.5, None]), st.sampled_from("xy")),
        min_size=1,
        max_size=12,
    )
)
def test_rows_of_one_user_in_one_state_are_found(rows: list[tuple[int | None, list[str], float | None, str]]) -> None:
    ids, lists, numbers, places = zip(*rows, strict=True)
    raw = pa.table(
        {
            "user": pa.array(ids, pa.int64()),
            "history": pa.array(lists, pa.list_(pa.string())),
            "age": pa.array(numbers, pa.float64()),
            "place": pa.array(places).dictionary_encode(),
            "item": pa.array(range(len(rows)), pa.int64()),
        }
    )
    same = [a == b for a, b in zip(rows[1:], rows, strict=False)]
    for first in range(min(2, len(rows))):  # a slice begins in the middle of its lists
        found = new_users(raw.slice(first), CONFIG, ["user", "history", "age"])
        assert found.tolist() == [True, *(not s for s in same[first:])]
