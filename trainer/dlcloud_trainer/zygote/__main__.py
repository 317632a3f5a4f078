"""Entry of the zygote: `python -m dlcloud_trainer.zygote <descriptor of the socket to the agent>`.

May import this package only. It says hello before the imports, so that the agent can tell an image without this
package from one whose imports fail: those end it with a traceback.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from .child import become_rank, run_rank
from .imports import load
from .kernel import die_with_parent
from .server import Server


def main() -> None:
    """Import, then fork until the agent is gone; in a forked child, be a rank. Never returns."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C reaches the whole terminal; the agent decides who ends
    server = Server(control)
    server.tell({"is": "hello"})
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder, put there for -m: a file of the user's must not shadow what torch imports
    gc.disable()
    loaded = load(os.environ.get("DLCLOUD_WORKLOAD", ""))
    gc.collect()
    server.tell({"is": "ready"})
    order = server.serve()
    if order is None:
        os._exit(0)
    become_rank(order)
    run_rank(order, loaded)


if __name__ == "__main__":
    main()
