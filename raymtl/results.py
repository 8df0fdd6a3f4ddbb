"""What the functions of `raymtl` return: plain dicts that are written as JSON too, with the keys that a user may rely on."""

from typing import Any, NotRequired, TypedDict


class RunResult(TypedDict):
    """A finished run, as `result.json` of its folder holds it."""

    status: str
    """`finished`."""
    metrics: dict[str, Any]
    """`eval`: task → metric → value on the evaluation days; `scenarios` and more beside it (docs/metrics.md)."""
    best: dict[str, Any] | None
    """The evaluation with the highest score, if the run chose one."""
    rows_trained: int
    rows_left_out: int
    rows_per_s: float
    steps: int
    fill: float
    """Rows per step as a share of `train.batch_size`."""
    epochs: int
    starts: int
    """How often workers were started: 1 without a failure."""
    seconds: float
    config_hash: str
    base_rates: dict[str, float]
    data_range: dict[str, list[str]]
    """First and last day, of `train` and `eval`."""
    snapshots: dict[str, int]
    """Of `train` and `eval`, the snapshot that was read if the data are a table: its version (Delta Lake) or ID (Iceberg)."""
    workers: int
    precision: str
    """`fp32` or `bf16`."""
    parameters: Any
    sharding: Any
    peak_memory_bytes: Any
    packages: dict[str, str]
    start_seconds: NotRequired[dict[str, float]]
    """Seconds of each phase of the command: `checks` (with the imports), `ray`, `id_maps`, `workers` (until they have imported
    their code), `model`, `first_step`, `steps` and `end` (what follows the last step); phases that did not take place are
    missing."""
    id_maps: NotRequired[dict[str, Any]]
    """Of every table of `id_space: map`: what its ID map holds."""


class TrainResult(RunResult):
    """A finished run and where it is."""

    run_dir: str
    """Folder of the run, `<output>/<name>`."""


class EvaluateResult(TypedDict):
    """The metrics of one checkpoint."""

    checkpoint: str
    step: int
    data_range: dict[str, list[str]]
    snapshots: dict[str, int]
    metrics: dict[str, Any]


class TuneResult(TypedDict):
    """A search, as `result.json` of its folder holds it."""

    status: str
    """`finished`, or `stopped` before its end."""
    folder: str
    best: int | None
    """Number of the trial that measured best within the limits, if only by chance; None: none has finished."""
    best_fields: dict[str, Any]
    """What it changes."""
    recommended: int | None
    """Number of the trial to use: the best one if its gain is beyond chance, else that of the configuration as it is."""
    best_config: str | None
    """Path of `best.yaml`, the recommended configuration."""
    default: int | None
    """Number of the trial of the configuration as it is."""
    objective: list[str]
    front: list[int]
    """The trials of the Pareto front, with more than one objective."""
    trials: dict[str, int]
    """How many finished, stopped, failed and are running."""
    failures: dict[int, str | None]
    repeats: list[dict[str, Any]]
    """The best trial's gain over the default on fresh seeds, per number of the objective and per limit."""
    train_seconds: float
    start_seconds: float
    report: NotRequired[str]
    """Path of `report.html`, once it is written."""


class ScoreResult(TypedDict):
    """A finished scoring, as `_SUCCESS` of its folder holds it."""

    version: str
    manifest: str
    store: str
    data: str
    input: str
    snapshot: int | None
    """Of a table."""
    keys: dict[str, str]
    predictions: list[str]
    """Columns of predictions, and then of scores."""
    formulas: dict[str, dict[str, Any]] | None
    top: dict[str, Any] | None
    """Which rows were kept; None: all."""
    rows: int
    users_computed: int
    scorer_seconds: float
    cpu_seconds: float
    files: list[dict[str, Any]]
    seconds: float


class ScoreSearchResult(TypedDict):
    """A finished search for a formula, as its `result.json` holds it; numbers are pairs with half their 95 % interval."""

    version: str
    formula: str
    at: int
    gain: dict[str, float]
    tasks: list[str]
    lists: dict[str, int]
    """To fit on, to judge on, and of the randomised slice."""
    users: dict[str, int]
    trials: int
    seconds: float
    trials_per_minute: int
    recommended: str
    """`best` or `current`."""
    formulas: dict[str, dict[str, Any]]
    front: list[dict[str, Any]]
    folder: str
    report: str


class ExportResult(TypedDict):
    """Exported programs, as `model.json` describes them."""

    format: int
    version: str
    data: dict[str, Any]
    quantization: str
    program_format: str
    outputs: list[dict[str, Any]]
    programs: dict[str, dict[str, Any]]
    features: dict[str, Any]
    torch: str
    scenario: NotRequired[dict[str, Any]]
    state: NotRequired[dict[str, Any]]
    tables: NotRequired[dict[str, Any]]


class ExplainResult(TypedDict):
    """What the columns of the logs are worth to a version (docs/explain.md).

    An importance is `{"value", "low", "high"}`: by how much the task's metric gets worse, and its 95 % interval (null: not
    known).
    """

    version: str
    store: str
    data: str | list[str]
    days: list[str]
    rows: int
    """Rows of the sample."""
    rows_of_days: int
    groups: int | None
    """Users of the sample, if the configuration has `data.group`."""
    seed: int
    notes: list[str]
    metrics: dict[str, dict[str, Any]]
    """By task: `metric`, `value`, and `half` of its interval."""
    columns: dict[str, dict[str, Any]]
    """By column: `features`, `verdict`, `stands_in`, `twin`, `importance` by task, `scenarios`, `bytes_per_row`, `tables`,
    `table_bytes`, `training_bytes`."""
    groups_alike: list[dict[str, Any]]
    """Columns that say the same: `columns`, `association`, and by task `importance`, `sum` and `excess`."""
    proposal: dict[str, Any]
    """`useless`, `redundant` (each with the column that stays), `importance` of all together, and what they cost."""
    fall: dict[str, Any] | None
    """With a baseline: by task `before`, `after`, `fall`, `has_fallen` and `causes`."""
    check: dict[str, Any] | None
    """With `check`: by task the metric `with` and `without` the columns, and the interval of the `change`."""
    seconds: float
    report: NotRequired[str]
    """Path of the page."""
