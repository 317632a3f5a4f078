"""The two threads that talk with the operator: the poller asks for instructions, the reporter sends the newest report.

May import the standard library only. They decide nothing about ranks: instructions go to the agent's queue, reports
come from its main thread.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

from .client import Client, LinkError
from .values import Finished
from .wire import encode_report, read_instruction

if TYPE_CHECKING:
    from collections.abc import Callable

    from .settings import Settings
    from .values import Assignment

WAIT_S = 25
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0
_HINTS = {
    401: "the pod's token is not accepted",
    403: "the token speaks for another pod, or the operator no longer knows this one",
    404: "the operator does not know this job",
    410: "the job is gone",
}


def pause_s(failures: int) -> float:
    """Jittered wait before the attempt after this many failures in a row: grows from 0.1 s, never above 5 s."""
    return min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)


class Link:
    """What both threads share: when the operator was last heard, and each trouble told once until it is over."""

    def __init__(self) -> None:
        self.heard_at = time.monotonic()
        self._unsaid: list[str] = []
        self._say: Callable[[str], None] = self._unsaid.append
        self._told: dict[str, set[str]] = {}  # by thread
        self._lock = threading.Lock()

    def listen(self, say: Callable[[str], None]) -> None:
        """From now on troubles go to `say`, and those so far at once."""
        with self._lock:
            self._say = say
        for text in self._unsaid:
            say(text)

    def heard(self, who: str) -> None:
        """The operator answered `who` as it should."""
        self.heard_at = time.monotonic()
        with self._lock:
            over = self._told.pop(who, None) is not None and not self._told
        if over:
            self._say("the operator answers again")

    def trouble(self, who: str, text: str) -> None:
        """It did not."""
        with self._lock:
            new = not any(text in told for told in self._told.values())
            self._told.setdefault(who, set()).add(text)
        if new:
            self._say(f"{text}; trying again")


class Poller(threading.Thread):
    """Long-polls for instructions newer than the last, until the job is finished or the process ends."""

    def __init__(self, settings: Settings, link: Link, deliver: Callable[[Assignment | Finished], None]) -> None:
        super().__init__(name="poller", daemon=True)
        self._client = Client(settings, limit_s=WAIT_S + 10)
        self._link, self._deliver = link, deliver

    def run(self) -> None:
        """Ask for ever."""
        after, failures = 0, 0
        while True:
            try:
                instruction = self._ask(after)
            except LinkError as error:
                failures += 1
                self._link.trouble(self.name, str(error))
                time.sleep(pause_s(failures))
                continue
            failures = 0
            self._link.heard(self.name)
            if isinstance(instruction, Finished):
                self._deliver(instruction)
                return
            if instruction is not None and instruction.round > after:
                after = instruction.round
                self._deliver(instruction)
            elif instruction is not None:
                time.sleep(FIRST_PAUSE_S)  # old news at once, again and again, would be a busy loop

    def _ask(self, after: int) -> Assignment | Finished | None:
        status, body = self._client.request("GET", f"/assignment?after={after}&wait={WAIT_S}")
        if status == 204:
            return None
        if status != 200:
            raise LinkError(describe(status, body))
        try:
            return read_instruction(body)
        except ValueError as error:
            raise LinkError(f"the operator's instruction cannot be understood: {error}") from None


class Reporter(threading.Thread):
    """Sends the newest report it was given, with growing pauses while the operator does not take it."""

    def __init__(self, settings: Settings, link: Link) -> None:
        super().__init__(name="reporter", daemon=True)
        self._client = Client(settings, limit_s=10)
        self._link = link
        self._newest: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._sending = False

    def post(self, report: dict[str, Any]) -> None:
        """Send this, and nothing older any more."""
        with self._changed:
            self._newest = report
            self._changed.notify_all()

    def flush(self, limit_s: float) -> bool:
        """Wait until the newest report was taken. False when the limit ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._newest is None and not self._sending, limit_s)

    def run(self) -> None:
        """Send for ever."""
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None)
                report, self._newest = self._newest, None
                self._sending = True
            assert report is not None
            sent = self._send(report)
            with self._changed:
                self._sending = False
                if not sent and self._newest is None:
                    self._newest = report
                self._changed.notify_all()
            failures = 0 if sent else failures + 1
            if failures:
                time.sleep(pause_s(failures))

    def _send(self, report: dict[str, Any]) -> bool:
        try:
            status, body = self._client.request("POST", "/report", encode_report(report, time.time()))
        except LinkError as error:
            self._link.trouble(self.name, str(error))
            return False
        if status != 200:
            self._link.trouble(self.name, describe(status, body))
            return False
        self._link.heard(self.name)
        return True


def describe(status: int, body: bytes) -> str:
    """An unwelcome answer in a few words."""
    text = body[:200].decode("utf-8", "replace").strip().replace("\n", " ")
    hint = f", {_HINTS[status]}" if status in _HINTS else ""
    return f"the operator answers {status}{hint}" + (f" ({text})" if text else "")
