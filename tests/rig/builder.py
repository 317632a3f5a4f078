"""Builds programs from Go modules into the user's cache, once: `ensure_programs` for the rig's, `build_module` for any.

May import the standard library and this package. A program appears under its name only when it is complete.
"""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import versions
from .binaries import ALL, KUBE, ProgramsMissing, cache_folder, find, fits, own_folder
from .go import Go, find_go
from .processes import RigError

PROGRESS_S = 15.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Module:
    """A folder with a go.mod, and what is built in it: program -> package.

    `links` are the names a program is called by instead of its own. `check` says whether one that was built works.
    """

    folder: Path
    packages: Mapping[str, str]
    check: Callable[[Path], bool]
    flags: Mapping[str, str] = field(default_factory=dict)  # Go variables to be set by the linker
    links: Mapping[str, Sequence[str]] = field(default_factory=dict)


def kubernetes_flags() -> dict[str, str]:
    major, minor, _ = versions.KUBERNETES.removeprefix("v").split(".")
    told = {"gitVersion": versions.KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": value for package in packages for name, value in told.items()}


def helm_flags() -> dict[str, str]:
    """Its version, and the cluster's that `helm template` assumes where it is told no other."""
    major, minor, _ = versions.KUBERNETES.removeprefix("v").split(".")
    packages = ("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules")
    told = {"k8sVersionMajor": major, "k8sVersionMinor": minor}
    assumed = {f"{package}.{name}": value for package in packages for name, value in told.items()}
    return {"helm.sh/helm/v3/internal/version.version": versions.HELM, **assumed}


# One module for three programs: they share the Kubernetes libraries, which are so compiled once.
MODULES = (
    Module(
        versions.HERE / "kube",
        {"kube": ".", "kwok": "sigs.k8s.io/kwok/cmd/kwok", "helm": "helm.sh/helm/v3/cmd/helm"},
        fits,
        {**kubernetes_flags(), **helm_flags()},
        {"kube": KUBE},
    ),
    Module(versions.HERE / "etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, fits),
)


def missing(names: Sequence[str] = ALL) -> list[str]:
    """Those of the programs that are nowhere."""
    find.cache_clear()
    return [name for name in names if find(name) is None]


def ensure_programs(say: Say, names: Sequence[str] = ALL, *, clean: bool = True) -> None:
    """Build what is missing; minutes. Raises ProgramsMissing with what went wrong.

    `clean`: remove the caches of a Go that was fetched for this; not where more is built of the same modules.
    """
    if not missing(names):
        return
    with locked(cache_folder(), say):
        wanted = missing(names)  # another run may have built them meanwhile
        if not wanted:
            return
        say(f"building {', '.join(wanted)} into {own_folder()}: once, about 10 minutes on 2 cores")
        try:
            build(wanted, say, clean)
        except RigError as error:
            raise ProgramsMissing(wanted, str(error)) from error
    if left := missing(names):
        raise ProgramsMissing(left)


def build(wanted: Sequence[str], say: Say, clean: bool) -> None:
    """Build `wanted` and put them into the own folder. Raises RigError."""
    go = find_go(say, versions.HERE / "kube")
    files = {"kube" if name in KUBE else name for name in wanted}
    modules = [(module, sorted(files & set(module.packages))) for module in MODULES]
    with ThreadPoolExecutor(len(MODULES)) as pool:
        done = [pool.submit(build_module, go, module, names, own_folder(), say) for module, names in modules if names]
    for each in done:
        each.result()
    if clean:
        go.clean()


def build_module(go: Go, module: Module, names: Sequence[str], home: Path, say: Say) -> None:
    """Build these programs of a module into `home`. Raises RigError with the end of Go's output."""
    started = time.monotonic()
    home.mkdir(parents=True, exist_ok=True)
    packages = [module.packages[name] for name in names]
    folder = module.folder
    listed = run(go, ["list", "-deps", *packages], folder)
    total = len(listed.splitlines())
    title = ", ".join(names)
    say(f"{title}: {total} packages")
    linker = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in module.flags.items())])
    with tempfile.TemporaryDirectory(prefix=".building-", dir=home) as scratch:
        # With several packages Go names the programs by their folders; one gets the name it is given.
        target = f"{scratch}/" if len(names) > 1 else f"{scratch}/{names[0]}"
        with progress(say, title, total, started) as compiled:
            run(go, ["build", "-v", "-ldflags", linker, "-o", target, *packages], folder, compiled)
        for name in names:
            install(Path(scratch) / name, home, module)
    say(f"{title}: built in {time.monotonic() - started:.0f} s")


def install(built: Path, home: Path, module: Module) -> None:
    """Move a program into its place, with the names it is called by; each name appears at once."""
    links = module.links.get(built.name, ())
    for name in links:
        link = built.with_name(name)
        link.symlink_to(built.name)
    for path in [built.with_name(name) for name in links] or [built]:
        if not module.check(path):
            raise RigError(f"{path.name} was built, but does not start or is of another version than wanted")
    built.replace(home / built.name)
    for name in links:
        built.with_name(name).replace(home / name)


def run(go: Go, arguments: Sequence[str], folder: Path, on_line: Callable[[str], None] | None = None) -> str:
    """Go's standard output; each line it writes about its progress goes to `on_line`. Raises RigError."""
    popen = subprocess.Popen(
        [go.program, *arguments],
        cwd=folder,
        env=dict(go.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert popen.stdout is not None and popen.stderr is not None
    told: list[str] = []

    def read(lines: Iterable[str]) -> None:
        for line in lines:
            told.append(line)
            if on_line is not None:
                on_line(line)

    reader = threading.Thread(target=read, args=(popen.stderr,))
    reader.start()
    output = popen.stdout.read()
    reader.join()
    if popen.wait() != 0:
        end = "".join(line for line in told if not is_package(line))[-3000:]
        raise RigError(f"go {arguments[0]} in {folder.name}/ failed:\n{end}")
    return output


def is_package(line: str) -> bool:
    """Whether a line of `go build -v` names a package that is done, and is no message."""
    return " " not in line.strip()


@contextmanager
def progress(say: Say, title: str, total: int, started: float) -> Iterator[Callable[[str], None]]:
    """Takes Go's lines and says every 15 s how far it is."""
    done = 0
    over = threading.Event()

    def count(line: str) -> None:
        nonlocal done
        done += is_package(line)

    def tell() -> None:
        while not over.wait(PROGRESS_S):
            say(f"{title}: {done} of at most {total} packages after {time.monotonic() - started:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield count
    finally:
        over.set()
        teller.join()


@contextmanager
def locked(folder: Path, say: Say, who: str = "build") -> Iterator[None]:
    """One at a time in this folder; the lock goes with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another {who}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
