"""A pod whose agent is played: it speaks the protocol with a real token, and its ranks only exist in its reports.

May import aiohttp and the rig's own modules. Hundreds of these fit into one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from .bodies import now
from .pod_status import End, Look, micro_stamp

Object = Mapping[str, Any]
REPORT_S = 5.0
_AGAIN_S = 0.1


@dataclass
class Play:
    """What played agents do; may be changed at any time.

    `work_s`: how long a round takes until its ranks succeed (None: until `succeed` names the job, or "" in it: all).
    """

    speaks: bool = True
    work_s: float | None = None
    succeed: set[str] = field(default_factory=set)
    checkpoint: bool = False


class Sessions:
    """One HTTP session for each CA, shared by all played agents of a loop."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    def of(self, ca: str) -> aiohttp.ClientSession:
        if ca not in self._sessions:
            context = ssl.create_default_context(cadata=ca) if ca else True
            self._sessions[ca] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=context))
        return self._sessions[ca]

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()


class PlayedPod:
    """A Body without processes."""

    def __init__(
        self, pod: Object, *, token: str, play: Play, sessions: Sessions, on_change: Callable[[], None]
    ) -> None:
        trainer = next(one for one in pod["spec"]["containers"] if one["name"] == "trainer")
        env = {entry["name"]: entry.get("value", "") for entry in trainer["env"]}
        names = (env["DLCLOUD_NAMESPACE"], env["DLCLOUD_JOB"], pod["metadata"]["name"])
        self._address = "{}/v1/namespaces/{}/jobs/{}/pods/{}".format(env["DLCLOUD_RENDEZVOUS_URL"], *names)
        self.job = env["DLCLOUD_JOB"]
        self._http = sessions.of(env.get("DLCLOUD_CA", ""))
        self._token = token
        self._play = play
        self._on_change = on_change
        self._look = Look(running_since=now())
        self._port = 20_000 + int(env["DLCLOUD_INDEX"]) % 40_000
        self._round: dict[str, Any] = {"round": 0, "ranks": []}
        self._results: list[dict[str, Any]] = []
        self._states: dict[int, str] = {}
        self._step = 0
        self._work: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._report())]

    def look(self) -> Look:
        return self._look

    def terminate(self, grace_s: float) -> None:
        for rank in self._running():
            self._result(rank, "Drained", 75)
        self._finish(0 if not self._states else 143, "Drained")

    def end_as(self, code: int, reason: str, message: str) -> None:
        if self._look.end is None:
            self._look = replace(self._look, end=End(code, now(), reason, message))
            self._stop()

    def renew_token(self, token: str) -> None:
        self._token = token

    async def fail_ranks(self, outcome: str, code: int) -> None:
        """Its ranks end so, once it has been told of a round; the agent stays."""
        while True:
            if self._running():
                break
            await asyncio.sleep(0.02)
        for rank in self._running():
            self._result(rank, outcome, code)
            self._states[rank] = "ended"
        self._news.set()

    async def close(self) -> None:
        self._stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        while self._look.end is None:
            if not self._play.speaks:
                await asyncio.sleep(_AGAIN_S)
                continue
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError):
                told = await self._poll()
                if told is not None and told["kind"] == "finished":
                    self._finish(0 if told["phase"] == "Succeeded" else 1, told["phase"])
                elif told is not None and told["round"] > self._round["round"]:
                    self._begin(told)
                if told is not None:
                    continue
            await asyncio.sleep(_AGAIN_S)

    async def _poll(self) -> dict[str, Any] | None:
        query = {"after": str(self._round["round"]), "wait": "20"}
        limit = aiohttp.ClientTimeout(total=30)
        async with self._http.get(
            f"{self._address}/assignment", params=query, headers=self._headers, timeout=limit
        ) as answer:
            return await answer.json() if answer.status == 200 else None

    def _begin(self, told: dict[str, Any]) -> None:
        for rank in self._running():
            self._result(rank, "Stopped", -9)
        self._round = told
        self._states = dict.fromkeys(told["ranks"], "running")
        self._step += 1
        self._port = 20_000 + (self._port - 19_999) % 40_000
        if self._work is not None:
            self._work.cancel()
        self._work = asyncio.create_task(self._train())
        self._tasks.append(self._work)
        self._news.set()

    async def _train(self) -> None:
        began = asyncio.get_running_loop().time()
        while True:
            if self._done(asyncio.get_running_loop().time() - began):
                break
            await asyncio.sleep(0.05)
        for rank in self._running():
            self._result(rank, "Succeeded", 0)
            self._states[rank] = "ended"
        self._news.set()

    def _done(self, passed_s: float) -> bool:
        play = self._play
        return bool(play.succeed & {self.job, ""}) or (play.work_s is not None and passed_s >= play.work_s)

    async def _report(self) -> None:
        while self._look.end is None:
            told = not self._play.speaks
            self._news.clear()
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                told = told or await self._say()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), REPORT_S if told and self._play.speaks else _AGAIN_S)

    async def _say(self) -> bool:
        limit = aiohttp.ClientTimeout(total=10)
        async with self._http.post(
            f"{self._address}/report", json=self._words(), headers=self._headers, timeout=limit
        ) as answer:
            return answer.status == 200

    def _words(self) -> dict[str, Any]:
        leads = 0 in self._states
        ranks = [
            {"rank": rank, "state": state, "step": self._step, "quietS": 0.0, "longestStepS": 0.01}
            for rank, state in self._states.items()
        ]
        return {
            "sentAt": micro_stamp(now()),
            "round": self._round["round"],
            "address": "127.0.0.1",
            "port": self._port,
            "ranks": ranks,
            "results": self._results,
            "progress": {"epoch": 1, "epochs": 1, "step": self._step, "loss": 0.5} if leads else None,
        }

    def _running(self) -> list[int]:
        return [rank for rank, state in self._states.items() if state != "ended"]

    def _result(self, rank: int, outcome: str, code: int) -> None:
        told = {"round": self._round["round"], "rank": rank, "outcome": outcome, "exitCode": code}
        self._results = [*self._results, {**told, "endedAt": micro_stamp(now())}][-16:]

    def _finish(self, code: int, outcome: str) -> None:
        outcome = outcome if outcome in ("Succeeded", "Drained") else "Error"
        told = {"outcome": outcome, "exitCode": code, "message": "", "results": self._results}
        self.end_as(code, "", json.dumps({**told, "sentAt": micro_stamp(now())}))

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._on_change()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}
