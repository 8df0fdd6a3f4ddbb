"""Synthetic impression logs of any size, with the true probability beside every label."""

from raymtl.data.synth.config import synth_config
from raymtl.data.synth.spec import ScenarioSpec, SynthSpec, SynthSummary
from raymtl.data.synth.write import write_logs

__all__ = ["ScenarioSpec", "SynthSpec", "SynthSummary", "synth_config", "write_logs"]
