"""The workers' job for a day: the configuration of their session, and what they read, score, train and write."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.daily.calendar import ancestor_before, comparison_versions
from raymtl.daily.day_maps import DayMaps, version_maps
from raymtl.daily.input_plan import DayPlans, held_out_input, training_input
from raymtl.daily.record import Record, folder
from raymtl.data.ids.id_map import MapFile
from raymtl.data.read import Input
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import snapshots_of
from raymtl.errors import VersionError
from raymtl.model_store import store as versions
from raymtl.model_store.draft import Draft, can_be_delta_of
from raymtl.model_store.manifest import Manifest, new_id
from raymtl.model_store.store import Listed
from raymtl.storage.object_store import Store
from raymtl.training.job import Job
from raymtl.training.resources import ResourceGrant
from raymtl.training.rundir import RunFolder, run_folder

CANDIDATE, BASE = "candidate", "base"
"""Inputs of the held-out rows: for the candidate, and for the previous version with its own maps."""
NEXT_DAY = "next day"
"""Inputs of days that no version has seen, for the previous version; named `next day <delay in days>`."""
COMPARED = "compared with"
"""Inputs of the held-out rows for older versions, with their own maps; named `compared with <name of the comparison>`."""

_UNKNOWN_RATE = 0.5
"""Of a task whose mean label the base does not know."""


@dataclass(frozen=True)
class Score:
    """A version to score before training."""

    name: str
    """Name of the score, and of its input in `Job.inputs`."""
    version: str


@dataclass
class DayJob(Job):
    """What the driver passes to every worker; `inputs` has `train`, `candidate` and the input of every score."""

    store: Store | None = None
    measurements_file: str = ""
    """Object of the store in which the session saves its measurements."""
    scores: list[Score] = field(default_factory=list)
    """In this order; those of `base` come last, so that it is loaded only once."""
    base: str | None = None
    """Version to start from; None: train from scratch."""
    base_maps: Mapping[str, MapFile] = field(default_factory=dict)
    """Its ID maps."""
    delta: bool = False
    """Write only the rows that differ from `base`."""
    accumulator_decay: float = 1.0
    train_dense: bool = True
    draft: Draft | None = None
    """The version to write."""

    @property
    def run(self) -> str:
        """Name in the user's configuration; the session has another one each day."""
        return self.config.name if self.draft is None else self.draft.config.name

    @property
    def maps(self) -> dict[str, MapFile]:
        """The day's ID maps."""
        return {name: file for name, file in self.inputs["train"].maps.items() if file is not None}


def session_config(config: Config, plans: DayPlans, day: dt.date, output: str, record: Record) -> Config:
    """The workers' configuration: the user's, with the changes for the day."""
    assert config.daily is not None
    train = config.train
    changes: dict[str, Any] = {"eval_every_units": None, "early_stop": None}
    if record.parent is not None:
        factor = config.daily.dense_lr_factor or 1.0
        dense = train.dense_optimizer.model_copy(update={"lr": train.dense_optimizer.lr * factor})
        changes |= {"epochs": 1, "schedule": config.daily.schedule, "dense_optimizer": dense}
    days = DayRange(start=dt.date.fromisoformat(plans.train.days[0]), end=day)
    data = config.data.model_copy(update={"train": days, "eval": None, "eval_path": None, "eval_snapshot": None})
    name = f"run-{record.attempt}"
    return config.model_copy(
        update={"train": train.model_copy(update=changes), "data": data, "output": output, "name": name}
    )


