"""Building blocks of HTML reports: tables, drawings and sentences, in one style and without external resources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from raymtl.reports.tables import MetricTable

OPEN_ROWS = 30
"""Longer tables start collapsed."""


Kind = Literal["", "name", "part", "why", "look", "good", "faint"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    kind: Kind = ""
    """Empty: a right-aligned number. `part` and `why` are left-aligned words; `look` marks a cell that needs attention."""
    dot_colour: str = ""
    """Colour of a dot before it."""
    link: str = ""
    note: str = ""
    """A small remark after it."""


@dataclass(frozen=True)
class Grid:
    """A table; without rows it is left out."""

    part: ClassVar[str] = "grid"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heads: frozenset[int] = frozenset()
    """Rows that start a group."""
    narrow: bool = False
    """Only as wide as its text."""
    tight: bool = False
    """For many columns: smaller, with multi-line heads."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    part: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Heading:
    """A title within a section."""

    part: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Drawing:
    """A plot, as SVG from `plots.svg`."""

    part: ClassVar[str] = "drawing"
    svg: str


@dataclass(frozen=True)
class Collapsible:
    """Parts that are collapsed at first."""

    part: ClassVar[str] = "collapsible"
    title: str
    parts: Sequence["Part"]


Part = Grid | Paragraph | Heading | Drawing | Collapsible


@dataclass(frozen=True)
class Section:
    """A title, with text, tables and plots."""

    title: str
    text: str
    parts: Sequence[Part] = ()

    @property
    def anchor(self) -> str:
        """What a link within the page leads to, without its #."""
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class PageStatus:
    """One or two words, green if all is well."""

    text: str
    good: bool


class Key(NamedTuple):
    """A key number, on a tile."""

    name: str
    value: str
    remark: str = ""
    more: str = ""
    """Ends the remark, as a link."""
    link: str = ""


@dataclass(frozen=True)
class Page:
    """A complete page, from top to bottom."""

    title: str
    """In the browser's tab."""
    heading: str
    status: PageStatus
    verdict: str
    """Continues the status."""
    meta: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()
    """Text and relative address."""
    notes: Sequence[str] = ()
    keys: Sequence[Key] = ()
    sections: Sequence[Section] = field(default_factory=list)


def fill(template: str, **values: Any) -> str:
    """A template of `reports/templates` as text; what it shows is escaped."""
    pages = Environment(
        loader=PackageLoader("raymtl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(template).render(**values)


def render_page(page: Page) -> str:
    """The complete page as text."""
    return fill("page.html.j2", page=page)


def metric_grid(
    table: MetricTable,
    colours: Mapping[str, str],
    parts: bool,
    part: str = "scenario",
    dots: Mapping[str, str] | None = None,
) -> Grid:
    """Metrics by task, with `parts` also by scenario, or by what else `part` names; `dots` has colours of the parts."""
    rows, columns, dots = table.rows, table.columns, dots or {}
    noted = any(row.note for row in rows)
    heads = [i for i, row in enumerate(rows) if not parts or i == 0 or rows[i - 1].task != row.task]
    found = []
    for i, row in enumerate(rows):
        cells = [Cell(row.task, "name", colours.get(row.task, "gray")) if i in heads else Cell("", "name")]
        cells += [Cell(row.scenario, "part", dots.get(row.scenario, ""))] if parts else []
        cells += [Cell((cell := row.cells[c.name]).text, "look" if cell.odd else "") for c in columns]
        found.append(cells + ([Cell(row.note, "why")] if noted else []))
    names = ["task", *([part] if parts else []), *(column.name for column in columns), *([""] if noted else [])]
    return Grid(names, found, frozenset(heads if parts else ()))
