"""`python -m dlcloud_trainer.export STEP --uri URI --out FOLDER ...`: hand over a checkpoint, JSON lines on standard
output.

May import this package. Credentials come from the environment alone. Exit codes as the checkpoint tool's: 0 done, 1 not
done, 2 the request is wrong. Where standard input is a pipe, its end ends the process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..assignment import ExportPlan, StoreAddress
from ..checkpoint.errors import CheckpointError, StoreUnreachable, StoreUnusable
from ..checkpoint_tool.lines import Lines, ToolError
from ..checkpoint_tool.process import DONE, FAILED, WRONG, end_with_parent
from ..errors import InvalidInput
from ..objects import ObjectMissing, open_objects
from .card import JSON_NAME
from .compression import refuse
from .exported import HandsOver
from .handover import make
from .rebuilding import facts_of, find_data, read_saved, rebuild


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; never raises for what a user or a store did."""
    options = _parser().parse_intermixed_args(arguments)
    lines = Lines()
    try:
        _export(options, lines)
    except ToolError as error:
        lines.say("error", message=str(error), usage=error.usage, force=error.force)
        return WRONG if error.usage else FAILED
    except InvalidInput as error:
        lines.say("error", message=str(error), usage=True, force=False)
        return WRONG
    except (StoreUnusable, CheckpointError, ObjectMissing) as error:
        unreachable = isinstance(error, StoreUnreachable)
        lines.say("error", message=str(error), usage=False, force=False, unreachable=unreachable)
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        lines.say("error", message=f"{where}{error.strerror or type(error).__name__}", usage=False, force=False)
        return FAILED
    return DONE


def _export(options: argparse.Namespace, lines: Lines) -> None:
    out = Path(options.out)
    if (out / JSON_NAME).exists() and not options.force:
        raise ToolError(f"{out / JSON_NAME}: exists; give another --out, or --force to replace it", usage=True)
    objects = open_objects(
        options.uri,
        endpoint=options.endpoint,
        region=options.region,
        ca_file=options.ca_file or None,
        encryption=options.encryption,
        kms_key_id=options.kms_key_id,
        what="the checkpoints' URI",
    )
    saved = read_saved(objects, options.step)
    store = StoreAddress(options.endpoint, options.region, options.ca_file or None)
    needed = "quantize: static" if options.quantize == "static" else ""
    data, read = find_data(
        saved, options.data, store, needed=needed, say=lambda text: lines.say("notice", message=text)
    )
    task, pruning = rebuild(saved, data)
    plan = ExportPlan(quantize=options.quantize)
    refuse(plan, saved.manifest.workload, task, saved.parameters)
    assert isinstance(task, HandsOver)
    plan = replace(plan, prune=pruning.plan if pruning is not None else None)
    facts = facts_of(saved, objects, data, options.data, read=read)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as name:
        folder = Path(name)
        card = make(task, data, plan, facts, pruning.smaller if pruning is not None else _copy, folder)
        (out / JSON_NAME).unlink(missing_ok=True)  # what the card lists is about to change
        for entry in card["files"]:
            (folder / entry["name"]).replace(out / entry["name"])
        (folder / JSON_NAME).replace(out / JSON_NAME)
    files = [*card["files"], {"name": JSON_NAME, "about": "the card", "sizeBytes": (out / JSON_NAME).stat().st_size}]
    told = {name: card.get(name) for name in ("step", "workload", "metrics", "checked", "quantized")}
    lines.say("result", folder=str(out), files=files, **told)


def _copy(model: nn.Module) -> nn.Module:
    return deepcopy(model).cpu()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dlcloud_trainer.export")
    parser.add_argument("step", nargs="?", default="latest", help="a step, latest or best")
    parser.add_argument("--uri", required=True, help="the job's prefix")
    parser.add_argument("--out", required=True, help="a folder")
    parser.add_argument("--quantize", choices=("none", "dynamic", "static"), default="none")
    parser.add_argument("--data", default="", help="where the training data is; empty: where the job had it")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--ca-file", default="")
    parser.add_argument("--encryption", default="", help="SSE-S3, SSE-KMS or SSE-C")
    parser.add_argument("--kms-key-id", default="")
    parser.add_argument("--force", action="store_true")
    return parser


if __name__ == "__main__":
    end_with_parent()
    code = main()
    sys.stdout.flush()
    os._exit(code)
