"""The whole configuration, and the checks that need more than one section."""

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import Field, model_validator

from raymtl.config.base import Section, Words, did_you_mean
from raymtl.config.data import Data, Location
from raymtl.config.features import BiasFeature, DenseFeature, Feature, SequenceFeature, Table, TableDefaults
from raymtl.config.model import Model
from raymtl.config.tasks import Task
from raymtl.config.train import Train

Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
    Words("a name of letters, digits and `_` that does not begin with a digit"),
]


class Config(Section):
    """One run of raymtl: what to read, what to predict, with which model, and how to train it."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"),
        Words("a name of letters, digits, `_`, `.` and `-` that begins with a letter or digit"),
    ] = "run"
    """Name of the run; its folder is `<output>/<name>`. The same name continues the same run."""
    output: Location = "runs"
    """Folder or URL for run folders; on several nodes it must be storage that all of them see. A relative folder is taken from
    the folder in which the configuration is loaded."""
    data: Data
    """The logs."""
    features: Annotated[dict[Name, Feature], Field(min_length=1)]
    """What the model reads."""
    table_defaults: TableDefaults = TableDefaults()
    """What holds for every table unless its own entry says otherwise."""
    tables: dict[Name, Table] = {}
    """The embedding tables."""
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    """What the model predicts, in the order of reports."""
    tasks_subset: list[Name] | None = None
    """Train only these of the tasks; null: all. A parent left out drops that edge of the funnel."""
    model: Model
    """The model."""
    train: Train = Train()
    """The run."""

    @model_validator(mode="after")
    def _complete(self) -> "Config":
        tables = {name: _with_defaults(table, self.table_defaults) for name, table in self.tables.items()}
        object.__setattr__(self, "tables", tables)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        # Whether model and run fit the tasks can only be said of tasks that are right.
        problems = [*_table_problems(self), *_task_problems(self)] or [*_model_problems(self), *_train_problems(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def active_tasks(self) -> dict[str, Task]:
        """The tasks to train, in order, with parents outside the subset dropped."""
        names = [n for n in self.tasks if self.tasks_subset is None or n in self.tasks_subset]
        kept = {name: self.tasks[name] for name in names}
        orphan = {"parent": None}
        return {n: t.model_copy(update=orphan) if t.parent not in (None, *names) else t for n, t in kept.items()}

    def multiplies_labels(self) -> bool:
        """Whether a child's label is that of its event *and* its parent's: the model is of products of probabilities (ESMM)."""
        return self.model.coupler.type in ("product", "esm2")

    def table_of(self, feature: str) -> str:
        """Name of the table that an ID feature looks up."""
        return getattr(self.features[feature], "table", None) or feature


def _with_defaults(table: Table, defaults: TableDefaults) -> Table:
    """The table, with `table_defaults` wherever its own entry says nothing; `init` key by key."""
    own = table.model_fields_set
    update = {key: getattr(defaults, key) for key in TableDefaults.model_fields if key not in own}
    if "init" in own:
        given = {key: getattr(table.init, key) for key in table.init.model_fields_set}
        update["init"] = defaults.init.model_copy(update=given)
    return table.model_copy(update=update)


def _table_problems(config: Config) -> Iterator[str]:
    lookups = {name: config.table_of(name) for name, f in config.features.items() if not isinstance(f, DenseFeature)}
    for name, table in lookups.items():
        if table not in config.tables:
            near = did_you_mean(table, config.tables)
            yield f"features.{name} looks up table `{table}`, which `tables` does not have; add tables.{table}.rows{near}"
    for table in config.tables:
        if table not in lookups.values():
            yield f"tables.{table} is looked up by no feature; remove it or name it in a feature's `table`"


def _task_problems(config: Config) -> Iterator[str]:
    if config.tasks_subset == []:
        yield "tasks_subset is empty; leave it out to train all tasks"
    for name in config.tasks_subset or []:
        if name not in config.tasks:
            yield f"tasks_subset names `{name}`, {_no_task(name, config)}"
    seen: list[str] = []
    for name, task in config.tasks.items():
        if task.parent is not None:
            if task.parent not in config.tasks:
                yield f"tasks.{name}.parent is `{task.parent}`, {_no_task(task.parent, config)}"
            elif task.parent not in seen:
                yield f"tasks.{name} stands before its parent `{task.parent}`; list the funnel from its top"
            elif task.kind != "binary" or config.tasks[task.parent].kind != "binary":
                yield f"tasks.{name}.parent is `{task.parent}`; both ends of a funnel step must be `binary` tasks"
        if task.kind == "binary" and task.base_rate is not None and task.base_rate >= 1:
            yield f"tasks.{name}.base_rate is {task.base_rate}; a `binary` task needs a value below 1"
        if task.transform != "none" and task.kind != "real":
            yield f"tasks.{name}.transform is `{task.transform}`; only a `real` task can be transformed"
        seen.append(name)


def _model_problems(config: Config) -> Iterator[str]:
    model, tasks = config.model, config.active_tasks()
    if model.trunk.type == "single_task" and len(tasks) != 1:
        yield (
            f"model.trunk is `single_task` but there are {len(tasks)} tasks {_names(tasks)}; "
            f"train one at a time with `--set tasks_subset=[{next(iter(tasks))}]`"
        )
    if model.trunk.type == "ple" and model.trunk.task_experts + model.trunk.shared_experts == 0:
        yield "model.trunk has no experts at all; set task_experts or shared_experts above 0"
    funnel = any(task.parent is not None for task in tasks.values())
    if model.order_loss.alpha > 0 and not funnel:
        yield (
            f"model.order_loss.alpha is {model.order_loss.alpha} but no task has a `parent`; "
            "set tasks.<name>.parent, or alpha to 0"
        )
    if model.coupler.type == "ait" and not funnel:
        yield "model.coupler is `ait`, which passes information along the funnel, but no task has a `parent`; set one"
    if model.coupler.type == "ait" and model.towers.hidden[-1:] != [model.coupler.width]:
        yield (
            f"model.towers.hidden is {model.towers.hidden}; with the coupler `ait` its last width must be "
            f"model.coupler.width = {model.coupler.width}"
        )
    sequences = any(isinstance(f, SequenceFeature) for f in config.features.values())
    if sequences and model.sequence.type == "none":
        yield (
            "model.sequence is `none` but there are features of kind `sequence`; "
            "set model.sequence.type to `pooled`, or remove them"
        )
    if not sequences and model.sequence.type != "none":
        yield f"model.sequence is `{model.sequence.type}` but no feature has the kind `sequence`; add one, or set it to `none`"
    if model.bias.type == "none" and any(isinstance(f, BiasFeature) for f in config.features.values()):
        yield "model.bias is `none` but there are features of kind `bias`; set model.bias, or remove them"


def _train_problems(config: Config) -> Iterator[str]:
    train = config.train
    if train.batch_size % train.workers:
        yield (
            f"train.batch_size is {train.batch_size}, which train.workers = {train.workers} cannot share evenly; "
            f"{train.batch_size // train.workers * train.workers or train.workers} can"
        )
    chosen = {"train.select": train.select}
    if train.early_stop is not None:
        chosen["train.early_stop.metric"] = train.early_stop.metric
        if config.data.eval is None:
            yield "train.early_stop is set but there is nothing to evaluate; set data.eval, or remove it"
    for path, metric in chosen.items():
        task = metric.rpartition(".")[0]
        if metric != "mean_auc" and task not in config.active_tasks():
            yield (
                f"{path} is `{metric}`; expected `mean_auc` or `<task>.<metric>` with one of the tasks "
                f"{_names(config.active_tasks())}{did_you_mean(task, config.active_tasks())}"
            )


def _no_task(name: str, config: Config) -> str:
    return f"which is not one of the tasks {_names(config.tasks)}{did_you_mean(name, config.tasks)}"


def _names(named: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in named)
