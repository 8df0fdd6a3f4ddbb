"""Features (the columns that a model reads) and the embedding tables that ID features look up."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from raymtl.config.base import ExpectedText, Section
from raymtl.config.data import Day, Location
from raymtl.config.numbers import Edges, Embed, Piecewise
from raymtl.config.roles import Role


class _Source(Section):
    column: Annotated[str | None, Role.MODEL | Role.READ] = None
    """Column of the parquet files; null: the feature's own name."""
    since: Annotated[Day | None, Role.LEARNING | Role.READ] = None
    """The first day whose files must have the column, `YYYY-MM-DD`. Files of earlier days may lack it: then it is null there.
    Null: all files must have it."""


class _Column(_Source):
    side: Annotated[Literal["user", "item"] | None, Role.SERVING | Role.READ] = None
    """What the value belongs to when a request ranks candidates: `user`, the same for all candidates (the user, history, device,
    time), or `item`, one for each. A served model computes the parts that depend only on `user` features once per request
    (`docs/serving.md`), and so does training with `data.request` or `data.impressions` (`docs/requests.md`). Null: `user` for a
    `sequence`, for the column of `data.group` and for `model.sequence.user`, else `item`."""


class _Lookup(_Column):
    table: Annotated[str | None, Role.MODEL | Role.READ] = None
    """Table to look up, a key of `tables`; several features may share one. Null: the table with the feature's own name."""


