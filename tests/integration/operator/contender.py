"""A process that does nothing but hold a lease and say, again and again, whether it still believes so.

`python contender.py KUBECONFIG NAMESPACE IDENTITY [DURATION DEADLINE RETRY POLL]`; a line for each look: clock, 0 or 1.
It ends with 3 when the lease is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from dlcloud_operator.kube.connection import Connection
from dlcloud_operator.kube.lease import Lease, LeaseLost, LeaseTiming, boottime, lease_api

LOST = 3


async def main(kubeconfig: str, namespace: str, identity: str, *timing: str) -> int:
    times = LeaseTiming(int(timing[0]), *map(float, timing[1:])) if timing else LeaseTiming()
    api = lease_api(Connection(Path(kubeconfig)))
    lease = Lease(api, namespace, "dlcloud-operator", identity, times)
    running = asyncio.create_task(lease.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    while not running.done():
        at = boottime()
        valid = lease.valid()
        print(f"{at:.6f} {valid:d}", flush=True)  # noqa: T201
        await asyncio.wait([running], timeout=0.02)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
    except LeaseLost as lost:
        print(lost, file=sys.stderr)  # noqa: T201
        return LOST
    finally:
        await lease.release()
        await api.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
