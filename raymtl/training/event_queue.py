"""What the first worker tells the driver while it trains, and what the driver requests of it."""

import ray

from raymtl.telemetry.events import Event


@ray.remote(num_cpus=0)
class EventQueue:
    """Events from the first worker to the driver, which may be on another machine without shared storage, and the driver's
    request for a checkpoint."""

    def __init__(self) -> None:
        self._items: list[Event] = []
        self._save_soon = False

    def put(self, item: Event) -> None:
        self._items.append(item)

    def take(self) -> list[Event]:
        items, self._items = self._items, []
        return items

    def save_soon(self) -> None:
        self._save_soon = True

    def wants_save(self) -> bool:
        return self._save_soon
