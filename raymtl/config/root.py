"""The configuration, and the checks that need more than one section."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from raymtl.config.base import ExpectedText, Section, did_you_mean, quoted
from raymtl.config.calibration import Calibration, calibration_problems, delay_problems
from raymtl.config.cross_checks import cross_problems
from raymtl.config.daily import Daily
from raymtl.config.data import Data, Location
from raymtl.config.early_checks import early_problems
from raymtl.config.early_labels import EarlyLabels
from raymtl.config.features import (
    BiasFeature,
    BucketFeature,
    CrossFeature,
    Feature,
    IdFeature,
    SequenceDenseFeature,
    SequenceFeature,
    Table,
    TableDefaults,
    Tableless,
    columns_of,
    table_of,
    with_bucket_tables,
)
from raymtl.config.list_checks import list_problems
from raymtl.config.loss_checks import loss_problems
from raymtl.config.losses import Within
from raymtl.config.metrics import MEAN_AUC, parse_metric
from raymtl.config.model import Model
from raymtl.config.model_checks import model_problems
from raymtl.config.roles import NotSearched, Role
from raymtl.config.sampling import leak_problems, sampling_problems
from raymtl.config.score import Score, score_problems
from raymtl.config.slots.common import Custom
from raymtl.config.slots.coupler import ESM2, MULTIPLYING, Product
from raymtl.config.slots.sequence import DUPNSequence
from raymtl.config.task_checks import task_problems
from raymtl.config.tasks import Task
from raymtl.config.train import Train
from raymtl.config.tune import Tune
from raymtl.config.wiring import compared_lists, esm2_outputs, predictions, product_outputs
from raymtl.errors import ConfigError

_OF_UPDATES = ("lr", "optimizer")
"""Keys of a table that say how its rows are updated."""
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""Pattern of the names of runs."""
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"),
    ExpectedText("a name of letters, digits and `_` that does not begin with a digit, at most 100 characters"),
]


