"""The operator with a sampler in it: `python -m benchmarks.control_plane.profiled OUT FLAGS...`.

May import the operator. A timer of processor time interrupts the main thread every 5 ms; where it is then is counted.
What C code does counts for the Python function that called it. SIGUSR1 begins the count anew; it is written to OUT at
the end.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.005
BEGIN = signal.SIGUSR1
_OURS = "/dlcloud_operator/"


class Sampler:
    """Counts of where processor time goes."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()  # by file and function
        self.groups: Counter[str] = Counter()
        self.within: Counter[str] = Counter()  # by function of ours and of kopf: also what it calls
        self.tasks: Counter[str] = Counter()  # by the outermost function under the event loop

    def start(self) -> None:
        """Sample from now on."""
        signal.signal(signal.SIGPROF, self._take)
        signal.signal(BEGIN, lambda *_: self._clear())
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def stop(self, out: Path) -> None:
        """End, and write the counts as JSON."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write_text(json.dumps(vars(self)))

    def _clear(self) -> None:
        for counter in vars(self).values():
            counter.clear()

    def _take(self, _: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        code = frame.f_code
        self.own[f"{_short(code.co_filename)}:{code.co_qualname}"] += 1
        self.groups[group_of(code.co_filename)] += 1
        within, task = set(), "the event loop itself"
        while frame is not None:
            path = frame.f_code.co_filename
            name = f"{_short(path)}:{frame.f_code.co_qualname}"
            if _OURS in path or "/kopf/" in path:
                within.add(name)
            if frame.f_code.co_qualname == "Handle._run":
                break
            if "/asyncio/" not in path:
                task = name
            frame = frame.f_back
        self.within.update(within)
        self.tasks[task] += 1


def group_of(path: str) -> str:
    """A few words for the table: a part of ours, a library, or a part of the standard library."""
    if _OURS in path:
        return "ours: " + path.split(_OURS)[1].split("/")[0].removesuffix(".py")
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in path:
            return path.split(folder)[1].split("/")[0].removesuffix(".py")
    name = path.split("/python3")[-1].split("/", 1)[-1]
    if name.endswith(("sslproto.py", "ssl.py")):
        return "ssl"
    return {"asyncio": "asyncio", "json": "json", "logging": "logging"}.get(name.split("/")[0], "standard library")


def _short(path: str) -> str:
    for mark in (_OURS, "/site-packages/", "/dist-packages/"):
        if mark in path:
            return path.split(mark)[1]
    return path.split("/python3")[-1].split("/", 1)[-1]


if __name__ == "__main__":
    from dlcloud_operator.kube.main import main

    sampler = Sampler()
    sampler.start()
    try:
        code = main(sys.argv[2:])
    finally:
        sampler.stop(Path(sys.argv[1]))
    sys.exit(code)
