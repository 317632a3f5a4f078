"""Whether ranks can be forked here: `python -m dlcloud_trainer.checks.fork WORKLOAD`. Lines of JSON.

May import the agent's part that starts the zygote, and the agent's builder. It is what an agent does at the start of
every round: a zygote with torch, and a child of it that computes. It is forked as a script's rank is: a workload's
wants an assignment.
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..agent.processes import Zygote
from ..agent.values import RankId
from ..agent_build import build_agent
from .lines import one_line, tell, timed

LIMIT_S = 60.0
_WORK = (
    "import sys; from dlcloud_trainer.workloads import find_workload; [find_workload(name) for name in sys.argv[1:]]; "
    "import torch; a = torch.ones(256, 256, requires_grad=True); (a @ a).sum().backward(); "
    "assert float(a.grad.sum()) > 0; print('computed')"
)


def main() -> None:
    """One line for each step: `agent`, `zygote`, `fork`."""
    os.environ["DLCLOUD_WORKLOAD"] = ""
    with timed() as seconds, tempfile.TemporaryDirectory() as folder:
        try:
            size = build_agent(Path(folder) / "agent.pyz").stat().st_size
        except OSError as error:
            tell(step="agent", ok=False, message=one_line(error))
            return
        tell(step="agent", ok=True, message=f"{size} bytes", seconds=seconds())
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    with timed() as seconds:
        zygote = Zygote(lambda _, message: messages.put(message))
        try:
            for word in ("hello", "ready"):
                if not _said(messages, word):
                    tell(step="zygote", ok=False, message=_output(zygote) or f"it never said {word}")
                    return
            tell(step="zygote", ok=True, message="", seconds=seconds())
            _fork(zygote, messages)
        finally:
            zygote.kill()
            zygote.process.wait()


def _fork(zygote: Zygote, messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    with timed() as seconds:
        output_r, output_w = os.pipe()
        events_r, events_w = os.pipe()
        zygote.fork(
            RankId(1, 0), [sys.executable, "-c", _WORK, *filter(None, sys.argv[1:])], 1, {}, [output_w, events_w]
        )
        for end in (output_w, events_w):
            os.close(end)
        if not _said(messages, "forked"):
            tell(step="fork", ok=False, message="the zygote did not fork")
            return
        ended = _message(messages)
        zygote.kill()  # and its children with it: the pipe below then ends
        with os.fdopen(output_r, "rb") as output:
            text = output.read().decode("utf-8", "replace")
        os.close(events_r)
        ok = ended is not None and ended.get("code") == 0 and "computed" in text
        last = text.strip().splitlines()[-1:] or ["the forked process computed nothing in time"]
        tell(step="fork", ok=ok, message="" if ok else last[0][:500], seconds=seconds())


def _message(messages: queue.SimpleQueue[dict[str, Any] | None]) -> dict[str, Any] | None:
    try:
        return messages.get(timeout=LIMIT_S)
    except queue.Empty:
        return None


def _said(messages: queue.SimpleQueue[dict[str, Any] | None], word: str) -> bool:
    message = _message(messages)
    return message is not None and message.get("is") == word


def _output(zygote: Zygote) -> str:
    zygote.kill()
    zygote.process.wait()
    lines = os.read(zygote.output, 1 << 16).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:500] if lines else ""


if __name__ == "__main__":
    main()
