"""`python -m dlcloud_trainer.checkpoint_tool VERB --uri URI ...`: one verb, JSON lines on standard output.

May import this package. Credentials come from the environment alone. Exit codes: 0 done, 1 not done or damage found,
2 the request is wrong. Where standard input is a pipe, its end ends the process: whoever started it is gone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoint.errors import CheckpointError, StoreUnreachable, StoreUnusable
from ..checkpoint.layout import Entry
from ..objects import ObjectMissing, Objects, open_objects
from .choosing import choose
from .edit import edit_head
from .fetching import get
from .lines import Lines, ToolError
from .process import DONE, FAILED, WRONG, end_with_parent
from .removing import remove
from .verifying import verify


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
            encryption=options.encryption,
            kms_key_id=options.kms_key_id,
            what="the checkpoints' URI",
        )
        return _run(options, objects, lines)
    except ToolError as error:
        lines.say("error", message=str(error), usage=error.usage, force=error.force)
        return WRONG if error.usage else FAILED
    except (StoreUnusable, CheckpointError, ObjectMissing) as error:
        unreachable = isinstance(error, StoreUnreachable)
        lines.say("error", message=str(error), usage=False, force=False, unreachable=unreachable)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        lines.say("error", message=f"{where}{error.strerror or type(error).__name__}", usage=False, force=False)
    return FAILED


def _run(options: argparse.Namespace, objects: Objects, lines: Lines) -> int:
    if options.verb == "verify":
        return DONE if verify(objects, options.steps, lines) else FAILED
    if options.verb == "get":
        out = Path(options.out)
        get(objects, (options.steps or ["latest"])[0], out, only=options.only, force=options.force, lines=lines)
    elif options.verb == "rm":
        remove(objects, options.steps, force=options.force, stopped=options.stopped, lines=lines)
    else:
        _pin(objects, options.steps, options.verb == "pin", lines)
    return DONE


def _pin(objects: Objects, words: Sequence[str], pinned: bool, lines: Lines) -> None:
    changed: list[Entry] = []

    def change(entries: Sequence[Entry]) -> Sequence[Entry]:
        nonlocal changed
        changed = [entry for word in words for entry in choose(entries, word)]
        keys = {entry.manifest for entry in changed}
        return [replace(entry, pinned=pinned) if entry.manifest in keys else entry for entry in entries]

    edit_head(objects, change)
    lines.say("result", steps=[entry.step for entry in changed], already=all(e.pinned is pinned for e in changed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dlcloud_trainer.checkpoint_tool")
    parser.add_argument("verb", choices=("verify", "get", "pin", "unpin", "rm"))
    parser.add_argument("steps", nargs="*", help="steps, latest, best or all")
    parser.add_argument("--uri", required=True, help="the job's prefix")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--ca-file", default="")
    parser.add_argument("--encryption", default="", help="SSE-S3, SSE-KMS or SSE-C")
    parser.add_argument("--kms-key-id", default="")
    parser.add_argument("--out", default=".", help="get: a folder, or a file that ends in .safetensors")
    parser.add_argument("--only", default="", help="get: one part of the state, without its name before the tensors'")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--stopped", action="store_true", help="rm: the job does not run, its objects may go at once")
    return parser


if __name__ == "__main__":
    end_with_parent()
    code = main()
    sys.stdout.flush()
    os._exit(code)  # daemon threads may be in the middle of a read
