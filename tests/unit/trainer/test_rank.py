"""What a rank does to its own process before it trains."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from dlcloud_trainer import rank
rank._keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):  # the second may find the first one's place a little too short for its alignment
    torch.ones(16 << 20)  # 64 MiB, let go of at once
before = faults()
torch.ones(16 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_the_memory_of_one_step_is_there_for_the_next() -> None:
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=100)
    assert int(found.stdout) < 1000  # 16,384 when the kernel had to give every page anew
