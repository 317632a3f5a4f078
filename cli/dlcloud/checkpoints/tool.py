"""The trainer's tool for checkpoints as a process: arguments and keys in, events out.

May import the objects module and the standard library, never the trainer. The process ends with ours, whatever ends us.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..jobs.errors import JobsError
from ..objects import Access
from ..target import Target

MODULE = "dlcloud_trainer.checkpoint_tool"
EXPORT = "dlcloud_trainer.export"
DATA = "dlcloud_trainer.data_tool"
_COMMANDS = {MODULE: "checkpoints ", DATA: "data "}  # of a tool with several verbs
_NEEDED = {
    MODULE: ("dlcloud_trainer", "numpy", "obstore"),
    DATA: ("dlcloud_trainer", "obstore"),
    EXPORT: ("dlcloud_trainer", "numpy", "obstore", "torch", "onnx", "onnxscript", "onnxruntime", "safetensors"),
}
_CUSTOMER_KEY = "AWS_SSE_CUSTOMER_KEY_BASE64"  # the job's own key, where objectStore.encryption asks for one
_MOUNTED = "DLCLOUD_STORE_CREDENTIALS_DIR"  # a pod's: it would win over the keys we give
_STOP_S = 5.0


@dataclass(frozen=True)
class Event:
    """A line of the tool: `kind` is progress, checkpoint, notice, result or error."""

    kind: str
    fields: Mapping[str, Any]


def run_tool(
    verb: str, target: Target, words: Sequence[str], options: Sequence[str] = (), *, module: str = MODULE
) -> Generator[Event, None, None]:
    """Run a verb of the tool (`module`: of another one) and hand out its events as they come; the last one is `result`
    or `error`.

    Raises JobsError when it cannot run or dies. Closing the iterator ends the process.
    """
    missing = [name for name in _NEEDED[module] if find_spec(name) is None]
    if missing:
        name = f"{_COMMANDS.get(module, '')}{verb}"
        raise JobsError(f"{', '.join(missing)} not installed; `dlcloud {name}` needs the trainer: "
                        "pip install 'dlcloud[trainer]'")  # fmt: skip
    verbs = [verb] if module in _COMMANDS else []
    command = [sys.executable, "-m", module, *verbs, "--uri", target.prefix, *_where(target), *options]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*command, "--", *words], env=environment(target.access), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            ended = False
            for event in _events(process):
                ended = event.kind in ("result", "error")
                yield event
            process.wait()
            if not ended:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().rsplit("\n", 1)[-1]
                raise JobsError(f"the trainer's tool ended with {process.returncode}: {last or 'without a word'}")
        finally:
            _end(process)


def environment(access: Access | None) -> dict[str, str]:
    """Ours, without its AWS settings, and with the keys of `access`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") or name == _CUSTOMER_KEY}
    env.pop(_MOUNTED, None)
    if access is not None:
        env |= {"AWS_ACCESS_KEY_ID": access.access_key, "AWS_SECRET_ACCESS_KEY": access.secret_key}
        env |= {"AWS_SESSION_TOKEN": access.session_token} if access.session_token else {}
        env |= {_CUSTOMER_KEY: access.customer_key} if access.customer_key else {}
    return env


def _where(target: Target) -> list[str]:
    access = target.access
    if access is None:
        return []
    words = ["--endpoint", access.endpoint, "--region", access.region]
    words += ["--ca-file", access.ca_file] if access.ca_file else []
    spec = target.record.job.spec if target.record else None
    encryption = spec.object_store.encryption if spec else None
    if encryption is not None:
        words += ["--encryption", str(encryption.type)]
        words += ["--kms-key-id", encryption.kms_key_id] if encryption.kms_key_id else []
    return words


def _events(process: subprocess.Popen[bytes]) -> Iterator[Event]:
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict):
                yield Event(str(fields.pop("event", "")), fields)


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
