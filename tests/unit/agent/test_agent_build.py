"""agent.pyz: the same sources, the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from dlcloud_trainer.agent_build import build_agent


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path) -> None:
    assert build_agent(tmp_path / "a.pyz").read_bytes() == build_agent(tmp_path / "b.pyz").read_bytes()


def test_an_archive_that_is_up_to_date_is_left_alone_and_another_is_replaced(tmp_path: Path) -> None:
    path = build_agent(tmp_path / "a.pyz")
    os.utime(path, (1, 1))
    build_agent(path)
    assert path.stat().st_mtime == 1
    path.write_bytes(b"broken")
    build_agent(path)
    assert zipfile.is_zipfile(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pyz"]


def test_the_archive_runs_alone_and_without_site_packages(tmp_path: Path) -> None:
    path = build_agent(tmp_path / "agent.pyz")
    done = subprocess.run([sys.executable, "-S", "-E", str(path)], env={}, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 64
    assert done.stderr.startswith("dlcloud agent: the environment variable DLCLOUD_RENDEZVOUS_URL is not set")


def test_the_command_writes_the_archive(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "agent.pyz"
    subprocess.run([sys.executable, "-m", "dlcloud_trainer.agent_build", str(target)], check=True)
    assert os.access(target, os.X_OK)


def test_the_archive_holds_the_agent_and_nothing_of_the_rest(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_agent(tmp_path / "agent.pyz")) as archive:
        names = set(archive.namelist())
    assert "__main__.py" in names
    own = ("dlcloud_trainer/agent/", "__main__.py", "dlcloud_trainer/__init__.py", "sources.sha256")
    assert all(name.startswith(own) for name in names)


def test_a_python_that_is_too_old_is_named_in_a_sentence(tmp_path: Path) -> None:
    path = build_agent(tmp_path / "agent.pyz")
    code = f"import runpy, sys; sys.version_info = (3, 8, 18); runpy.run_path({str(path)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stderr == (
        "dlcloud agent: this image's python3 is 3.8; it must be 3.9 or newer: use an image with a newer python3\n"
    )


def test_the_archive_has_no_comment_behind_which_an_old_python_would_not_find_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_agent(tmp_path / "agent.pyz")) as archive:
        assert archive.comment == b""
