"""Synthetic impression logs of any size, with the true probability of every label."""

from raymtl.synth.config import synth_config
from raymtl.synth.spec import ScenarioSpec, SynthSpec, SynthSummary
from raymtl.synth.write import write_logs

__all__ = ["ScenarioSpec", "SynthSpec", "SynthSummary", "synth_config", "write_logs"]
