"""What the tables' optimizers cannot do is refused, and Adam's count of steps survives a resume."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from raymtl.errors import ConfigError
from raymtl.model_store import store as versions
from raymtl.model_store.loader import load_version
from raymtl.model_store.writer import write_version
from raymtl.storage.object_store import Store
from raymtl.training import checkpoint
from raymtl.training.build import TrainState
from raymtl.training.progress import Progress
from tests.helpers.served_version import alone
from tests.helpers.small_config import small
from tests.helpers.version_models import contents, draft, logits, make, mixed_config, train

ADAM = mixed_config(["replicated"], "adam")


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad", "sgd"])
def test_weight_decay_is_refused_where_some_kernel_ignores_it(kind: str) -> None:
    with pytest.raises(ConfigError) as error:
        small(f"train.sparse_optimizer={{type: {kind}, weight_decay: 0.1}}")
    assert str(error.value) == (
        f"the configuration: train.sparse_optimizer.weight_decay is 0.1, but type is `{kind}`, and only fbgemm's `adam` decays "
        "the rows of every table; set it to 0, or use `adam` on GPUs (given by --set)"
    )


def from_checkpoint(built: TrainState, again: TrainState, root: Path) -> None:
    checkpoint.save(built, Progress(step=3), str(root), dist.group.WORLD, background=False)
    checkpoint.load(again, str(root), model_only=False, group=dist.group.WORLD)


def from_version(built: TrainState, again: TrainState, root: Path) -> None:
    store = Store.open(str(root))
    write_version(built, store, draft(ADAM, "v1"), dist.group.WORLD)
    versions.publish(store, "v1")
    assert load_version(again, ADAM, store, "v1", dist.group.WORLD).notes == []


@pytest.mark.parametrize("resume", [from_checkpoint, from_version])
def test_adam_resumes_as_if_it_had_not_stopped(
    resume: Callable[[TrainState, TrainState, Path], None], tmp_path: Path
) -> None:
    with alone():
        built, again = make(ADAM), make(ADAM)
        train(built, ADAM, range(3))
        resume(built, again, tmp_path)
        train(built, ADAM, range(3, 6))
        train(again, ADAM, range(3, 6))
        expected = contents(built)
        assert {key for key, value in contents(again).items() if not torch.equal(value, expected[key])} == set()
        assert torch.equal(logits(again, ADAM), logits(built, ADAM))


def test_the_kernels_of_sharded_tables_count_on() -> None:
    """fbgemm's Adam needs a GPU; all its kernels have the same counter."""
    with alone():
        built = make(mixed_config(["row_wise"]))
        built.optimizers.set_table_steps(7)
        kernels = built.optimizers._kernels
        assert [(int(k.iter), int(k.iter_cpu)) for k in kernels] == [(7, 7)] * len(kernels) != []
