"""Clocks of the nodes compared with this machine's: they decide where a day begins, and the lease's heartbeat uses them.

A wrong clock cannot end a live lease, but it can make a day begin early or late.
"""

from raymtl.doctor.finding import Finding
from raymtl.model_store.lease import TTL_S

_WARN_S = 1.0
_FAIL_S = TTL_S / 2


def offset(asked: float, answered: float, node_time: float) -> tuple[float, float]:
    """Seconds that the node's clock is ahead, and the uncertainty: half of the round trip."""
    return node_time - (asked + answered) / 2, (answered - asked) / 2


def evaluate(offsets: dict[str, tuple[float, float]]) -> list[Finding]:
    """Findings from each node's `offset`; only the certain part of an offset counts."""
    findings, within = [], []
    for node, (ahead, doubt) in offsets.items():
        certain = max(0.0, abs(ahead) - doubt)
        if certain < _WARN_S:
            within.append(abs(ahead) + doubt)
            continue
        value = f"{ahead:+.1f} s (± {doubt:.1f}) against this machine"
        remedy = "run chrony or ntpd there; a day and the store's lease depend on the clock"
        findings.append(Finding("cluster", "clock", "fail" if certain > _FAIL_S else "warn", value, remedy, node))
    if within:
        value = f"within {max(1, round(max(within) * 1e3))} ms of this machine"
        findings.append(
            Finding("cluster", "clock", "ok", value, node=f"{len(within)} nodes" if len(within) > 1 else "")
        )
    return findings
