"""Publish a finished run as a version: one process builds the model, loads the checkpoint and writes the version."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.build_id_maps import saved_maps
from raymtl.errors import CheckpointError
from raymtl.model_store.manifest import Manifest, new_id
from raymtl.model_store.store import publish
from raymtl.model_store.writer import Draft, write_version
from raymtl.storage.object_store import Store
from raymtl.training import checkpoint as saved_state
from raymtl.training.build import build
from raymtl.training.checkpoint_folders import last_checkpoint
from raymtl.training.progress import read_progress
from raymtl.training.rundir import CONFIG, RunFolder, read_result, run_of


def publish_run(
    run: str, store: Store, *, checkpoint: str | None, version: str | None, check_lease: Callable[[], None]
) -> Manifest:
    """Publish a run's checkpoint (None: its last complete one) as a version of `store`, whose lease the caller holds.

    The tables must fit into the memory of this machine. Raises CheckpointError if there is no such run, or it has not finished.
    """
    run_dir = RunFolder.open(run_of(run))
    result = read_result(run_dir)
    if result is None and run_dir.read(CONFIG) is None:
        raise CheckpointError(f"there is no run `{run_dir.path}`; pass the folder of a finished run, <output>/<name>")
    status = "none" if result is None else result.get("status")
    if result is None or status != "finished":
        raise CheckpointError(
            f"the run `{run_dir.path}` has not finished (the status in its result.json: {status}); rerun `raymtl train` until it "
            f"ends, then publish it"
        )
    config = load_config(run_dir.path_of(CONFIG))
    folder = checkpoint or last_checkpoint(run_dir).path
    data_range = {part: [str(day) for day in days] for part, days in result["data_range"].items()}
    name = version or new_id(config.data.train.end)
    with _single_process_group() as group:
        progress = read_progress(folder)
        device = torch.device("cuda" if config.train.use_gpu and torch.cuda.is_available() else "cpu")
        train_state = build(
            _for_one(config), dict.fromkeys(config.active_tasks(), 0.5), 0, device, group
        )  # the checkpoint overwrites the biases
        saved_state.load(train_state, folder, model_only=False, group=group)
        draft = Draft(
            name,
            config,
            data_range,
            snapshots=result.get("snapshots", {}),
            counts={"rows": progress.rows, "steps": progress.step},
            metrics=result["metrics"] if checkpoint is None else {},
            base_rates=result.get("base_rates", {}),
        )
        maps = {table: file.load() for table, file in saved_maps(config, run_dir).items()}
        manifest = write_version(train_state, store, draft, group, maps=maps)
    publish(store, name, check_lease)
    return manifest


def _for_one(config: Config) -> Config:
    """The same model for a single worker."""
    return config.model_copy(update={"train": config.train.model_copy(update={"workers": 1})})


@contextmanager
def _single_process_group() -> Iterator[dist.ProcessGroup]:
    """A process group of this process."""
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    os.environ.setdefault("LOCAL_WORLD_SIZE", "1")  # without it TorchRec warns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            assert dist.group.WORLD is not None
            yield dist.group.WORLD
        finally:
            dist.destroy_process_group()
