"""What the configuration refuses of couplers, the position tower and the penalties between tasks."""

import pytest

from raymtl.errors import ConfigError
from tests.helpers.small_config import small

CART = "tasks={click: {}, cart: {parent: click}, buy: {parent: cart}}"
FORK = "tasks={click: {}, cart: {parent: click}, buy: {parent: click}}"
APART = "tasks={click: {}, buy: {}}"
CROSS = ("model.preset=aitm", "model.coupler.mode=cross")
POSITION = ("features.position={kind: bias}", "tables.position={rows: 10}", "model.preset=youtube")


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        small(*overrides)
    return str(caught.value)


class TestPredecessors:
    def test_they_may_be_the_only_wiring(self):
        config = small(APART, *CROSS, "model.coupler.predecessors={buy: [click]}")
        assert config.model.coupler.predecessors == {"buy": ["click"]}
        assert config.model.order_loss.alpha == 0.6

    def test_mode_self(self):
        message = refused("model.preset=aitm", "model.coupler.predecessors={buy: [click]}")
        assert "model.coupler.predecessors needs model.coupler.mode `cross`" in message

    def test_unknown_tasks(self):
        message = refused(CART, *CROSS, "model.coupler.predecessors={buyy: [click], buy: [clik]}")
        assert "predecessors has an entry for `buyy`, which is not one of the tasks" in message
        assert "did you mean `buy`?" in message
        assert "predecessors.buy names `clik`, which is not one of the tasks" in message

    def test_the_task_itself(self):
        message = refused(*CROSS, "model.coupler.predecessors={buy: [buy]}")
        assert "model.coupler.predecessors.buy names the task itself" in message
        assert "circle" not in message

    def test_a_circle(self):
        message = refused(CART, *CROSS, "model.coupler.predecessors={click: [buy]}")
        assert "model.coupler.predecessors form a cycle: click → buy → cart → click; remove one of them" in message

    def test_tasks_outside_the_subset_are_skipped(self):
        small(CART, *CROSS, "model.coupler.predecessors={buy: [click, cart]}", "tasks_subset=[click, buy]")

    def test_none_is_left(self):
        message = refused(CART, *CROSS, "tasks_subset=[click, buy]", "model.order_loss.alpha=0")
        assert (
            "model.coupler is `ait`, which passes information along the funnel, but no task has a `parent`" in message
        )

    def test_towers_of_another_width(self):
        assert "its last width must be model.coupler.width = 32" in refused(*CROSS, "model.towers.hidden=[16]")


class TestOrderLoss:
    def test_e3_an_order_loss_without_any_pair(self):
        message = refused(APART, "model.order_loss.alpha=0.5")
        assert (
            "model.order_loss.alpha is 0.5 but no task has a `parent`; set tasks.<name>.parent, or alpha to 0"
            in message
        )

    @pytest.mark.parametrize("other", ["{kind: real}", "{given: click}"])
    def test_e3_a_predecessor_with_which_nothing_can_be_compared(self, other):
        message = refused(
            f"tasks={{click: {{}}, other: {other}}}", *CROSS, "model.coupler.predecessors={other: [click]}"
        )
        assert "model.order_loss.alpha is 0.6 but no task has a `parent`" in message


class TestProducts:
    def test_product_without_a_funnel(self):
        message = refused(APART, "model.preset=esmm")
        assert "model.coupler is `product`, which multiplies along the funnel, but no task has a `parent`" in message

    def test_a_condition_beside_the_product(self):
        small("tasks={click: {}, buy: {parent: click}, rating: {kind: real, given: click}}", "model.preset=esmm")
        small("tasks={click: {}, cart: {parent: click}, buy: {parent: click}, a: {given: click}}", "model.preset=esm2")

    def test_esm2_without_its_fork(self):
        assert "`esm2` needs a task whose two children are an action and a purchase" in refused("model.preset=esm2")
        message = refused(CART, "model.preset=esm2", "model.coupler={click: click, action: cart, buy: buy}")
        assert "tasks.buy.parent must be `click` for the coupler `esm2`" in message

    def test_esm2_with_names(self):
        config = small(FORK, "model.preset=esm2", "model.coupler={action: buy, buy: cart}")
        assert config.model.coupler.buy == "cart"
        assert "model.coupler.buy is `bye`" in refused(FORK, "model.preset=esm2", "model.coupler={buy: bye}")


class TestPosition:
    def test_no_feature_for_it(self):
        message = refused("model.preset=youtube")
        assert "model.bias is `position` but no feature has the kind `bias`; add one, or set it to `none`" in message

    def test_an_unknown_task(self):
        message = refused(*POSITION, "model.bias.tasks=[clik]")
        assert (
            "model.bias.tasks names `clik`, which is not one of the tasks `click`, `buy`; did you mean `click`?"
            in message
        )
        assert "none of which is trained" not in message

    @pytest.mark.parametrize(("chosen", "subset"), [("[]", "null"), ("[buy]", "[click]")])
    def test_no_task_is_left(self, chosen, subset):
        message = refused(*POSITION, f"model.bias.tasks={chosen}", f"tasks_subset={subset}")
        assert f"model.bias.tasks is {chosen.replace('buy', repr('buy'))}, none of which is trained" in message

    def test_some_are_left(self):
        small(*POSITION, "model.bias.tasks=[click, buy]", "tasks_subset=[buy]")


class TestKLBound:
    def test_a_click_a_conversion_and_an_order(self):
        small("tasks={click: {}, conversion: {label: buy, given: click}, buy: {}}", "model.kl_bound.weight=0.5")

    def test_no_conversion(self):
        message = refused("model.kl_bound.weight=0.5")
        assert "model.kl_bound.weight is 0.5 but no binary task has `given`, so there is no conversion" in message
        assert "add such a task, or set the weight to 0" in message

    def test_no_order(self):
        message = refused("tasks={click: {}, buy: {given: click}}", "model.kl_bound.weight=0.5")
        assert "no binary task without `given` has the label column `buy`, so there is no order on all rows" in message

    def test_off_nothing_is_needed(self):
        small("model.kl_bound.weight=0")


class TestSubsets:
    def test_a_factor_of_a_product_must_be_trained(self):
        message = refused(CART, "model.preset=esmm", "tasks_subset=[click, buy]")
        assert (
            "tasks_subset leaves out `cart`, the parent of `buy`, but the coupler `product` multiplies by its"
            in message
        )

    def test_the_tower_does_not_move_to_another_task(self):
        message = refused(*POSITION, "tasks={click: {}, like: {}}", "tasks_subset=[like]")
        assert "model.bias.tasks defaults to the first task, `click`, which tasks_subset leaves out" in message
        small(*POSITION, "tasks={click: {}, like: {}}", "tasks_subset=[like]", "model.bias.tasks=[like]")

    def test_a_parent_outside_is_named(self):
        message = refused(CART, "model.preset=aitm", "tasks_subset=[click, buy]")
        assert "no task has a `parent`; set one (tasks_subset leaves out `cart`)" in message


class TestConversionLoss:
    ESMM = "model.preset=esmm"

    def test_propensities_of_a_term_that_is_off(self):
        message = refused(self.ESMM, "model.conversion_loss.min_propensity=0.05")
        assert "model.conversion_loss.min_propensity is 0.05, but the weight is 0, which turns the term off" in message
        small(self.ESMM, "model.conversion_loss={weight: 1, min_propensity: 0.05}")
        small(self.ESMM, "model.conversion_loss={weight: 0, min_propensity: 1}")
