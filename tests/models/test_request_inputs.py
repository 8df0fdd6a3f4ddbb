"""Inputs of requests, as slots from outside of raymtl get them."""

from dataclasses import replace

import torch

from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.precomputed import linear, materialize
from raymtl.models.requests import Columns, NamedInput, RequestInput, RequestX, inputs_for
from raymtl.models.slots import RefineSlot

SPEC = InputSpec(pooled={"item": 2, "user": 3}, sequences={"history": 2}, dense=("age", "price"))
REQUEST = torch.tensor([0, 0, 1, 1, 1])


def made() -> RequestInput:
    torch.manual_seed(0)
    history = torch.randn(2, 4, 2), torch.tensor([4, 1])
    users = NamedInput(
        SPEC, torch.zeros(2), {"user": torch.randn(2, 3)}, {"age": torch.randn(2, 1)}, {"history": history}
    )
    rows = NamedInput(SPEC, torch.zeros(5), {"item": torch.randn(5, 2)}, {"price": torch.randn(5, 1)}, {})
    return RequestInput(users, rows, REQUEST, None, None, None)


class Outside(RefineSlot):
    width = 1

    def forward(self, x: torch.Tensor, inputs: ModelInput) -> torch.Tensor:
        return replace(inputs, dense=inputs.dense + 1).dense[:, :1]


def test_a_slot_from_outside_gets_plain_tensors() -> None:
    inputs, slot = made(), Outside()
    found = slot(torch.zeros(5, 1), inputs_for(slot, inputs))
    assert torch.equal(found, inputs.users.value("age")[REQUEST] + 1)
    plain = inputs_for(slot, inputs)
    assert type(plain) is ModelInput
    assert torch.equal(plain.pooled, torch.cat((inputs.rows.value("item"), inputs.users.value("user")[REQUEST]), 1))
    assert torch.equal(plain.sequences["history"][0], inputs.users.sequences["history"][0][REQUEST])


def test_products_of_shared_columns_are_those_of_x() -> None:
    torch.manual_seed(1)
    user, item, weight, bias = torch.randn(2, 3), torch.randn(5, 2), torch.randn(4, 5), torch.randn(4)
    x = RequestX(user, item, REQUEST, Columns([True, False, True, True, False]))
    whole = materialize(x)
    assert torch.equal(whole[:, [0, 2, 3]], user[REQUEST])
    assert torch.equal(whole[:, [1, 4]], item)
    assert torch.allclose(linear(x, weight, bias), torch.nn.functional.linear(whole, weight, bias), atol=1e-6)
