"""Build agent.pyz, the one file a pod without our package needs: `python -m dlcloud_trainer.agent_build OUT`.

May import the standard library only. The same sources make the same bytes, whatever the clock and the file system
say.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/env python3\n"
_PACKAGE = Path(__file__).parent
_DIGEST = "sources.sha256"  # a member and no comment: an older Python does not find the archive before a comment
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold


def build_agent(path: Path | str) -> Path:
    """Write the archive to `path` unless it already holds these sources; returns the path. Raises OSError."""
    path = Path(path)
    members = _members()
    digest = _digest(members)
    if _holds(path, digest):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # stored: nothing to inflate at each start
                for name, data in {**members, _DIGEST: digest}.items():
                    archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
        Path(temporary).chmod(0o755)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _members() -> dict[str, bytes]:
    agent = {f"dlcloud_trainer/agent/{file.name}": file.read_bytes() for file in sorted(_PACKAGE.glob("agent/*.py"))}
    main = agent.pop("dlcloud_trainer/agent/__main__.py")
    return {"__main__.py": main, "dlcloud_trainer/__init__.py": b"", **agent}


def _digest(members: dict[str, bytes]) -> bytes:
    digest = hashlib.sha256()
    for name, data in members.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest().encode()


def _holds(path: Path, digest: bytes) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_DIGEST) == digest
    except (OSError, zipfile.BadZipFile, KeyError):
        return False


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m dlcloud_trainer.agent_build OUT")
    sys.stdout.write(f"{build_agent(sys.argv[1])}\n")
