"""Run a Python program in this process as the interpreter itself would: `__main__`, argv, path, exits, tracebacks.

May import the standard library only. Called once, in a forked child, which ends with it.
"""

from __future__ import annotations

import atexit
import builtins
import importlib.machinery
import io
import os
import runpy
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .command import Kind, PythonRun
from .kernel import flush_c_streams

EXIT_INTERRUPTED = 130
_OWN_FOLDER = str(Path(__file__).parent) + os.sep


def run_python(run: PythonRun) -> None:
    """Execute the program as `__main__`. Raises what it raises."""
    if run.unbuffered:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    if run.no_bytecode:
        sys.dont_write_bytecode = True
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    head = {Kind.FILE: [run.target], Kind.MODULE: ["-m", run.target], Kind.CODE: ["-c", run.target]}[run.kind]
    sys.orig_argv = [sys.executable, *head, *run.args]
    sys.argv = [run.target if run.kind is Kind.FILE else head[0], *run.args]
    if run.kind is Kind.MODULE:
        _put_first_on_path(str(Path.cwd()))
        runpy._run_module_as_main(run.target)  # type: ignore[attr-defined]
    elif run.kind is Kind.CODE:
        _put_first_on_path("")
        exec(compile(run.target, "<string>", "exec", dont_inherit=True), main.__dict__)
    else:
        _put_first_on_path(str(Path(run.target).resolve().parent))
        path = str(Path(run.target).absolute())
        code = _compile_file(path)
        loader = importlib.machinery.SourceFileLoader("__main__", path)
        main.__dict__.update(__file__=path, __cached__=None, __loader__=loader)
        exec(code, main.__dict__)


def finish(body: Callable[[], object]) -> NoReturn:
    """Run the body, then end as the interpreter would: threads joined, atexit handlers run, streams flushed.

    The interpreter's teardown is left out: the kernel frees faster, and libraries of a forked process may hang there.
    """
    code = _exit_code_of(body)
    for step in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        try:
            step()
        except BaseException:
            sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            code = code or 120  # the interpreter's own code for output it could not write
    flush_c_streams()
    os._exit(code)


def _exit_code_of(body: Callable[[], object]) -> int:
    try:
        body()
    except SystemExit as end:
        return _exit_code(end.code)
    except BaseException as error:
        _show(error)
        return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _show(error: BaseException) -> None:
    """Print the traceback without the frames that are ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    try:
        sys.excepthook(type(error), error, trace)
    except BaseException:
        sys.__excepthook__(*sys.exc_info())
        sys.__excepthook__(type(error), error, trace)


def _put_first_on_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, folder)


def _compile_file(path: str) -> types.CodeType:
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        sys.stderr.write(f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}\n")
        raise SystemExit(2) from None
    return compile(source, path, "exec", dont_inherit=True)
