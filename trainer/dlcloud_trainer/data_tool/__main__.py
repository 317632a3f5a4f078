"""`python -m dlcloud_trainer.data_tool VERB --uri URI ...`: one verb, JSON lines on standard output.

May import this package and the checkpoint tool's lines and process. Credentials come from the environment alone. Exit
codes: 0 done, 1 not done or damage found, 2 the request is wrong. Where standard input is a pipe, its end ends the
process: whoever started it is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint_tool.lines import Lines, ToolError
from ..checkpoint_tool.process import DONE, FAILED, WRONG, end_with_parent
from ..errors import InvalidInput
from ..objects import ObjectMissing, StoreUnreachable, StoreUnusable, open_objects
from .looking import ls, verify
from .putting import put


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; never raises for what a user or a store did."""
    options = _parser().parse_intermixed_args(arguments)
    lines = Lines()
    try:
        objects = open_objects(
            options.uri,
            endpoint=options.endpoint,
            region=options.region,
            ca_file=options.ca_file or None,
            what="the data set's URI",
        )
        if options.verb == "verify":
            return DONE if verify(objects, lines) else FAILED
        if options.verb == "put":
            put(objects, Path(options.source), lines)
        else:
            ls(objects, lines)
        return DONE
    except ToolError as error:
        lines.say("error", message=str(error), usage=error.usage)
        return WRONG if error.usage else FAILED
    except (StoreUnusable, InvalidInput, ObjectMissing) as error:
        lines.say("error", message=str(error), usage=False, unreachable=isinstance(error, StoreUnreachable))
    except BrokenPipeError:
        return FAILED  # nobody reads any more
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        lines.say("error", message=f"{where}{error.strerror or type(error).__name__}", usage=False)
    return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dlcloud_trainer.data_tool")
    parser.add_argument("verb", choices=("put", "ls", "verify"))
    parser.add_argument("source", nargs="?", default=".", help="put: a file or a folder")
    parser.add_argument("--uri", required=True, help="the data set's prefix")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--ca-file", default="")
    return parser


if __name__ == "__main__":
    end_with_parent()
    code = main()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(code)  # daemon threads may be in the middle of a read
