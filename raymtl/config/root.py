"""The configuration, and the checks that need more than one section."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from raymtl.config.base import ExpectedText, Section, did_you_mean, not_a_task, quoted
from raymtl.config.cross_checks import cross_problems
from raymtl.config.daily import Daily
from raymtl.config.data import Data, Location
from raymtl.config.features import (
    BiasFeature,
    BucketFeature,
    CrossFeature,
    Feature,
    IdFeature,
    Table,
    TableDefaults,
    Tableless,
    columns_of,
    table_of,
    with_bucket_tables,
)
from raymtl.config.metrics import MEAN_AUC, parse_metric
from raymtl.config.model import Model
from raymtl.config.model_checks import model_problems
from raymtl.config.roles import NotSearched, Role
from raymtl.config.score import Score, score_problems
from raymtl.config.task_kinds import KINDS
from raymtl.config.tasks import Task
from raymtl.config.train import Train
from raymtl.config.tune import Tune

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
        problems = [*_table_problems(self), *crosses, *_task_problems(self)] or [
            *self._model_problems(),
            *_train_problems(self),
            *_daily_problems(self),
            *self._score_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _model_problems(self) -> Iterator[str]:
        active, has_scenario = self.active_tasks(), self.data.scenario is not None
        return model_problems(self.model, self.tasks, active, self.features, self.tables, has_scenario)

    def _score_problems(self) -> Iterator[str]:
        if self.score is None:
            return
        has_lists = self.data.by_request or self.data.group is not None
        derives = self.model.coupler.type in ("product", "esm2", "custom")
        columns = {column for name in self.features for column in columns_of(name, self.features)}
        yield from score_problems(self.score, self.active_tasks(), has_lists, derives, columns)

    def active_tasks(self) -> dict[str, Task]:
        """The tasks to train, in order, with parents outside the subset dropped."""
        names = [n for n in self.tasks if self.tasks_subset is None or n in self.tasks_subset]
        kept = {name: self.tasks[name] for name in names}
        orphan = {"parent": None}
        return {n: t.model_copy(update=orphan) if t.parent not in (None, *names) else t for n, t in kept.items()}

    def multiplies_labels(self) -> bool:
        """Whether a child's label is that of its event *and* its parent's: the coupler multiplies probabilities (ESMM)."""
        return self.model.coupler.type in ("product", "esm2")

    def label_delays(self) -> dict[str, int]:
        """Days until the labels of each task are final: the maximum over the task and those that its labels use."""
        found: dict[str, int] = {}
        for name, task in self.tasks.items():  # conditions and parents stand before the tasks that name them
            made_with = (task.given, task.parent if self.multiplies_labels() else None)
            found[name] = max(task.delay_days, *(found[other] for other in made_with if other is not None), 0)
        return found

    def user_features(self) -> list[str]:
        """Names of the features that are the same for all candidates of a request, in order; see `side`."""

        def is_of_user(name: str, feature: Feature) -> bool:
            if isinstance(feature, CrossFeature):
                return all(is_of_user(part, self.features[part]) for part in feature.of)
            if feature.side is not None:
                return feature.side == "user"
            own = feature.kind == "sequence" or name in getattr(self.model.sequence, "user", [])
            return own or (feature.column or name) == self.data.group

        return [name for name, feature in self.features.items() if is_of_user(name, feature)]

    def request_features(self) -> list[str]:
        """Names of the features that are read and looked up once per request, in order; none without `data.request`."""
        if not self.data.by_request:
            return []
        return [name for name in self.user_features() if not isinstance(self.features[name], BiasFeature)]

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
    if "init" in own:
        given = {key: getattr(table.init, key) for key in table.init.model_fields_set}
        update["init"] = defaults.init.model_copy(update=given)
    return table.model_copy(update=update)


def _table_problems(config: Config) -> Iterator[str]:
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
        for key in ("lr", "optimizer"):
            if not spec.trainable and (value := getattr(spec, key)) is not None:
                yield f"tables.{name}.{key} is {value}, but the table is not `trainable`; remove one of the two"
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


def _task_problems(config: Config) -> Iterator[str]:
    if config.tasks_subset == []:
        yield "tasks_subset is empty; leave it out to train all tasks"
    for name in config.tasks_subset or []:
        if name not in config.tasks:
            yield f"tasks_subset names `{name}`, {not_a_task(name, config.tasks)}"
    seen: list[str] = []
    for name, task in config.tasks.items():
        if task.parent is not None:
            if task.parent not in config.tasks:
                yield f"tasks.{name}.parent is `{task.parent}`, {not_a_task(task.parent, config.tasks)}"
            elif task.parent == name:
                yield f"tasks.{name}.parent is the task itself; set it to the task before it in the funnel, or remove it"
            elif task.parent not in seen:
                yield f"tasks.{name} is listed before its parent `{task.parent}`; move `{task.parent}` before `{name}`"
            elif not (task.is_event and config.tasks[task.parent].is_event):
                yield f"tasks.{name}.parent is `{task.parent}`; both ends of a funnel step must be `binary` tasks"
        if task.given is not None:
            yield from _condition_problems(name, task.given, config, seen)
        yield from _value_problems(f"tasks.{name}", task)
        high = task.traits.labels.high
        if high is not None and task.base_rate is not None and task.base_rate >= high:
            yield f"tasks.{name}.base_rate is {task.base_rate}; a `{task.kind}` task needs a value below {high:g}"
        if task.transform != task.traits.transform:
            fitting = quoted(kind.name for kind in KINDS if kind.transform == task.transform)
            yield f"tasks.{name}.transform is `{task.transform}`; only a {fitting} task can be transformed"
        seen.append(name)


def _value_problems(key: str, task: Task) -> Iterator[str]:
    """The problems of a task's `positive` and `negative`."""
    if task.positive is None and task.negative is None:
        return
    if not task.is_event:
        yield f"{key} is `{task.kind}` but has `positive` or `negative`; remove it, or set {key}.kind to `binary`"
    elif task.positive is None or task.negative is None:
        there, other = ("positive", "negative") if task.negative is None else ("negative", "positive")
        yield f"{key} has `{there}` but no `{other}`; set {key}.{other} to the values that count as {'01'[there == 'negative']}"
    else:
        words = [str(value) for value in (*task.positive, *task.negative)]
        if twice := next((word for word in words if words.count(word) > 1), None):
            yield f"{key}.positive and negative have `{twice}` {words.count(twice)} times; list it once"


def _condition_problems(name: str, given: str, config: Config, before: list[str]) -> Iterator[str]:
    """The problems of a task's `given`; the tasks of `before` are listed before it."""
    task, key = config.tasks[name], f"tasks.{name}.given"
    if given not in config.tasks:
        yield f"{key} is `{given}`, {not_a_task(given, config.tasks)}"
    elif given == name:
        yield f"{key} is the task itself; set it to the task that must have happened, or remove it"
    elif given not in before:
        yield f"tasks.{name} is listed before its condition `{given}`; move `{given}` before `{name}`"
    elif not config.tasks[given].is_event:
        yield f"{key} is `{given}`, a `{config.tasks[given].kind}` task; only a `binary` one can be a condition"
    if task.parent is not None:
        yield (
            f"tasks.{name} has both `parent` and `given`; a conditional task cannot be part of the funnel, whose tasks are all "
            "defined on all impressions: remove one of the two"
        )
    if children := [n for n, t in config.tasks.items() if t.parent == name]:
        yield (
            f"tasks.{children[0]}.parent is `{name}`, which has `given`; a conditional task cannot be part of the funnel: "
            "remove one of the two"
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
