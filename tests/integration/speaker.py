"""A rendezvous server whose lease ends at a given time of its own clock, and that has a round to tell a moment later.

`python speaker.py SECONDS_OF_VOICE ROUND_AFTER`; prints its URL. Any token speaks for the one pod there is.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

from dlcloud_operator.api import Member, Phase, RoundStatus, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.rendezvous import PodIdentity, RendezvousServer
from dlcloud_operator.kube.lease import boottime

KEY = JobKey("default", "job")
POD = PodIdentity("default", "job-0-1", "uid-0")


class AnyToken:
    async def identify(self, token: str) -> PodIdentity:
        return POD


def first_round() -> JobView:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    member = Member(index=0, pod=POD.pod, uid=POD.uid, ranks=[0])
    decided = RoundStatus(
        number=1, nonce="n", world_size=1, master="127.0.0.1", port=29500, threads=1, members=[member], started_at=at
    )
    spec = TrainingJobSpec.model_validate({"script": {"command": ["python", "train.py"]}, "workers": {"count": 1}})
    return JobView(KEY, "job-uid", "1", 1, at, TrainingJobStatus(phase=Phase.RUNNING, round=decided), spec)


async def main(voice_s: str, round_after_s: str) -> None:
    until = boottime() + float(voice_s)
    server = RendezvousServer(AnyToken(), lambda *_: KEY, may_speak=lambda: boottime() < until)
    url = await server.start()
    asyncio.get_running_loop().call_later(float(round_after_s), server.publish, first_round())
    print(url, flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
