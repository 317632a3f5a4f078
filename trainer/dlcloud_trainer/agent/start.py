"""The first tenth of a second: say hello to the operator before the rest of the agent is even imported.

May import the standard library only, and of this package only what the first report needs.
"""

from __future__ import annotations

import os
import signal
import sys

from .ledger import Ledger
from .links import Link, Reporter
from .ports import free_port
from .settings import SettingsError, read_settings

ENDING = (signal.SIGTERM, signal.SIGINT)
EXIT_USAGE = 64
EXIT_BROKEN = 70


def main() -> None:
    """Run the agent in this process; never returns."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # kept for the handlers that come with the rest
    try:
        settings = read_settings(os.environ)
        ledger = Ledger(workload=bool(settings.workload), address=settings.address, port=free_port(0))
        link = Link()
        reporter = Reporter(settings, link)
    except SettingsError as error:
        sys.stderr.write(f"dlcloud agent: {error}\n")
        sys.exit(EXIT_USAGE)
    reporter.start()
    reporter.post(ledger.report(0.0, draining=False))

    from .app import App  # while the first report is on its way

    app = App(settings, ledger, link, reporter)
    try:
        code = app.run()
    except BaseException:
        import traceback  # not worth its import time before

        traceback.print_exc()
        app.supervisor.kill_all(1.0)
        code = EXIT_BROKEN
    os._exit(code)  # the daemon threads sit in system calls: an orderly end of the interpreter could wait for them
