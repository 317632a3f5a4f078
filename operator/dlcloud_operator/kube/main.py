"""The operator's process: flags, logging, signals, exit codes. What runs in it is composed in `operator`.

May import this package. A traceback is no answer to a wrong flag or a missing file.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from .certificates import CertificateError
from .connection import NotConfigured
from .lease import LeaseLost
from .operator import Operator
from .options import BadOption, Options, parse_options

log = logging.getLogger(__name__)

STOPPED, CANNOT_GO_ON, WRONG_FLAG = 0, 1, 2
_SWITCH_S = 0.0005  # a thread that writes /metrics gives agents' requests their turn this soon (default 5 ms)


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; the answer is the exit code."""
    try:
        options = parse_options(argv)
    except BadOption as error:
        print(f"dlcloud-operator: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
        return WRONG_FLAG
    _start_logging(options)
    sys.setswitchinterval(_SWITCH_S)
    # With the objects of a thousand jobs a full collection stops everything for a second; `operator` asks for them.
    gc.set_threshold(20_000, 20, 1_000)
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:
        return STOPPED


async def _run(options: Options) -> int:
    try:
        operator = Operator(options)
    except CertificateError as error:
        log.error("%s", error)
        return CANNOT_GO_ON
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, operator.stop)

    try:
        await operator.run(take_signals)
    except NotConfigured as error:
        log.error("%s", error)
        return CANNOT_GO_ON
    except LeaseLost as error:
        log.error("%s; this process ends, so that nothing is done twice", error)
        return CANNOT_GO_ON
    except OSError as error:
        log.error("cannot go on: %s", error)
        return CANNOT_GO_ON
    except Exception:
        log.exception("cannot go on")
        return CANNOT_GO_ON
    return STOPPED


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _start_logging(options: Options) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if options.log_format == "json":
        handler.setFormatter(_JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler], force=True)
    for name in ("asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    if options.log_level != "debug":
        logging.getLogger("kopf").setLevel(logging.CRITICAL)  # what it cannot mend itself is told by `watches`
