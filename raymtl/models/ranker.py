"""The ranker: the chain of slots from looked-up features to the outputs of every task."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

import raymtl.models
from raymtl.config.calibration import Calibration
from raymtl.config.model import Model
from raymtl.config.slots.coupler import MULTIPLYING
from raymtl.config.tasks import Task
from raymtl.models.arrival_head import ArrivalHead
from raymtl.models.encoding import Encoding
from raymtl.models.extra_heads import ExtraHeads
from raymtl.models.inputs import InputSpec, ModelInput
from raymtl.models.precomputed import X, materialize
from raymtl.models.registry import build, find, options_of
from raymtl.models.requests import RequestInput, inputs_for, request_x
from raymtl.models.slots import Context, InputSlot, SequenceSlot, TargetAwareSequenceSlot
from raymtl.objectives.calibration.calibrator import Calibrator
from raymtl.objectives.link import OutputScale
from raymtl.objectives.outputs import Outputs
from raymtl.objectives.tasks import objective_of

for _module in pkgutil.walk_packages(raymtl.models.__path__, "raymtl.models."):
    importlib.import_module(_module.name)  # importing a slot's module is what registers its class


class Ranker(nn.Module):
    """input -> sequence -> refine -> trunk -> towers -> coupler (+ bias in training); built by `build_ranker`."""

    def __init__(
        self,
        slots: Mapping[str, nn.Module],
        outputs: Outputs,
        extra: ExtraHeads | None,
        scale: OutputScale | None,
        encoding: Encoding,
        calibrator: Calibrator | None = None,
        arrival: ArrivalHead | None = None,
    ):
        super().__init__()
        self.encoding = encoding
        self.outputs = outputs
        """The columns of the logits."""
        self.tasks = outputs.tasks
        self.input = slots["input"]
        self.sequence = slots["sequence"]
        self.refine = slots["refine"]
        self.trunk = slots["trunk"]
        self.towers = slots["towers"]
        self.coupler = slots["coupler"]
        self.bias = slots["bias"]
        self.extra = extra
        """None where every task has one output."""
        self.scale = scale
        """None where all tasks are binary."""
        self.calibrator = calibrator
        """None without `calibration`."""
        self.arrival = arrival
        """None without a task that has `early_labels`."""

    def forward(self, inputs: ModelInput) -> Tensor:
        """Logits [B, O] in fp32, with the columns of `outputs`; in training those of the arrival head stand behind."""
        inputs = self.encoding(inputs)
        if isinstance(inputs, RequestInput):
            return self.forward_from_x(request_x(self.input, self.sequence, inputs, concat_sequence), inputs)
        return self.forward_from_x(concat_sequence(self.input(inputs), self.sequence(inputs)), inputs)

    def forward_from_x(self, x: X, inputs: ModelInput) -> Tensor:
        """The logits from x [B, d] or [B, T, d], the output of the input and sequence slots, and from encoded inputs."""
        refine, trunk, towers, bias = self.refine, self.trunk, self.towers, self.bias
        x = refine(x if refine.supports_precomputed else materialize(x), inputs_for(refine, inputs))
        odds = self.arrival(materialize(x)) if self.training and self.arrival is not None else None
        h = trunk(
            x if trunk.supports_precomputed else materialize(x), inputs_for(trunk, inputs)
        )  # [B, d], or [B, T, d]
        h = towers(h if towers.supports_precomputed else materialize(h), inputs_for(towers, inputs))
        logits = self.coupler(h, bias(inputs_for(bias, inputs)) if self.training else None)
        if self.extra is not None:
            logits = torch.cat((logits, self.extra(h, logits)), 1)
        logits = logits if self.scale is None else self.scale(logits)
        return logits if odds is None else torch.cat((logits, odds), 1)

    def heads(self) -> Iterator[nn.Parameter]:
        """The weights above the trunk."""
        for slot in (self.towers, self.coupler, self.bias, self.extra, self.arrival):
            yield from () if slot is None else slot.parameters()

    def predictions(self, logits: Tensor, scenario: Tensor | None = None) -> Tensor:
        """Predictions [B, P] with the columns `outputs.names`, from the logits of `forward`. See `corrected`."""
        return self.outputs.predictions(self.corrected(logits, scenario))

    def corrected(self, logits: Tensor, scenario: Tensor | None = None) -> Tensor:
        """Logits of `forward` with the correction of `log1p` tasks, and recalibrated; metrics include both, training neither.

        `scenario` [B] int64 is needed where the calibrator has maps of scenarios.
        """
        logits = logits if self.scale is None else self.scale.corrected(logits)
        return logits if self.calibrator is None else self.calibrator(logits, scenario)


def build_ranker(
    model: Model,
    tasks: Mapping[str, Task],
    spec: InputSpec,
    base_rates: Mapping[str, float],
    calibration: Calibration | None = None,
) -> Ranker:
    """The ranker of a configuration, its output biases set so that the first predictions are the base rates.

    A task missing in `base_rates` falls back on its own `base_rate`, and then on a bias of zero. The weights come
    from torch's global random generator: seed it alike on all workers.
    """
    encoding = Encoding(spec, learns_nulls=getattr(model.input, "missing", "fill") == "learned")
    context = Context(tasks, encoding.spec, heads=find("coupler", model.coupler).heads(tasks))
    features: Any = build("input", model.input, context)
    sequence: Any = build("sequence", model.sequence, context)
    refine_context = replace(
        context,
        width=features.width + sequence.width,
        fields=_fields(features, sequence),
        sources=_sources(features, sequence),
    )
    refine = build("refine", model.refine, refine_context)
    context = replace(context, width=refine.width)
    trunk = build("trunk", model.trunk, context)
    context = replace(context, width=trunk.width)
    towers = build("towers", model.towers, context)
    context = replace(context, width=towers.width)
    coupler = build("coupler", model.coupler, context)
    coupler.start_at([_start(name, task, base_rates) for name, task in tasks.items()])
    outputs = Outputs(tasks, find("coupler", model.coupler).derived(tasks, options_of(model.coupler)))
    extra = ExtraHeads(outputs, towers.width, base_rates) if outputs.several else None
    slots = {
        "input": features,
        "sequence": sequence,
        "refine": refine,
        "trunk": trunk,
        "towers": towers,
        "coupler": coupler,
        "bias": build("bias", model.bias, context),
    }
    calibrator = None
    if calibration is not None:
        multiplies = model.coupler.type in MULTIPLYING
        calibrator = Calibrator(calibration, tasks, outputs.derived, multiplies, spec.scenarios)
    has_early = any(task.early_labels is not None for task in tasks.values())
    arrival = ArrivalHead(tasks, refine.width) if has_early else None
    return Ranker(slots, outputs, extra, OutputScale.of(outputs, base_rates), encoding, calibrator, arrival)


def _fields(features: InputSlot, sequence: SequenceSlot) -> list[int]:
    """The widths of x's parts: columns side by side that depend on the same feature, or on several, are one."""
    columns = features.columns or [None] * features.width
    return [len([*run]) for _, run in groupby(columns)] + [sequence.width] * bool(sequence.width)


