"""The checks that need more than one section, and what the sections resolve to."""

import pytest

from raymtl.config.load import load_config
from raymtl.config.slots.trunk import PLE, SharedBottom
from raymtl.errors import ConfigError
from tests.helpers.small_config import SMALL, small


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        small(*overrides)
    return str(caught.value)


class TestTables:
    def test_a_table_that_is_missing(self):
        message = refused("features.item={kind: id}")
        assert "features.item looks up table `item`, which `tables` does not have; add tables.item.rows" in message

    def test_a_misspelt_table(self):
        assert refused("features.user.table=usr").count("did you mean `user`?") == 1

    def test_a_table_that_nobody_looks_up(self):
        assert "tables.item is looked up by no feature; remove it" in refused("tables.item={rows: 3}")

    def test_all_of_them_are_listed(self):
        message = refused("features.a={kind: id}", "features.b={kind: ids}", "tables.c={rows: 3}")
        assert [line.split()[0] for line in message.splitlines()[1:]] == ["features.a", "features.b", "tables.c"]

    def test_features_may_share_a_table(self):
        config = small("features.friend={kind: id, table: user}")
        assert config.table_of("friend") == "user"
        assert config.table_of("user") == "user"


class TestTableDefaults:
    def test_they_hold_where_the_table_says_nothing(self):
        config = small("table_defaults={dim: 8, lr: 0.5, pooling: mean}", "tables.user.lr=0.1")
        table = config.tables["user"]
        assert (table.dim, table.lr, table.pooling, table.rows) == (8, 0.1, "mean", 100)

    def test_an_explicit_null_of_the_table_wins(self):
        assert small("table_defaults.lr=0.5", "tables.user.lr=null").tables["user"].lr is None

    def test_a_table_may_say_the_general_default_against_them(self):
        assert small("table_defaults.dim=8", "tables.user.dim=16").tables["user"].dim == 16

    def test_init_is_merged_key_by_key(self):
        init = (
            small("table_defaults.init={distribution: uniform, scale: 0.5}", "tables.user.init.scale=0.1")
            .tables["user"]
            .init
        )
        assert (init.distribution, init.scale) == ("uniform", 0.1)

    def test_without_any_the_tables_are_as_they_were(self):
        assert small().tables["user"].dim == 16


class TestTasks:
    def test_an_unknown_parent(self):
        message = refused("tasks.buy.parent=clik")
        assert (
            "tasks.buy.parent is `clik`, which is not one of the tasks `click`, `buy`; did you mean `click`?" in message
        )

    def test_a_parent_that_comes_later(self):
        assert "tasks.click is listed before its parent `buy`; move `buy` before `click`" in refused(
            "tasks.click.parent=buy", "tasks.buy.parent=null"
        )

    def test_a_task_that_is_its_own_parent(self):
        assert "tasks.buy.parent is the task itself" in refused("tasks.buy.parent=buy")

    @pytest.mark.parametrize("task", ["click", "buy"])
    def test_a_funnel_of_other_kinds(self, task):
        assert "tasks.buy.parent is `click`; both ends of a funnel step must be `binary`" in refused(
            f"tasks.{task}.kind=real"
        )

    def test_the_base_rate_of_a_binary_task(self):
        assert "tasks.click.base_rate is 1.0; a `binary` task needs a value below 1" in refused(
            "tasks.click.base_rate=1"
        )
        assert small("tasks.spend={kind: real, base_rate: 7}").tasks["spend"].base_rate == 7

    def test_a_transform_of_another_kind(self):
        assert "tasks.click.transform is `log1p`; only a `real` task" in refused("tasks.click.transform=log1p")

    def test_an_unknown_name_in_the_subset(self):
        message = refused("tasks_subset=[clik]")
        assert (
            "tasks_subset names `clik`, which is not one of the tasks `click`, `buy`; did you mean `click`?" in message
        )

    def test_an_empty_subset(self):
        assert "tasks_subset is empty; leave it out" in refused("tasks_subset=[]")

    def test_the_active_tasks_keep_their_order_and_lose_absent_parents(self):
        config = small("tasks.pay={parent: buy}", "tasks_subset=[pay, buy]")
        active = config.active_tasks()
        assert list(active) == ["buy", "pay"]
        assert active["buy"].parent is None
        assert active["pay"].parent == "buy"
        assert list(small().active_tasks()) == ["click", "buy"]
        assert active["buy"].label_column("buy") == "buy"


