"""Take pip and its kin out of a base image: runs as root, with the base's own python3, in the images' last stage.

May import the standard library only. What runs in a cluster installs nothing; what could is one thing less to patch.
"""

from __future__ import annotations

import shutil
import site
import sys
import sysconfig
from pathlib import Path

NAMES = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "ensurepip")
SCRIPTS = ("pip*", "easy_install*", "wheel")


def main() -> None:
    """Remove them where this python3 looks for packages, and their commands."""
    folders = {Path(folder) for folder in (*site.getsitepackages(), sysconfig.get_path("stdlib"))}
    found = [folder / name for folder in folders for name in NAMES]
    found += [path for folder in folders for name in NAMES for path in folder.glob(f"{name}-*.*-info")]
    found += [path for folder in folders for path in folder.glob("distutils-precedence.pth")]
    found += [path for name in SCRIPTS for path in Path(sys.base_prefix, "bin").glob(name)]
    found.append(Path("/usr/share/python-wheels"))  # Debian's wheels for new virtual environments
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
