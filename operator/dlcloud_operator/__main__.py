"""`python -m dlcloud_operator`: the operator as a process. Exit codes: 0 asked to stop, 1 cannot go on, 2 bad flag."""

from __future__ import annotations

import sys

from dlcloud_operator.kube.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
