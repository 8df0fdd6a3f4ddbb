"""A step of all workers, after which all know whether it went well."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from raymtl.errors import UserError


def together(group: dist.ProcessGroup, work: Callable[[], Any]) -> list[Any]:
    """What `work()` gave on each worker; a UserError of any of them is raised on all, so that none waits for the others."""
    answer: Any = None
    failed: tuple[type[UserError], str] | None = None
    try:
        answer = work()
    except UserError as error:
        failed = type(error), str(error)
    answers: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(answers, (answer, failed), group=group)
    for _, trouble in answers:
        if trouble is not None:
            raise trouble[0](trouble[1])
    return [given for given, _ in answers]