def day_job(
    user_config: Config,
    config: Config,
    store: Store,
    listed: list[Listed],
    chain: list[Manifest],
    plans: DayPlans,
    maps: DayMaps,
    grant: ResourceGrant,
    record: Record,
) -> tuple[DayJob, list[str]]:
    """The job, and notes on what cannot be scored.

    `user_config` is the configuration stored in the version, `config` that of the session; `chain` ends with the version that the
    day starts from, and is empty for a first version.
    """
    daily, base, day = user_config.daily, chain[-1] if chain else None, record.date
    assert daily is not None
    inputs = {
        "train": training_input(plans, config, day, maps.after),
        CANDIDATE: held_out_input(plans, config, day, maps.after),
    }
    work = f"{folder(day)}/run-{record.attempt}"
    scores: list[Score] = []
    notes: list[str] = []
    if base is not None:
        for name, older in _compared(user_config, listed, base, day, notes).items():
            try:
                before = _maps_of(older, base, store, user_config, maps, f"{work}/maps", name.replace(" ", "-"))
            except VersionError as error:
                notes.append(f"version {older.id} ({name}) could not be compared with: {error}")
                continue
            inputs[f"{COMPARED} {name}"] = held_out_input(plans, config, day, before)
            scores.append(Score(f"{COMPARED} {name}", older.id))
        for delay in sorted(plans.next_day, reverse=True):
            of = day - dt.timedelta(days=delay)
            scored = ancestor_before(listed, base, of)
            if scored is None:
                notes.append(
                    f"no version could be scored on the labels of {of}: the version before that day was removed"
                )
                continue
            try:
                before = _maps_of(scored, base, store, user_config, maps, f"{work}/maps", f"before-{delay}")
            except VersionError as error:
                notes.append(f"version {scored.id} could not be scored on the labels of {of}: {error}")
                continue
            inputs[f"{NEXT_DAY} {delay}"] = Input(plans.next_day[delay], True, before)
            scores.append(Score(f"{NEXT_DAY} {delay}", scored.id))
        inputs[BASE] = held_out_input(plans, config, day, maps.before)
        scores.append(Score(BASE, base.id))
    rates = _base_rates(config, plans, base)
    draft = Draft(
        new_id(day),
        user_config,
        {"train": list(plans.day_rows.days)},
        parent=base.id if base else None,
        snapshots=snapshots_of({"train": plans.day_rows}),
        base_rates={name: float(rate) for name, rate in (base.base_rates if base else rates).items()},
    )
    job = DayJob(
        config,
        inputs,
        rates,
        RunFolder.open(run_folder(config)),
        None,
        grant.read_tasks,
        grant.threads,
        record.config_hash,
        store=store,
        measurements_file=f"{work}/measured.json",
        scores=scores,
        base=base.id if base else None,
        base_maps=maps.before,
        delta=base is not None and len(chain) < daily.full_every and can_be_delta_of(base, user_config),
        accumulator_decay=daily.accumulator_decay if base else 1.0,
        train_dense=base is None or daily.dense_lr_factor > 0,
        draft=draft,
    )
    return job, notes


def _base_rates(config: Config, plans: DayPlans, base: Manifest | None) -> Mapping[str, float]:
    """The mean labels of the base, whose heads have learned them; the mean weights of labels are those of the day's files."""
    if base is None:
        return sample_base_rates(config, plans.day_rows)
    tasks = config.active_tasks()
    known = {name: base.base_rates.get(name, _UNKNOWN_RATE) for name in tasks}
    weighted = any(config.has_weights(task) for task in tasks.values())
    # Not those of the day's rows alone: labels that have become final lie in older files
    return sample_base_rates(config, plans.train, known) if weighted else known


def _compared(
    config: Config, listed: list[Listed], base: Manifest, day: dt.date, notes: list[str]
) -> dict[str, Manifest]:
    """The older versions to measure on the held-out rows, without the base, which is measured anyway; adds a note on any other
    that is left out."""
    assert config.daily is not None
    days_ago = config.daily.compare_days_ago
    if days_ago is None:
        return {}
    found = comparison_versions(listed, base, day, days_ago)
    if (
        len(found) == 1
        and days_ago >= config.daily.keep
        and found["first"].data_end < day - dt.timedelta(days=days_ago)
    ):
        notes.append(
            f"the version of {days_ago} days ago was removed, because daily.keep is {config.daily.keep}: set it above "
            f"daily.compare_days_ago to compare with it"
        )
    for name, older in list(found.items()):
        if other := _other_model(config, older):
            notes.append(
                f"version {older.id} ({name}) was not compared with: its {other} differ from the configuration's"
            )
        if other or older.id == base.id:
            del found[name]
    return found


def _other_model(config: Config, version: Manifest) -> str | None:
    """What makes the metrics of a version incomparable; differences of shape show when it is loaded."""
    if list(version.config.get("tasks", {})) != list(config.tasks):
        return "tasks"
    return "tables" if set(version.tables) != set(config.tables) else None


def _maps_of(
    scored: Manifest, base: Manifest, store: Store, config: Config, maps: DayMaps, folder: str, name: str
) -> dict:
    """The ID maps of a version to score, saved in `folder` under `name`.

    Raises VersionError if it lacks the map of a table in the configuration.
    """
    if scored.id == base.id:
        return maps.before
    found = version_maps(store, versions.chain(store, scored), config, folder, name)
    if missing := set(config.map_tables()) - set(found):
        raise VersionError(f"it has no ID map of table `{sorted(missing)[0]}`")
    return found
