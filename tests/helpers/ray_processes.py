"""Processes of the Ray cluster that a process of the tests started, by the name that Ray gives them."""

import psutil


def ray_processes(name: str, under: int | None = None) -> set[int]:
    """Those under a process (this one, unless told) whose title has `name`, as in `ray::RayTrainWorker`."""
    found = set()
    for process in psutil.Process(under).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found
