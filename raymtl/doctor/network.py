"""The network between workers: an all-to-all between a few of them, as the embedding tables do in every step."""

import datetime as dt
import statistics
import time
from typing import Any

from raymtl.doctor.finding import Finding

MOST_PEERS = 8
_BYTES = 16 << 20
_ROUNDS = 10
_SLOW_BYTES_PER_S = 100e6
_SLOW_LATENCY_S = 5e-3
_JOIN_S = 20


class Peer:
    """One of the workers that exchange data; `run` makes it a Ray actor."""

    def address(self) -> tuple[str, int]:
        """Address of this process and a free port there."""
        import socket

        import ray

        with socket.socket() as found:
            found.bind(("", 0))
            return ray.util.get_node_ip_address(), found.getsockname()[1]

    def measure(self, address: str, port: int, rank: int, peers: int, backend: str) -> dict[str, float]:
        """Bytes per second that this worker sends to others, and seconds of an almost empty exchange."""
        import torch
        import torch.distributed as dist

        url = f"tcp://{f'[{address}]' if ':' in address else address}:{port}"
        dist.init_process_group(
            backend, init_method=url, rank=rank, world_size=peers, timeout=dt.timedelta(seconds=_JOIN_S)
        )
        device = torch.device("cuda" if backend == "nccl" else "cpu")
        try:
            large = [_exchange(_BYTES // peers, peers, device) for _ in range(_ROUNDS)]
            small = [_exchange(1, peers, device) for _ in range(_ROUNDS)]
        finally:
            dist.destroy_process_group()
        # The first exchanges open the connections
        sent = _BYTES // peers * (peers - 1)
        return {"bytes_per_s": sent / statistics.median(large[2:]), "latency_s": statistics.median(small[2:])}


def _exchange(each: int, peers: int, device: Any) -> float:
    import torch
    import torch.distributed as dist

    sent = torch.zeros(each * peers, dtype=torch.uint8, device=device)
    received = torch.empty_like(sent)
    dist.barrier()
    started = time.perf_counter()
    dist.all_to_all_single(received, sent)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def evaluate(measured: list[dict[str, float]], nodes: int, backend: str) -> Finding:
    """The finding for the slowest worker, since all wait for it."""
    rate = min(m["bytes_per_s"] for m in measured)
    latency = max(m["latency_s"] for m in measured)
    between = "on one machine" if nodes == 1 else f"on {nodes} nodes"
    speed = f"{rate / 1e6:,.0f} MB/s each, {latency * 1e3:.2f} ms for an empty one"
    value = f"{len(measured)} workers {between} over {backend}: {speed}"
    if rate < _SLOW_BYTES_PER_S or latency > _SLOW_LATENCY_S:
        apart = "put the workers into one zone or rack, or choose the fast interface (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
        alone = "rerun when the cores are idle (one machine exchanges with itself, so its network is not the cause)"
        return Finding("network", "all-to-all", "warn", value, apart if nodes > 1 else alone)
    return Finding("network", "all-to-all", "ok", value)