class Config(Section):
    """One run of raymtl: what to read, what to predict, with which model, and how to train it."""

    name: Annotated[
        str,
        Field(pattern=RUN_NAME),
        ExpectedText(
            "a name of letters, digits, `_`, `.` and `-` that begins with a letter or digit, at most 100 characters"
        ),
        Role.NAME,
        NotSearched("it names the folder of the search"),
    ] = "run"
    """Name of the run; its folder is `<output>/<name>`. The same name resumes the same run."""
    output: Annotated[Location, Role.OUTPUT, NotSearched("it is where the search is kept")] = "runs"
    """Folder or URL for run folders; with several nodes it must be storage that all of them can access. A relative path
    starts at the current working directory."""
    data: Annotated[Data, NotSearched("all trials read the same rows")]
    """The logs."""
    features: Annotated[dict[Name, Feature], Field(min_length=1)]
    """What the model reads."""
    table_defaults: TableDefaults = TableDefaults()
    """The values that tables have unless their own entries set others."""
    tables: dict[Name, Table] = {}
    """The embedding tables."""
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    """What the model predicts, in the order of reports."""
    tasks_subset: Annotated[
        list[Name] | None, Role.LEARNING | Role.READ, NotSearched("all trials are measured on the same tasks")
    ] = None
    """Train only these tasks; null: all. If a task's parent is left out, the task has no parent."""
    model: Model
    """The model."""
    train: Train = Train()
    """Workers, batches, optimizers, evaluation and checkpoints."""
    score: Annotated[Score | None, NotSearched("`raymtl tune score` searches it, without training")] = None
    """The score that ranks the rows of a request, from the outputs of the model; null: there is none. It has no effect on
    training."""
    calibration: Annotated[Calibration | None, NotSearched("it changes what is measured")] = None
    """Recalibration of the probabilities on held-out users; null: predictions are the model's own."""
    daily: Annotated[Daily | None, NotSearched("no trial publishes")] = None
    """The daily job (`raymtl daily`); null: there is none."""
    tune: Annotated[Tune | None, NotSearched("a search does not change itself")] = None
    """The search (`raymtl tune`); null: there is none. Changing it does not affect resuming a run."""

    @model_validator(mode="after")
    def _complete(self) -> "Config":
        tables = with_bucket_tables(self.features, self.tables)
        tables = {name: _with_defaults(table, self.table_defaults) for name, table in tables.items()}
        object.__setattr__(self, "tables", tables)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        # Whether model and run fit the tasks can only be said of tasks that are right.
        crosses = cross_problems(self.features, self.tables)
        lists = list_problems(self.features, self.tables)
        tasks = [
            *task_problems(self.tasks, self.tasks_subset),
            *sampling_problems(self.data.sampling, self.tasks),
            *loss_problems(self.tasks, self.data),
        ]
        problems = [*_table_problems(self), *crosses, *lists, *tasks] or [
            *self._leak_problems(),
            *self._early_problems(),
            *self._model_problems(),
            *self._calibration_problems(),
            *_train_problems(self),
            *_daily_problems(self),
            *self._score_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _leak_problems(self) -> Iterator[str]:
        return leak_problems(self.data.sampling, self._feature_columns())

    def _early_problems(self) -> Iterator[str]:
        made_with = {name: self.made_with(task) for name, task in self.tasks.items()}
        columns = self._feature_columns()
        return early_problems(self.tasks, self.label_delays(), made_with, self.data, self.model, columns, self.daily)

    def _feature_columns(self) -> set[str]:
        """The columns that any feature reads."""
        return {column for name in self.features for column in columns_of(name, self.features)}

    def _model_problems(self) -> Iterator[str]:
        active, has_scenario = self.active_tasks(), self.data.scenario is not None
        return model_problems(self.model, self.tasks, active, self.features, self.tables, has_scenario)

    def _score_problems(self) -> Iterator[str]:
        if self.score is None:
            return
        derived = self._derived_outputs()
        known = predictions(self.active_tasks(), derived or {})
        columns = self._feature_columns()
        yield from score_problems(self.score, self.active_tasks(), known, derived is not None, self.data, columns)

    def _derived_outputs(self) -> dict[str, tuple[str, str]] | None:
        """The outputs of the coupler beside those of the tasks, by name; None: only the model knows."""
        coupler, active = self.model.coupler, self.active_tasks()
        if isinstance(coupler, Custom):
            return None
        try:
            if isinstance(coupler, ESM2):
                return esm2_outputs(active, coupler.click, coupler.action, coupler.buy)
            return product_outputs(active) if isinstance(coupler, Product) else {}
        except ConfigError:  # a problem of the model, and reported as such
            return None

    def _calibration_problems(self) -> Iterator[str]:
        data, is_fitted = self.data, self.data.eval is not None or self.daily is not None
        has = data.scenario is not None, data.group is not None
        yield from calibration_problems(self.calibration, self.tasks, self.active_tasks(), *has, is_fitted)
        if self.daily is not None:
            delays, multiplies = self.label_delays(), self.multiplies_labels()
            yield from delay_problems(self.calibration, self.active_tasks(), delays, multiplies)

    def active_tasks(self) -> dict[str, Task]:
        """The tasks to train, in order, with parents outside the subset dropped."""
        names = [n for n in self.tasks if self.tasks_subset is None or n in self.tasks_subset]
        kept = {name: self.tasks[name] for name in names}
        orphan = {"parent": None}
        return {n: t.model_copy(update=orphan) if t.parent not in (None, *names) else t for n, t in kept.items()}

    def multiplies_labels(self) -> bool:
        """Whether a child's label is that of its event *and* its parent's: the coupler multiplies probabilities (ESMM)."""
        return self.model.coupler.type in MULTIPLYING

    def label_delays(self) -> dict[str, int]:
        """Days until the labels of each task are final: the maximum over the task and those that its labels use."""
        found: dict[str, int] = {}
        for name, task in self.tasks.items():  # conditions and parents stand before the tasks that name them
            found[name] = max([task.delay_days, *(found[other] for other in self.made_with(task))])
        return found

    def made_with(self, task: Task) -> list[str]:
        """The tasks whose labels a task's labels use."""
        return [n for n in (task.given, task.parent if self.multiplies_labels() else None) if n is not None]

    def early_tasks(self) -> dict[str, EarlyLabels]:
        """The tasks that are trained on labels before they are final, in order."""
        return {name: task.early_labels for name, task in self.active_tasks().items() if task.early_labels is not None}

    def user_features(self) -> list[str]:
        """Names of the features that are the same for all candidates of a request, in order; see `side`."""

        def is_of_user(name: str, feature: Feature) -> bool:
            if isinstance(feature, CrossFeature):
                return all(is_of_user(part, self.features[part]) for part in feature.of)
            if isinstance(feature, SequenceDenseFeature):
                return is_of_user(feature.of, self.features[feature.of])
            if feature.side is not None:
                return feature.side == "user"
            own = feature.kind == "sequence" or name in getattr(self.model.sequence, "user", [])
            return own or (feature.column or name) == self.data.group

        return [name for name, feature in self.features.items() if is_of_user(name, feature)]

    def same_steps(self) -> list[list[str]]:
        """Names of the features of kind `sequence` that describe the same steps, several in each group."""
        section = self.model.sequence
        histories = [name for name, feature in self.features.items() if isinstance(feature, SequenceFeature)]
        groups = (
            [histories] if isinstance(section, DUPNSequence) else (getattr(section, "behaviours", None) or {}).values()
        )
        found = [[name for name in group if name in histories] for group in groups]
        return [group for group in found if len(group) > 1]

    def request_features(self) -> list[str]:
        """Names of the features that are read and looked up once per request, in order; none without `data.request`."""
        if not self.data.by_request:
            return []
        return [name for name in self.user_features() if not isinstance(self.features[name], BiasFeature)]

    def task_weights(self) -> dict[str, str]:
        """The columns with weights of one task, by task."""
        return {name: task.weight_column for name, task in self.active_tasks().items() if task.weight_column}

    def has_weights(self, task: Task) -> bool:
        """Whether the labels of a task have weights other than 1."""
        return self.data.has_weights or task.weight_column is not None

    def list_columns(self) -> list[Within]:
        """What training compares rows within, each once: reading keeps their neighbours together."""
        return list(dict.fromkeys(within for _, within in compared_lists(self.active_tasks())))

    def map_tables(self) -> list[str]:
        """Names of the tables whose IDs get their rows from a map."""
        return [name for name, table in self.tables.items() if table.id_space == "map"]

    def table_optimizers(self) -> dict[str, str]:
        """The types of the tables' optimizers, by the keys that set them."""
        own = {f"tables.{name}.optimizer": table.optimizer for name, table in self.tables.items()}
        kinds = {"train.sparse_optimizer.type": self.train.sparse_optimizer.type, **own}
        return {path: kind for path, kind in kinds.items() if kind is not None}

    def table_of(self, feature: str) -> str:
        """Name of the table that an ID feature looks up."""
        return table_of(feature, self.features[feature])


def _with_defaults(table: Table, defaults: TableDefaults) -> Table:
    """The table, with `table_defaults` for the keys that its own entry does not set; `init` key by key."""
    own = table.model_fields_set
    update = {key: getattr(defaults, key) for key in TableDefaults.model_fields if key not in own}
    if not update.get("trainable", table.trainable):  # what updates rows is not for a table without updates
        update = {key: value for key, value in update.items() if key not in _OF_UPDATES}
    if "init" in own:
        given = {key: getattr(table.init, key) for key in table.init.model_fields_set}
        update["init"] = defaults.init.model_copy(update=given)
    return table.model_copy(update=update)


def _table_problems(config: Config) -> Iterator[str]:
    for key in _OF_UPDATES:
        value = getattr(config.table_defaults, key)
        if value is not None and config.tables and not any(spec.trainable for spec in config.tables.values()):
            yield f"table_defaults.{key} is {value}, but no table is `trainable`; remove one of the two"
    lookups = {name: config.table_of(name) for name, f in config.features.items() if not isinstance(f, Tableless)}
    for name, table in lookups.items():
        if table not in config.tables:
            near = did_you_mean(table, config.tables)
            yield f"features.{name} looks up table `{table}`, which `tables` does not have; add tables.{table}.rows{near}"
    for name, feature in config.features.items():
        spec = config.tables.get(lookups.get(name, ""))
        if isinstance(feature, BucketFeature) and spec and spec.id_space == "direct" and spec.rows < feature.ids:
            yield (
                f"tables.{lookups[name]}.rows is {spec.rows}, but the buckets of features.{name} need {feature.ids}; set it to "
                f"{feature.ids} or more, or leave the table out"
            )
        null_id = feature.null_id if isinstance(feature, IdFeature) and spec and spec.id_space == "direct" else None
        if spec and null_id is not None and not (isinstance(null_id, int) and 0 <= null_id < spec.rows):
            yield (
                f"features.{name}.null_id is {null_id!r}, which is no row of the `direct` table `{lookups[name]}`; set it to a "
                f"number from 0 to {spec.rows - 1} that no ID has"
            )
    for table in config.tables:
        if table not in lookups.values():
            yield f"tables.{table} is looked up by no feature; remove it, or set a feature's `table` to `{table}`"
    for name, spec in config.tables.items():
        for key in _OF_UPDATES:
            if not spec.trainable and (value := getattr(spec, key)) is not None:
                yield f"tables.{name}.{key} is {value}, but the table is not `trainable`; remove one of the two"
        if not spec.trainable and spec.vectors is None and config.daily is None:
            yield (
                f"tables.{name} is not `trainable` and has no `vectors`, so its rows would stay random; set "
                f"tables.{name}.vectors, or trainable to true"
            )
        if spec.vocabulary and spec.id_space != "map":
            yield f"tables.{name} has a vocabulary, but its id_space is `{spec.id_space}`; set it to `map`"
        if spec.vocabulary and (spec.admit_count > 1 or spec.evict_after_days is not None):
            yield (
                f"tables.{name} has a vocabulary, whose IDs are all admitted and never evicted; set admit_count to 1 and "
                "evict_after_days to null"
            )
        if spec.id_space == "map" and spec.rows < 2:
            yield f"tables.{name}.rows is {spec.rows}; a `map` table has an unknown row and needs 2 or more"
        for key in ("admit_count", "evict_after_days"):
            value, usual = getattr(spec, key), getattr(config.table_defaults, key)
            if spec.id_space != "map" and value not in (usual, TableDefaults.model_fields[key].default):
                yield (
                    f"tables.{name}.{key} is {value}, but its id_space is `{spec.id_space}`, which admits every ID; set id_space "
                    f"to `map`, or remove {key}"
                )


def _train_problems(config: Config) -> Iterator[str]:
    train = config.train
    if train.batch_size is not None and train.batch_size < train.workers:
        yield (
            f"train.batch_size is {train.batch_size}, fewer rows than train.workers = {train.workers}; set it to "
            f"{train.workers} or more"
        )
    chosen = {"train.select": train.select}
    if train.early_stop is not None:
        chosen["train.early_stop.metric"] = train.early_stop.metric
        if config.data.eval is None:
            yield "train.early_stop is set but there is nothing to evaluate; set data.eval, or remove it"
    for path, metric in chosen.items():
        task = parse_metric(metric).task
        if metric != MEAN_AUC.name and task not in config.active_tasks():
            yield (
                f"{path} is `{metric}`; expected `mean_auc` or `<task>.<metric>` with one of the tasks "
                f"{quoted(config.active_tasks())}{did_you_mean(task, config.active_tasks())}"
            )


def _daily_problems(config: Config) -> Iterator[str]:
    daily = config.daily
    if daily is None:
        return
    if config.data.group is None:
        yield "daily needs data.group, the user column: the gate holds some users' rows out; set data.group"
    for path, kind in config.table_optimizers().items():
        if daily.accumulator_decay < 1 and kind not in ("rowwise_adagrad", "adagrad"):
            yield (
                f"daily.accumulator_decay is {daily.accumulator_decay}, but {path} is `{kind}`, which has no such accumulator; "
                "set daily.accumulator_decay to 1"
            )