class TestModel:
    def test_single_task_of_several(self):
        message = refused("model.preset=single_task")
        assert "model.trunk is `single_task` but there are 2 tasks `click`, `buy`" in message
        assert "--set tasks_subset=[click]" in message

    def test_ple_without_experts(self):
        message = refused("model.preset=ple", "model.trunk.task_experts=0", "model.trunk.shared_experts=0")
        assert "model.trunk has no experts at all" in message

    def test_ple_with_experts_of_one_sort(self):
        trunk = small("model.preset=ple", "model.trunk.task_experts=0").model.trunk
        assert isinstance(trunk, PLE)
        assert trunk.shared_experts == 2

    def test_an_order_loss_without_a_funnel(self):
        assert "model.order_loss.alpha is 0.5 but no task has a `parent`" in refused(
            "model.order_loss.alpha=0.5", "tasks.buy.parent=null"
        )

    def test_ait_without_a_funnel(self):
        assert "model.coupler is `ait`, which passes information along the funnel" in refused(
            "model.preset=aitm", "tasks.buy.parent=null", "model.order_loss.alpha=0"
        )

    @pytest.mark.parametrize("hidden", ["[]", "[64, 16]"])
    def test_ait_behind_towers_of_another_width(self, hidden):
        message = refused("model.preset=aitm", f"model.towers.hidden={hidden}")
        assert f"model.towers.hidden is {hidden}" in message
        assert "its last width must be model.coupler.width = 32" in message

    def test_sequences_without_their_slot(self):
        message = refused("features.history={kind: sequence, table: user}")
        assert "model.sequence is `none` but there are features of kind `sequence`" in message

    def test_a_sequence_slot_without_sequences(self):
        assert "model.sequence is `pooled` but no feature has the kind `sequence`" in refused(
            "model.sequence.type=pooled"
        )

    def test_bias_features_without_their_slot(self):
        message = refused("features.position={kind: bias, table: user}")
        assert "model.bias is `none` but there are features of kind `bias`" in message

    def test_a_preset_without_its_slots_overridden(self):
        trunk = small("model.trunk.dropout=0.5").model.trunk
        assert isinstance(trunk, SharedBottom)
        assert (trunk.hidden, trunk.dropout) == ([256, 128], 0.5)

    def test_a_model_without_a_preset(self):
        assert load_config(None, ["model={trunk: {type: mmoe}}"], text=SMALL).model.preset is None


class TestTrain:
    def test_a_batch_that_workers_cannot_share_evenly(self):
        assert small("train.batch_size=10", "train.workers=4").train.batch_size == 10

    def test_a_batch_smaller_than_the_workers(self):
        message = refused("train.batch_size=3", "train.workers=4")
        assert "train.batch_size is 3, fewer rows than train.workers = 4; set it to 4 or more" in message

    def test_a_range_of_workers(self):
        train = small("train.workers={min: 2, max: 8}").train
        assert (train.min_workers, train.workers, train.fewest_workers) == (2, 8, 2)
        assert small("train.workers=3").train.fewest_workers == 3

    @pytest.mark.parametrize(
        ("workers", "says"),
        [
            ("{min: 4, max: 2}", "train.min_workers is 4, above workers, 2; swap them"),
            ("{min: 2}", "train.workers has no `max`; set it to a whole number"),
            ("{min: 2, max: 4, most: 5}", "train.workers has the unknown key `most`; use `min` and `max`"),
            ("{min: 0, max: 4}", "train.min_workers is 0; expected a whole number ≥ 1"),
        ],
    )
    def test_a_range_of_workers_that_is_none(self, workers, says):
        assert says in refused(f"train.workers={workers}")

    @pytest.mark.parametrize("placement", ["{labels: {zone: a}}", "{strategy: STRICT_PACK}"])
    def test_a_placement_that_elastic_workers_cannot_keep_to(self, placement):
        assert "min_workers" in refused("train.workers={min: 1, max: 4}", f"train.placement={placement}")

    def test_an_unknown_placement(self):
        assert "train.placement.strategy is `SPRAED`; expected one of" in refused("train.placement.strategy=SPRAED")

    @pytest.mark.parametrize("metric", ["buyy.auc", "auc", "buyy.x.auc"])
    def test_an_unknown_task_in_select(self, metric):
        message = refused(f"train.select={metric}")
        assert f"train.select is `{metric}`; expected `mean_auc` or `<task>.<metric>` with one of the tasks" in message

    def test_a_task_outside_the_subset_in_select(self):
        assert "train.select is `buy.auc`" in refused("train.select=buy.auc", "tasks_subset=[click]")

    def test_early_stop_by_an_unknown_task(self):
        message = refused("train.early_stop.metric=clik.auc", "data.eval={start: 2026-01-04, end: 2026-01-04}")
        assert "train.early_stop.metric is `clik.auc`" in message
        assert "did you mean `click`?" in message

    def test_early_stop_without_evaluation(self):
        assert "train.early_stop is set but there is nothing to evaluate; set data.eval" in refused(
            "train.early_stop={}"
        )

    def test_a_known_task_in_select(self):
        assert small("train.select=buy.logloss").train.select == "buy.logloss"


def test_problems_of_several_checks_come_together():
    message = refused("train.batch_size=1", "train.workers=2", "model.sequence.type=pooled")
    assert "has 2 errors" in message
