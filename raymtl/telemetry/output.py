"""Standard output that cannot stop the work: if its reader goes away or its disk is full, only the output is lost."""

import os
import sys
from copy import copy
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table


class Output:
    """A text stream in place of `sys.stdout`; the first error is kept, and everything after it is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop."""
        return self._try(self._stream.write, text) or len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Any, *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except OSError as error:
            self.error = self.error or error
            # Discard what is still buffered, so that nothing fails when the interpreter exits
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None


def replace_stdout() -> Output:
    """Replace `sys.stdout` by an `Output`; characters that its encoding lacks become question marks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.stdout = output = Output(sys.stdout)  # type: ignore[assignment]
    return output


class FoldedTable(Table):
    """A table that stays complete on a narrow screen: columns that do not fit follow below, next to the key columns again, in the
    rows that have something there.

    rich itself truncates cells, and half a number is worse than none.
    """

    def __init__(self, *headers: Any, keys: int = 1, **options: Any):
        """`keys`: how many of the first columns are shown again in each part."""
        self._keys = keys
        self._joined: set[int] = set()
        super().__init__(*headers, **options)

    def add_column(self, *arguments: Any, joined: bool = False, **options: Any) -> None:
        """`joined`: the column stays in one part with the column before it, wherever both fit."""
        if joined:
            self._joined.add(len(self.columns))
        super().add_column(*arguments, **{"overflow": "fold", **options})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._parts(console, options)
        if self.caption:  # not the last part's, which may be too narrow for it
            yield self.caption

    def _parts(self, console: Console, options: ConsoleOptions) -> list[Table]:
        def fits(columns: list[Column]) -> bool:
            unbounded = options.update(max_width=10_000)
            return Measurement.get(console, unbounded, self._of(columns)).maximum <= options.max_width

        keys = self.columns[: self._keys]
        parts, chosen = [], list(keys)
        for block in self._blocks():
            for columns in [block] if fits([*keys, *block]) else [[column] for column in block]:
                if len(chosen) > len(keys) and not fits([*chosen, *columns]):
                    parts.append(self._of(chosen))
                    chosen = list(keys)
                chosen += columns
        parts.append(self._of(chosen))
        parts[0].title, parts[0].title_justify = self.title, self.title_justify
        return parts

    def _blocks(self) -> list[list[Column]]:
        """The columns after the keys, joined ones together."""
        blocks: list[list[Column]] = []
        for n, column in enumerate(self.columns[self._keys :], self._keys):
            if n in self._joined and blocks:
                blocks[-1].append(column)
            else:
                blocks.append([column])
        return blocks

    def _of(self, columns: list[Column]) -> Table:
        table = Table(
            box=self.box, pad_edge=self.pad_edge, show_header=self.show_header, header_style=self.header_style
        )
        table.columns = [copy(column) for column in columns]
        others = [list(column.cells) for column in columns[self._keys :]]
        kept = [n for n in range(len(self.rows)) if not others or any(str(cells[n]) for cells in others)]
        table.rows = [self.rows[n] for n in kept]
        for place, column in enumerate(table.columns):
            column._index = place
            column._cells = [column._cells[n] for n in kept]
        return table
