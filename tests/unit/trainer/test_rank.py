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
kept = 0
for _ in range(200):
    before = faults()
    torch.ones(16 << 20)  # 64 MiB in 16,384 pages, let go of at once
    kept = kept + 1 if faults() - before < 1000 else 0
    if kept == 10:
        break
print(kept)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_the_memory_of_one_step_is_there_for_the_next() -> None:
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=100)
    # None when the kernel gives every page anew each time. The first few may not fit where those before them were.
    assert int(found.stdout) == 10
