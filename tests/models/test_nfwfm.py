"""Field-wise bi-interaction: the formula, and W1 to W7 (docs/formulas.md §12)."""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raymtl.config.load import load_config
from raymtl.config.tasks import Task
from raymtl.errors import ConfigError
from raymtl.models.input_layers.field_wise import FieldWiseInput
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.ranker import build_ranker
from raymtl.models.slots import Context

D = 4
SPEC = InputSpec(pooled=dict.fromkeys(("user", "age", "item", "shop", "tags", "hour"), D), dense=("price", "rating"))
WIDE = 6 * D + 2
FIELDS = {"item": ["shop", "item", "tags"], "user": ["user", "age"], "context": ["hour"]}


def slot(spec: InputSpec = SPEC, random: bool = True, **options: Any) -> FieldWiseInput:
    made = FieldWiseInput(Context({"click": Task()}, spec, 1), **options)
    for p in made.parameters() if random else ():
        nn.init.normal_(p)
    return made.eval()


def rows(n: int = 7, spec: InputSpec = SPEC) -> ModelInput:
    return ModelInput(torch.randn(n, sum(spec.pooled.values())), torch.randn(n, len(spec.dense)))


def vectors(inputs: ModelInput) -> dict[str, Tensor]:
    """The embedding [B, D] of every feature, in float64."""
    return dict(zip(SPEC.pooled, inputs.pooled.double().split(D, 1), strict=True))


def interaction(made: FieldWiseInput, inputs: ModelInput) -> Tensor:
    """h_MF + h_FM [B, D] of a slot whose linear module is off."""
    assert made.linear is None
    return made(inputs)[:, :D]


def pair_by_pair(inputs: ModelInput, fields: dict[str, list[str]], between: Tensor, within: dict[str, float]) -> Tensor:
    """Σ over all pairs of features of r_{field, field'} · v_i ⊙ v_j, as FwFM has it: no sums of fields, no squares."""
    v, total = vectors(inputs), torch.zeros(len(inputs.pooled), D, dtype=torch.float64)
    r = dict(zip(combinations(fields, 2), between.double().tolist(), strict=True))
    of = {name: field for field, names in fields.items() for name in names}
    for i, j in combinations(of, 2):
        total += (within[of[i]] if of[i] == of[j] else r[of[i], of[j]]) * v[i] * v[j]
    return total


def weights(made: FieldWiseInput, fields: dict[str, list[str]]) -> tuple[Tensor, dict[str, float]]:
    parts = made.interaction
    n = len(fields) * (len(fields) - 1) // 2
    own = iter([] if parts.within is None else parts.within.tolist())
    within = {name: next(own, 0.0) if len(members) > 1 else 0.0 for name, members in fields.items()}
    return (torch.zeros(n) if parts.between is None else parts.between.detach()), within


