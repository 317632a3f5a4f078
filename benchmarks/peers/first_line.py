"""Writes CLOCK_MONOTONIC to the file $FIRST_LINE as its first act."""

import os
import time

clock = time.monotonic()
with open(os.environ["FIRST_LINE"], "w") as file:  # noqa: PTH123 (importing pathlib would count as start time)
    file.write(f"{clock:.6f}\n")
