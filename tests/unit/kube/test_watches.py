"""The watches of jobs begin wherever a container starts the operator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NOBODYS_UID = 65532
BEGIN = f"""
import asyncio, os, pwd
from dlcloud_operator.kube.watches import JobWatches

async def begin():
    started = asyncio.Event()
    watches = asyncio.ensure_future(JobWatches(None, None, None, [], print).run(started.set))
    await asyncio.wait_for(started.wait(), 20)
    watches.cancel()
    await asyncio.wait([watches])

os.setgroups([])
os.setgid({NOBODYS_UID})
os.setuid({NOBODYS_UID})
asyncio.run(begin())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user that nobody knows")
def test_they_begin_for_a_user_without_a_name() -> None:
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