@pytest.mark.parametrize("parts", [{}, {"mf": False}, {"fm": False}], ids=str)
def test_the_interaction_is_the_weighted_sum_over_all_pairs(parts: dict[str, bool]) -> None:
    made, inputs = slot(fields=FIELDS, linear=False, **parts), rows()
    expected = pair_by_pair(inputs, FIELDS, *weights(made, FIELDS))
    assert expected.abs().max() > 1
    torch.testing.assert_close(interaction(made, inputs).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_linear_module_has_one_vector_per_feature_of_a_field() -> None:
    made, inputs = slot(fields={"item": ["item", "shop"], "user": ["user"]}), rows()
    assert made.linear is not None
    v, w = vectors(inputs), made.linear.weight.detach()[0].double().split(D)
    expected = made.linear.bias.item() + sum(
        (v[n] * w_n).sum(1) for n, w_n in zip(("item", "shop", "user"), w, strict=True)
    )
    torch.testing.assert_close(made(inputs)[:, 0].double(), expected, rtol=1e-5, atol=1e-5)


def test_widths_and_the_plain_inputs_beside_it() -> None:
    inputs = rows()
    plain = torch.cat((inputs.pooled, inputs.dense), 1)
    for options, own in (
        ({}, 1 + D),
        ({"linear": False}, D),
        ({"mf": False, "fm": False}, 1),
        ({"fields": FIELDS, "mf": False}, 1 + D),
        ({"mf": False}, 1),
        ({"fields": {"all": ["user", "item"]}, "fm": False}, 1),
    ):
        made = slot(**options)
        assert made.width == own + WIDE
        x = made(inputs)
        assert x.shape == (7, made.width)
        assert torch.equal(x[:, own:], plain)
    learned = slot(missing="learned", missing_flags=True)
    inputs.dense[2, 1] = torch.nan
    assert learned.width == 1 + D + WIDE + 2
    x = learned(inputs)
    assert x.isfinite().all()
    assert x[:, -2:].tolist() == [[0, float(row == 2)] for row in range(7)]


def test_at_the_start_it_is_an_fm_without_a_linear_part() -> None:
    made, inputs = slot(random=False, fields=FIELDS), rows()
    ones = torch.ones(3), dict.fromkeys(FIELDS, 1.0)
    assert not made(inputs)[:, 0].any()
    expected = pair_by_pair(inputs, FIELDS, *ones)
    torch.testing.assert_close(made(inputs)[:, 1 : 1 + D].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [None, FIELDS, {"all": list(SPEC.pooled)}], ids=["own", "three", "one"])
def test_w1_with_all_r_one_it_is_the_bi_interaction_of_nfm(fields: dict[str, list[str]] | None) -> None:
    made, inputs = slot(random=False, fields=fields, linear=False), rows()
    v = torch.stack([*vectors(inputs).values()])
    nfm = 0.5 * (v.sum(0).square() - v.square().sum(0))
    torch.testing.assert_close(interaction(made, inputs).double(), nfm, rtol=1e-5, atol=1e-5)


def test_w2_one_feature_per_field_leaves_the_fm_module_nothing() -> None:
    inputs = rows()
    both, mf = slot(random=False, linear=False), slot(random=False, linear=False, fm=False)
    assert both.interaction.within is None
    assert torch.equal(interaction(both, inputs), interaction(mf, inputs))
    assert both.interaction.between is not None
    both.interaction.between.data.zero_()
    assert not interaction(both, inputs).any()  # an exact zero
    # Beside a field of three, the two fields of one feature have no r of their own.
    some = slot(fields={"user": ["user"], "item": ["item", "shop", "tags"], "context": ["hour"]})
    assert some.interaction.within is not None
    assert len(some.interaction.within) == 1


def test_w3_without_r_between_fields_only_pairs_inside_a_field_count() -> None:
    made, inputs = slot(fields=FIELDS, linear=False), rows()
    assert made.interaction.between is not None
    made.interaction.between.data.zero_()
    before = interaction(made, inputs)
    inputs.pooled[:, 5 * D :] += 3  # the hour, alone in its field
    assert torch.equal(interaction(made, inputs), before)
    inputs.pooled[:, :D] += 3  # the user, together with the age
    assert (interaction(made, inputs) - before).abs().amax(1).min() > 1e-3
    expected = pair_by_pair(inputs, FIELDS, torch.zeros(3), weights(made, FIELDS)[1])
    torch.testing.assert_close(interaction(made, inputs).double(), expected, rtol=1e-5, atol=1e-5)


def test_w4_with_all_r_one_the_sum_is_the_score_of_an_fm() -> None:
    made, inputs = slot(), rows()
    assert made.interaction.between is not None
    assert made.linear is not None
    made.interaction.between.data.fill_(1)
    v = vectors(inputs)
    w = dict(zip(v, made.linear.weight.detach()[0].double().split(D), strict=True))
    score = made.linear.bias.item() + sum((v[n] * w[n]).sum(1) for n in v)
    score = score + sum((v[i] * v[j]).sum(1) for i, j in combinations(v, 2))
    torch.testing.assert_close(made(inputs)[:, : 1 + D].sum(1).double(), score, rtol=1e-5, atol=1e-5)


def test_w5_features_of_a_field_have_no_order() -> None:
    made, inputs = slot(fields=FIELDS, linear=False), rows()
    before = interaction(made, inputs)
    v = list(inputs.pooled.split(D, 1))
    v[2], v[3], v[4] = v[4], v[2], v[3]  # item, shop, tags
    inside = ModelInput(torch.cat(v, 1), inputs.dense)
    torch.testing.assert_close(interaction(made, inside), before, rtol=1e-5, atol=1e-5)
    v[0], v[2] = v[2], v[0]  # a user and an item
    across = ModelInput(torch.cat(v, 1), inputs.dense)
    assert (interaction(made, across) - before).abs().max() > 0.1


def test_w5_nor_in_the_configuration() -> None:
    """Naming the features of a field in another order changes nothing, if each keeps its vector of the linear module."""
    first, inputs = slot(fields={"item": ["item", "shop"], "user": ["user", "age"]}), rows()
    other = slot(fields={"item": ["shop", "item"], "user": ["user", "age"]})
    assert first.linear is not None
    assert other.linear is not None
    other.load_state_dict(first.state_dict())
    w = other.linear.weight.data
    w.copy_(torch.cat((w[:, D : 2 * D], w[:, :D], w[:, 2 * D :]), 1))
    torch.testing.assert_close(first(inputs), other(inputs), rtol=1e-5, atol=1e-5)


def test_w6_dice_keeps_the_expectation() -> None:
    made = slot(fields=FIELDS, dice=0.7)
    row = rows(1)
    many = ModelInput(row.pooled.expand(40_000, -1), row.dense.expand(40_000, -1))
    x, still = made.train()(many), made.eval()(row)[0]
    kept = slot(fields=FIELDS)
    kept.load_state_dict(made.state_dict())
    whole = kept(row)[0]
    h = slice(1, 1 + D)
    torch.testing.assert_close(still[h], 0.7 * whole[h])
    torch.testing.assert_close(x[:, h].mean(0), still[h], rtol=0.02, atol=0)
    # Each element of each row is drawn for itself, whole or not at all; the rest of x stays as it is.
    dropped = x[:, h] == 0
    assert torch.equal(torch.where(dropped, whole[h], x[:, h]), whole[h].expand(40_000, -1))
    assert (dropped.float().mean(0) - 0.3).abs().max() < 0.02
    assert 0.3**2 - 0.02 < (dropped[:, 0] & dropped[:, 1]).float().mean() < 0.3**2 + 0.02
    assert torch.equal(x[:, :1], whole[:1].expand(40_000, 1))
    assert torch.equal(x[:, 1 + D :], whole[1 + D :].expand(40_000, -1))


def test_dice_of_one_is_no_noise() -> None:
    made, inputs = slot(fields=FIELDS), rows()
    assert torch.equal(made.train()(inputs), made.eval()(inputs))


def test_w7_an_empty_field_contributes_nothing() -> None:
    """What the tables give for empty lists is zero; then the field might as well not be there."""
    without = {name: FIELDS[name] for name in ("item", "user")}
    made, less, inputs = slot(fields=FIELDS), slot(fields=without), rows()
    inputs.pooled[:, 5 * D :] = 0  # the hour, the whole field `context`
    assert made.linear is not None
    assert less.linear is not None
    assert made.interaction.between is not None
    assert less.interaction.between is not None
    less.linear.weight.data.copy_(made.linear.weight.data[:, : 5 * D])
    less.linear.bias.data.copy_(made.linear.bias.data)
    less.interaction.between.data.copy_(made.interaction.between.data[:1])  # item with user
    less.interaction.within = made.interaction.within
    torch.testing.assert_close(made(inputs), less(inputs), rtol=1e-5, atol=1e-5)


def test_features_of_no_field_stay_out_of_the_interaction() -> None:
    made, inputs = slot(fields={"item": ["item", "shop"], "user": ["user"]}), rows()
    before = made(inputs)
    inputs.pooled[:, 5 * D :] += 3  # the hour
    after = made(inputs)
    assert torch.equal(after[:, : 1 + D], before[:, : 1 + D])
    assert not torch.equal(after, before)
    # They may have a width of their own.
    spec = InputSpec(pooled={"user": D, "hour": 3, "item": D})
    made = slot(spec, fields={"user": ["user"], "item": ["item"]})
    assert made.width == 1 + D + D + 3 + D
    inputs = rows(5, spec)
    assert made.interaction.between is not None
    expected = made.interaction.between.item() * inputs.pooled[:, :D] * inputs.pooled[:, -D:]
    torch.testing.assert_close(made(inputs)[:, 1 : 1 + D], expected)


@pytest.mark.parametrize("fields", [None, FIELDS, {"all": list(SPEC.pooled)}], ids=["own", "three", "one"])
@pytest.mark.parametrize("n", [0, 9])
def test_g6_every_parameter_gets_a_gradient_also_without_rows(fields: dict[str, list[str]] | None, n: int) -> None:
    made, inputs = slot(fields=fields), rows(n)
    made.train()(inputs).square().sum().backward()
    for name, p in made.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all()
        assert bool(p.grad.all()) == (n > 0), name


def test_the_interaction_is_in_fp32_under_autocast() -> None:
    """In bf16 the difference of squares of 200 features would be noise."""
    spec = InputSpec(pooled={f"f{i}": D for i in range(200)})
    made, inputs = slot(spec, fields={"all": list(spec.pooled)}), rows(8, spec)
    exact = made(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(inputs), exact)
    rounded = ModelInput(inputs.pooled.bfloat16(), inputs.dense)
    v = rounded.pooled.double().view(8, 200, D)
    pairs = 0.5 * (v.sum(1).square() - v.square().sum(1))
    assert made.interaction.within is not None
    torch.testing.assert_close(
        made(rounded)[:, 1 : 1 + D].double(), made.interaction.within.item() * pairs, rtol=1e-4, atol=1e-3
    )


def test_exported_with_fields_and_dice_it_is_the_same() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slot = slot(fields=FIELDS, dice=0.5, missing="learned")

        def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
            return self.slot(ModelInput(pooled, dense))

    flat, inputs = Flat().eval(), rows(5)
    inputs.dense[1] = torch.nan
    batch = {0: torch.export.Dim("batch", min=1)}
    graph = torch.export.export(flat, (inputs.pooled, inputs.dense), dynamic_shapes=(batch, batch)).module()
    for n in (1, 3, 20):
        some = rows(n)
        some.dense[0, 0] = torch.nan
        torch.testing.assert_close(graph(some.pooled, some.dense), flat(some.pooled, some.dense))


# The configuration

CONFIG = """
data: {path: /logs, train: {start: 2026-01-01, end: 2026-01-03}}
features:
  user: {kind: id}
  item: {kind: id}
  tags: {kind: ids}
  age: {kind: dense}
tables: {user: {rows: 100}, item: {rows: 100}, tags: {rows: 100, dim: 8}}
tasks: {click: {}}
model: {preset: nfwfm, input: {fields: {user: [user], item: [item]}}}
"""


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides, text=CONFIG)
    return str(caught.value)