class IdFeature(_Lookup):
    """One ID per row, integer or string; null looks up nothing and gives the zero vector, unless it has an ID of its own."""

    kind: Annotated[Literal["id"], Role.MODEL | Role.READ]
    """One ID."""
    null_id: Annotated[
        Annotated[int, Field(ge=-(2**63), lt=2**63)] | str | None,
        ExpectedText("a number of 64 bits or a text"),
        Role.MODEL | Role.READ,
    ] = None
    """The ID that null stands for, also in crosses, such as `unknown`: its vector is learned. A `direct` table needs a free row
    for it. Null: null looks up nothing."""

    @field_validator("null_id", mode="before")
    @classmethod
    def _is_no_flag(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("that is a flag of YAML; write a number, or quote the text")
        return value


class BucketFeature(_Lookup):
    """One number per row as an ID: the bucket between two `edges` that holds it. NaN and infinities violate the contract; null
    looks up nothing and gives the zero vector, unless it has an ID of its own.

    A table that only buckets read is `direct` unless it says otherwise, and needs no entry in `tables`: then it has a row per
    bucket."""

    kind: Annotated[Literal["bucket"], Role.MODEL | Role.READ]
    """A number by its bucket."""
    edges: Annotated[Edges, Field(min_length=1), Role.MODEL | Role.READ]
    """The limits between the buckets, ascending. The ID of a number x is the number of edges ≤ x, as in `numpy.digitize`: 0 below
    the first edge. Numbers and edges are compared as float32."""
    null_id: Annotated[Annotated[int, Field(ge=0, lt=2**31)] | None, Role.MODEL | Role.READ] = None
    """The bucket that null stands for, also in crosses; the number of `edges` plus 1 is one of its own, whose vector is learned.
    Null: null looks up nothing."""

    @property
    def ids(self) -> int:
        """A number above all IDs of the feature."""
        return max(len(self.edges), self.null_id or 0) + 1


class CrossFeature(Section):
    """The combination of 2 to 4 other features of the row as one ID, a hash of theirs (`docs/data.md`): each pair of city and age
    can then have its own embedding. If one of them is null, it looks up nothing and gives the zero vector.

    It has no column. It belongs to the user if all of them do (`side`), else to the item."""

    kind: Annotated[Literal["cross"], Role.MODEL | Role.READ]
    """A combination."""
    of: Annotated[
        list[str],
        Field(min_length=2, max_length=4),
        ExpectedText("a list of 2 to 4 names of features"),
        Role.MODEL | Role.READ,
    ]
    """Names of features of kind `id` or `bucket`. Their order is part of the hash."""
    table: Annotated[str | None, Role.MODEL | Role.READ] = None
    """Table to look up, a key of `tables` with the id_space `hash` or `map`. Null: the table with the feature's own name."""


class IdsFeature(_Lookup):
    """A list of IDs per row whose embeddings are pooled by the table's `pooling`; null and an empty list give zeros."""

    kind: Annotated[Literal["ids"], Role.MODEL | Role.READ]
    """A bag of IDs."""
    max_length: Annotated[PositiveInt | None, Role.MODEL | Role.READ] = None
    """Keep only the first `max_length` IDs of a row; null: all."""
    weights: Annotated[Annotated[str, Field(min_length=1)] | None, Role.MODEL | Role.READ] = None
    """Column with a weight ≥ 0 of each ID: lists of numbers as long as those of the IDs, or the feature's own column, if it holds
    maps from IDs to weights. The table's pooling is then Σ w e for `sum` and Σ w e / Σ w for `mean`. Null: all weigh the same."""


class SequenceFeature(_Lookup):
    """An ordered list of IDs per row, oldest first, passed unpooled to the model's sequence slot."""

    kind: Annotated[Literal["sequence"], Role.MODEL | Role.READ]
    """A history."""
    max_length: Annotated[PositiveInt, Field(le=65_536), Role.MODEL | Role.READ] = 50
    """Keep only the last (most recent) `max_length` IDs of a row."""


class Scaled(Section):
    """How a number becomes what the model reads: `clip`, then `transform`, `mean` and `std`."""

    clip: Annotated[
        tuple[float | None, float | None] | None,
        ExpectedText("a list of 2 entries, each a number or null"),
        Role.MODEL | Role.READ,
    ] = None
    """`[low, high]`: a value below `low` becomes `low`, one above `high` becomes `high`; null: no limit on that side. Applied
    before the transform."""
    transform: Annotated[Literal["none", "log1p"], Role.MODEL | Role.READ] = "none"
    """`log1p`: sign(x)·log(1+|x|), for heavy tails. Applied before `mean` and `std`."""
    mean: Annotated[float, Role.MODEL | Role.READ] = 0.0
    """Subtracted after the transform."""
    std: Annotated[PositiveFloat, Role.MODEL | Role.READ] = 1.0
    """Divides after `mean` is subtracted."""

    @field_validator("clip")
    @classmethod
    def _limits(cls, clip: tuple[float | None, float | None] | None) -> tuple[float | None, float | None] | None:
        low, high = clip or (None, None)
        if clip and low is None and high is None:
            raise ValueError("it changes nothing; set a limit, or remove it")
        if low is not None and high is not None and low >= high:
            raise ValueError("the first number must be below the second")
        return clip


class SequenceDenseFeature(Scaled, _Source):
    """A number for each step of a history, such as its age or dwell time: lists as long as those of the `sequence` feature `of`.
    A step's vector in the model's sequence slot is the embedding of its ID, followed by its numbers. A null list is unknown at
    every step; NaN and infinities violate the contract.

    It has the `max_length` and the `side` of `of`. Where the sequence slot names features (`behaviours`, `properties`), it may
    be named too; otherwise it stands behind `of`."""

    kind: Annotated[Literal["sequence_dense"], Role.MODEL | Role.READ]
    """Numbers of the steps of a history."""
    of: Annotated[str, Role.MODEL | Role.READ]
    """The feature of kind `sequence` whose steps the numbers belong to."""
    fill: Annotated[float, Role.MODEL | Role.READ] = 0.0
    """Value of null, after `mean` and `std` are applied."""


class DenseFeature(Scaled, _Column):
    """One number per row. NaN and infinities violate the contract; null becomes `fill`, or is learned (`model.input.missing`)."""

    kind: Annotated[Literal["dense"], Role.MODEL | Role.READ]
    """A number."""
    fill: Annotated[float, Role.MODEL | Role.READ] = 0.0
    """Value of null, after `mean` and `std` are applied; also the initial value of a learned one."""
    embed: Embed | None = None
    """Makes a vector of the number, which the model reads as it reads the embedding of an ID. Null: the number itself."""

    @model_validator(mode="after")
    def _edges_within_clip(self) -> "DenseFeature":
        low, high = self.clip or (None, None)
        for edge in self.embed.edges if isinstance(self.embed, Piecewise) else ():
            if (low is not None and edge < low) or (high is not None and edge > high):
                raise ValueError(
                    f"embed.edges has {edge}, outside of clip [{low}, {high}]; no value reaches it: remove it"
                )
        return self


class VectorFeature(_Column):
    """A list of `width` numbers per row, such as a pretrained embedding of the item's content; the model reads it as it reads the
    embedding of an ID. Null gives zeros. A list of another length, and a null, NaN or infinity in one, violate the contract."""

    kind: Annotated[Literal["vector"], Role.MODEL | Role.READ]
    """A vector."""
    width: Annotated[PositiveInt, Field(le=65_536), Role.MODEL | Role.READ]
    """Numbers per row."""
    project: Annotated[PositiveInt | None, Field(le=8192), Role.MODEL] = None
    """Width of a learned linear projection W v without a bias, which the model reads instead; null: the vector itself."""


class BiasFeature(_Lookup):
    """A position-like ID that may only reach the bias slot (training only), never the model's main input."""

    kind: Annotated[Literal["bias"], Role.MODEL | Role.READ]
    """A position, for example."""


Crossed = IdFeature | BucketFeature
"""The kinds that a cross is made of."""
SingleId = Crossed | CrossFeature
"""The kinds that look up one row of a table for a row of the logs, but `bias`."""
Pooled = SingleId | IdsFeature | VectorFeature
"""The kinds that give the model one vector."""
Tableless = DenseFeature | VectorFeature | SequenceDenseFeature
"""The kinds that look up no table."""

Feature = Annotated[
    IdFeature
    | IdsFeature
    | SequenceFeature
    | DenseFeature
    | BucketFeature
    | CrossFeature
    | VectorFeature
    | SequenceDenseFeature
    | BiasFeature,
    Field(discriminator="kind"),
]


class Init(Section):
    """Initial values of a table's rows."""

    distribution: Annotated[Literal["normal", "uniform", "zeros"], Role.LEARNING] = "normal"
    """`normal`: N(0, scale²). `uniform`: U(−scale, scale)."""
    scale: Annotated[NonNegativeFloat, Role.LEARNING] = 0.05
    """Standard deviation, or half width."""


class StartVectors(Section):
    """Vectors of IDs in parquet files, from which rows start; all other rows start as `init` says."""

    path: Annotated[Location, Role.LEARNING]
    """A file, or a folder of them. Each worker reads all of it once, a row group at a time."""
    id: Annotated[str, Role.LEARNING] = "id"
    """Column of the IDs, of the same type as in the logs."""
    vector: Annotated[str, Role.LEARNING] = "vector"
    """Column of the vectors, lists of `dim` numbers."""


class Vocabulary(Section):
    """The IDs of a `map` table in files, each of which has a row; all others are unknown."""

    path: Annotated[Location, Role.LEARNING | Role.LOOKUP]
    """A file, or a folder of them: parquet, or, if the name ends in `.txt`, text with an ID per line."""
    id: Annotated[str, Role.LEARNING | Role.LOOKUP] = "id"
    """Column of the IDs in parquet, of the same type as in the logs."""


class TableDefaults(Section):
    """The values that tables have unless their own entries set others."""

    dim: Annotated[
        PositiveInt,
        Field(multiple_of=4, le=8192),
        ExpectedText("a multiple of 4, as fbgemm's kernels need, up to 8192"),
        Role.MODEL,
    ] = 16
    """Width D of an embedding."""
    id_space: Annotated[Literal["hash", "direct", "map"], Role.LEARNING | Role.READ | Role.LOOKUP] = "hash"
    """How an ID becomes a row. `hash`: mix64(id) mod rows, any ID, strings too. `direct`: the ID is the row, 0 ≤ id < rows.
    `map`: each admitted ID has its own row, any ID, strings too; row 0 is shared by all others."""
    admit_count: Annotated[PositiveInt, Role.LEARNING | Role.LOOKUP] = 1
    """Only for `map`: lookups in the counting pass that a new ID needs to get a row."""
    evict_after_days: Annotated[PositiveInt | None, Role.LEARNING | Role.LOOKUP] = None
    """Only for `map`: an ID that was not seen for more than this many days loses its row; null: never."""
    pooling: Annotated[Literal["sum", "mean"], Role.LEARNING | Role.LOOKUP] = "sum"
    """How the embeddings of an `ids` feature become one vector."""
    init: Init = Init()
    """Initialisation of the rows."""
    lr: Annotated[PositiveFloat | None, Role.LEARNING] = None
    """Learning rate of the table; null: that of `train.sparse_optimizer`. Keep to few distinct values: each costs a kernel."""
    optimizer: Annotated[Literal["rowwise_adagrad", "adagrad", "adam", "sgd"] | None, Role.LEARNING] = None
    """Optimizer of the table; null: that of `train.sparse_optimizer`, whose other keys hold for it."""
    trainable: Annotated[bool, Role.LEARNING] = True
    """False: the rows keep their initial values, without a state of the optimizer; a delta version holds none of them, unless
    an ID gets another row."""
    sharding: Annotated[
        Literal["table_wise", "row_wise", "column_wise", "replicated"] | None, Role.EXECUTION | Role.LOOKUP
    ] = None
    """Fixes how the table is spread over the workers, or that each worker holds all of it (`replicated`); null: on CPUs
    raymtl replicates small tables (ADR 24), and TorchRec's planner places the rest."""

    @field_validator("id_space", mode="before")
    @classmethod
    def _no_managed_collision(cls, value: Any) -> Any:
        if value == "zch":
            raise ValueError(
                "TorchRec's managed collision trains on CUDA only, and raymtl does not yet publish which ID holds which of its "
                "rows; use `map`, which gives each ID a row of its own too"
            )
        return value


class Table(TableDefaults):
    """One embedding table."""

    rows: Annotated[PositiveInt, Role.LEARNING | Role.READ | Role.LOOKUP]
    """Number of rows."""
    vectors: StartVectors | None = None
    """Initial vectors from a file, such as embeddings of the items' texts. Null: all rows start as `init` says."""
    vocabulary: Vocabulary | None = None
    """Only for `map`: the IDs that have a row. Null: those that occur `admit_count` times."""


def with_bucket_tables(features: Mapping[str, Feature], tables: Mapping[str, Table]) -> dict[str, Table]:
    """The tables, completed where only buckets read one: `direct`, and a row per bucket if it has no entry."""
    readers: dict[str, list[Feature]] = {}
    for name, feature in features.items():
        if not isinstance(feature, Tableless):
            readers.setdefault(table_of(name, feature), []).append(feature)
    made = dict(tables)
    for name, found in readers.items():
        ids = [feature.ids for feature in found if isinstance(feature, BucketFeature)]
        if len(ids) < len(found):
            continue
        if name not in made:
            made[name] = Table(rows=max(ids), id_space="direct")
        elif "id_space" not in made[name].model_fields_set:
            made[name] = made[name].model_copy(update={"id_space": "direct"})
    return made


def table_of(name: str, feature: Feature) -> str:
    """Name of the table that an ID feature looks up."""
    return getattr(feature, "table", None) or name


def is_pooled(feature: Feature) -> bool:
    """Whether a feature gives the model one vector."""
    return isinstance(feature, Pooled) or (isinstance(feature, DenseFeature) and feature.embed is not None)


def width_of(name: str, feature: Feature, tables: Mapping[str, Table]) -> int:
    """Width of the vector that the model reads of a feature that is not `dense`, or that has `embed`; of a step for a history."""
    if isinstance(feature, SequenceDenseFeature):
        return 1
    if isinstance(feature, DenseFeature):
        assert feature.embed is not None
        return feature.embed.width
    if isinstance(feature, VectorFeature):
        return feature.project or feature.width
    return tables[table_of(name, feature)].dim


def columns_of(name: str, features: Mapping[str, Feature]) -> list[str]:
    """The columns of the logs that a feature is read from, its own one first."""
    feature = features[name]
    if isinstance(feature, CrossFeature):
        return [column for part in feature.of for column in columns_of(part, features)]
    columns = [feature.column or name]
    if isinstance(feature, SequenceDenseFeature):
        columns += columns_of(feature.of, features)
    if isinstance(feature, IdsFeature) and feature.weights is not None:
        columns.append(feature.weights)
    return list(dict.fromkeys(columns))


def weighted(features: Mapping[str, Feature]) -> list[str]:
    """Names of the features whose IDs have weights."""
    return [name for name, f in features.items() if isinstance(f, IdsFeature) and f.weights is not None]
