"""A run in Weights & Biases."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raymtl.config.track import Wandb
from raymtl.tracking.tracker import Outcome, Sample, Tracker

_FINISH_S = 20.0
_INIT_S = 30.0


class WandbRun(Tracker):
    """A run of a project. Without network, `WANDB_MODE=offline` keeps it in `folder`, for `wandb sync`."""

    def __init__(self, settings: Wandb, folder: str | None):
        """`folder`: a local one for its files, unless WANDB_DIR names another; None: the current one."""
        self._settings, self._folder = settings, folder
        self._run: Any = None

    @property
    def title(self) -> str:
        at = "offline" if _mode() == "offline" else os.environ.get("WANDB_BASE_URL")
        return f"Weights & Biases ({at})" if at else "Weights & Biases"

    def start(self, name: str, known: str | None) -> str:
        import wandb

        quiet = wandb.Settings(
            console="off",  # it would take over standard output
            silent=True,
            reinit="create_new",  # the end of a day and the start of the next one overlap
            init_timeout=_INIT_S,
            finish_timeout=_FINISH_S,
            disable_git=True,
            save_code=False,
        )
        wandb.setup(wandb.Settings(silent=True))
        if _mode() == "online" and not wandb.login(prompt=False):
            raise RuntimeError("there is no API key: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        self._run = wandb.init(
            project=self._settings.project or os.environ.get("WANDB_PROJECT") or "raymtl",
            name=name,
            id=known or secrets.token_hex(4),
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or self._folder,
            settings=quiet,
        )
        # Not wandb's own step: a run that resumes from a checkpoint repeats steps
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return self._run.id

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def log(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            self._run.log({"step": sample.step, **sample.values})

    def add_facts(self, facts: Mapping[str, str]) -> None:
        self._run.config.update({"raymtl": {**self._run.config.get("raymtl", {}), **facts}}, allow_val_change=True)

    def add_file(self, name: str, text: str) -> None:
        path = Path(self._run.dir, name)
        path.write_text(text)
        self._run.save(str(path), base_path=self._run.dir, policy="now")

    def finish(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=0 if outcome == "finished" else 1)


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or "online"