def test_a_configuration_with_fields() -> None:
    assert load_config(None, text=CONFIG).model.input.model_dump()["fields"] == {"user": ["user"], "item": ["item"]}


def test_widths_that_differ_are_refused_with_feature_and_width() -> None:
    sentence = "model.input is `field_wise`, whose features need embeddings of one width: `user` has 16, `tags` has 8"
    assert sentence in refused("model.input.fields=null")
    assert sentence in refused("model.input.fields.item=[item, tags]")
    assert load_config(None, ["tables.tags.dim=16", "model.input.fields=null"], text=CONFIG)
    with pytest.raises(ConfigError, match="one width: `user` has 4, `item` has 3"):
        slot(InputSpec(pooled={"user": 4, "item": 3}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            "{a: [usr], b: [item]}",
            "fields.a names `usr`, which is not one of the features `user`, `item`, `tags`; did you",
        ),
        ("{a: [user], b: [age]}", "fields.b names `age`, a feature of kind `dense`; fields are made of the kinds `id`"),
        ("{a: [user], b: [item, user]}", "fields.b names `user`, which is in the field `a` already"),
        ("{a: [user, item, user]}", "fields.a names `user`, which is in the field `a` already"),
        ("{}", "model.input.fields is empty"),
    ],
)
def test_fields_that_do_not_fit_the_features(fields: str, says: str) -> None:
    assert says in refused(f"model.input.fields={fields}")


