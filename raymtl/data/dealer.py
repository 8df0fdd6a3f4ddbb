"""The process that deals the slices of a group's streams to its workers.

Ray Data starts such a process, its `SplitCoordinator`, for every stream that is split: two seconds of a core each time. A dealer
is one process that holds the coordinators of any number of streams, one after another or at the same time.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.data._internal import remote_fn
from ray.data._internal.iterator.stream_split_iterator import SplitCoordinator, StreamSplitDataIterator
from ray.data._internal.logical.interfaces import LogicalPlan
from ray.data._internal.logical.operators import StreamingSplit

from raymtl.data.dealing import groups
from raymtl.data.local_ray_data import leave_out_cluster_actors

_COORDINATOR = SplitCoordinator.__ray_metadata__.modified_class
_CALLS_PER_MEMBER = 4
"""Each member waits in at most one call of each stream that it reads; what ends a stream is a call too."""
_OWN_CALLS = 4


@ray.remote(num_cpus=0)
class Dealer:
    """Deals the slices of streams; each worker of the group is a member."""

    def __init__(self) -> None:
        leave_out_cluster_actors()
        self._streams: dict[str, Any] = {}

    def open(self, stream: str, dataset: ray.data.Dataset, members: int) -> None:
        """Prepare a stream; reading starts when all members have come."""
        self._streams[stream] = _COORDINATOR(dataset, members, None)

    def call(self, stream: str, method: str, *arguments: Any) -> Any:
        """Call a method of the coordinator of a stream."""
        if method == "notify_split_finished" and stream not in self._streams:
            return None  # a member leaves a stream that has been closed
        return getattr(self._streams[stream], method)(*arguments)

    def close(self, stream: str) -> None:
        """End a stream, wherever its members are."""
        coordinator = self._streams.pop(stream, None)
        if coordinator is not None:
            with coordinator._lock:
                # Members that wait for one that was lost find their pass over: none may hold a thread or start to read
                coordinator._cur_epoch += 2
                executor = coordinator._current_executor
            if executor is not None:
                executor.shutdown(force=True)
        remote_fn.CACHED_FUNCTIONS.clear()  # Ray Data keeps a function of every stream

    def close_all(self) -> None:
        """End the streams of workers that were lost."""
        for stream in list(self._streams):
            self.close(stream)


def start_dealers(workers: int, block_rows: int) -> list[Any]:
    """A dealer for each group of workers, on the node of this process and ending with it."""
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    return [
        Dealer.options(  # type: ignore[attr-defined]
            max_concurrency=_CALLS_PER_MEMBER * len(members) + _OWN_CALLS,
            label_selector=here,
            max_restarts=-1,  # its streams are lost, so the workers start again, and find a dealer
        ).remote()
        for members in groups(workers, block_rows)
    ]


@dataclass
class DealtStream:
    """The slices of one group, one iterator per member."""

    dealer: Any
    name: str
    iterators: list[ray.data.DataIterator]

    def close(self) -> None:
        """End the stream; only its opener calls it."""
        self.dealer.close.remote(self.name)


def deal_out(dataset: ray.data.Dataset, dealer: Any, members: int) -> DealtStream:
    """Split the blocks of a dataset among the members in turn, as `Dataset.streaming_split` does, through a dealer."""
    split = StreamingSplit(num_splits=members, equal=False, input_dependencies=[dataset._logical_plan.dag])
    parted = ray.data.Dataset._from_parent(dataset, LogicalPlan(split, dataset.context))
    parted._set_uuid(dataset._uuid)
    name = uuid.uuid4().hex
    ray.get(dealer.open.remote(name, parted, members))
    route = _Route(dealer, name)
    return DealtStream(dealer, name, [StreamSplitDataIterator(route, n, members) for n in range(members)])


@dataclass(frozen=True)
class _Route:
    """Stands for the actor handle of one stream's coordinator."""

    dealer: Any
    stream: str

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return _Method(self, method)


@dataclass(frozen=True)
class _Method:
    route: _Route
    name: str

    def remote(self, *arguments: Any) -> ray.ObjectRef:
        return self.route.dealer.call.remote(self.route.stream, self.name, *arguments)