def _sources(features: InputSlot, sequence: SequenceSlot) -> list[Sequence[str] | None]:
    """The features on which each column of x depends."""
    columns = features.columns or [None] * features.width
    # `reads` of a sequence slot that attends to the candidate says nothing about the candidate
    history = None if isinstance(sequence, TargetAwareSequenceSlot) else sequence.reads
    return [*(None if name is None else [name] for name in columns), *[history] * sequence.width]


def start_logit(task: Task, base_rate: float) -> float:
    """The logit whose prediction is the base rate (mean label) of a task."""
    return objective_of(task).start_logit(base_rate)


def _start(name: str, task: Task, base_rates: Mapping[str, float]) -> float:
    """Where the output bias starts: at the base rate, or at 0 where the offset of the scale is there already."""
    rate = base_rates.get(name, task.base_rate)
    if rate is None or objective_of(task).head_scale(rate) != (0.0, 1.0):
        return 0.0
    return start_logit(task, rate)


def concat_sequence(x: Tensor, sequence: Tensor | None) -> Tensor:
    """x [B, d] and what the sequence slot adds, [B, k] or per task [B, T, k], in one tensor."""
    if sequence is None:
        return x
    if sequence.dim() == 3:
        x = x.unsqueeze(1).expand(-1, sequence.shape[1], -1)
    return torch.cat((x, sequence), -1)