def test_a_field_wise_input_without_any_pair() -> None:
    for switches in ("mf: false, fm: false, fields: {a: [user, item]}", "fm: false, fields: {a: [user, item]}"):
        assert "no two features interact" in refused(f"model.input={{{switches}}}")
    assert "no two features interact" in refused("model.input.mf=false")


def test_a_field_wise_input_without_ids() -> None:
    message = refused("features={age: {kind: dense}}", "tables={}", "model.input.fields=null")
    assert "model.input is `field_wise` but no feature has the kind `id`, `bucket`" in message


def test_flags_without_learned_values_are_refused() -> None:
    for kind in ("field_wise", "concat"):
        message = refused(f"model.input={{type: {kind}, missing_flags: true}}", "tables.tags.dim=16")
        assert "model.input.missing_flags is on but model.input.missing is `fill`" in message


def test_the_whole_model_learns_a_product_of_two_fields() -> None:
    """What the interaction is for: y = sign of <u, i>, which the plain inputs of so small a network cannot tell."""
    config = load_config(None, ["model.trunk.hidden=[4]", "model.towers.hidden=[]"], text=CONFIG)
    spec = InputSpec(pooled={"user": 8, "item": 8})

    def loss_of(kind: str) -> float:
        torch.manual_seed(0)
        section = config.model.input if kind == "field_wise" else type(config.model).model_fields["input"].default
        model = build_ranker(config.model.model_copy(update={"input": section}), config.active_tasks(), spec, {})
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        losses = []
        for _ in range(150):
            v = torch.randn(512, 16)
            y = ((v[:, :8] * v[:, 8:]).sum(1) > 0).float()
            logits = model(ModelInput(v, torch.zeros(512, 0)))[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses[-20:]) / 20

    assert loss_of("field_wise") < 0.3
    assert loss_of("concat") > 0.6
