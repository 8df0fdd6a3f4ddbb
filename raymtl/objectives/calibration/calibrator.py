"""The calibrator of a model: one map per calibrated output, by scenario or for all rows.

Shapes: B rows, O outputs (the tasks, then the derived ones), U calibrated outputs, S scenarios.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raymtl.config.calibration import Calibration
from raymtl.config.tasks import Task
from raymtl.objectives.algebra import logit_prod
from raymtl.objectives.calibration.counts import ScoreCounts
from raymtl.objectives.calibration.fit import fit_maps
from raymtl.objectives.calibration.maps import apply_map, identity_of
from raymtl.objectives.outputs import with_derived


@dataclass(frozen=True)
class Product:
    """An output that is the product of two others: P(child) = P(given) · P(child | given), by their columns."""

    child: int
    given: int
    conditional: int


class Calibrator(nn.Module):
    """Logits [B, O] -> calibrated logits [B, O]; buffers, so that the maps are saved with the weights and never trained.

    Where the coupler multiplies along the funnel, the maps are those of the factors: a child's P(child | given), fitted on rows
    where `given` happened. Its own probability is the product of calibrated factors, so a child is never more probable than its
    parent, and the derived outputs stay the quotients of the others.
    """

    def __init__(
        self,
        config: Calibration,
        tasks: Mapping[str, Task],
        derived: Mapping[str, tuple[str, str]],
        multiplies: bool,
        scenarios: int,
    ):
        """`derived` has (child, given) by output; `multiplies`: whether each child is the product of its derived output and
        `given`; `scenarios` is their number, 0 without."""
        super().__init__()
        self.method, self.prior_positives = config.method, config.prior_positives
        self.by_scenario = config.by == "scenario"
        self.scenarios = max(scenarios, 1)
        names = [*tasks, *derived]
        column = {name: n for n, name in enumerate(names)}
        products = [Product(column[c], column[g], column[n]) for n, (c, g) in derived.items()] if multiplies else []
        factor = {product.child: product.conditional for product in products}
        self.columns = [factor.get(column[name], column[name]) for name in config.chosen(tasks)]
        """Columns that have a map."""
        changed = {*self.columns}
        self.products: list[Product] = []
        """Columns that follow from others, a parent before its children."""
        for product in products:
            if changed & {product.given, product.conditional}:
                self.products.append(product)
                changed.add(product.child)
        self.outputs = {names[n]: n for n in sorted(changed)}
        """Outputs that the calibrator changes, with their columns."""
        first = identity_of(self.method).float()
        sets = self.scenarios if self.by_scenario else 1
        self.register_buffer("maps", first.repeat(sets, len(self.columns), *[1] * first.dim()))
        self.register_buffer("_index", torch.tensor(self.columns, dtype=torch.int64), persistent=False)

    def forward(self, logits: Tensor, scenario: Tensor | None) -> Tensor:
        """The calibrated logits; `scenario` [B] int64 is read only by maps of scenarios."""
        maps = self.maps
        if self.by_scenario:
            if scenario is None:
                raise ValueError("the maps of scenarios need the scenario of each row")
            maps = maps.index_select(0, scenario.clamp(0, self.scenarios - 1))
        found = apply_map(self.method, maps, logits[:, self._index])
        if not self.products:
            return logits.index_copy(1, self._index, found)
        columns = list(logits.index_copy(1, self._index, found).unbind(1))
        for product in self.products:
            columns[product.child] = logit_prod(columns[product.given], columns[product.conditional])
        return torch.stack(columns, 1)

    @torch.no_grad()
    def reset(self) -> None:
        """Change nothing any more."""
        self.maps.copy_(identity_of(self.method).to(self.maps))

    @torch.no_grad()
    def fit(self, counts: ScoreCounts) -> None:
        """Replace the maps by those of the counted rows, of all workers."""
        self.maps.copy_(fit_maps(counts, self.method, self.by_scenario, self.prior_positives))


def output_labels(
    labels: Tensor, observed: Tensor, tasks: Sequence[str], derived: Mapping[str, tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Labels and whether they count, [B, O]: of a derived output those of the child, on rows where `given` is observed and 1."""
    if not derived:
        return labels, observed
    column = {name: n for n, name in enumerate(tasks)}
    children, givens = ([column[pair[side]] for pair in derived.values()] for side in (0, 1))
    return with_derived(labels, observed, children, givens)
