"""The command line itself: quick, complete, and described in docs/cli.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from dlcloud.commands.place import on_place
from dlcloud.exits import EXIT_INTERRUPTED
from dlcloud.main import app
from dlcloud.place import Place

from .runs import job_view, make_run

DOC = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
SLOW = {"dlcloud_operator.api", "yaml", "rich", "torch", "minio", "kubernetes", "aiohttp", "matplotlib"}


def ask(*arguments: str, **environment: str) -> str:
    """What a new process prints."""
    code = f"import sys; sys.argv = {['dlcloud', *arguments]!r}; from dlcloud.main import main; main()"
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def imported_by(*arguments: str, **environment: str) -> set[str]:
    """The slow packages that answering imports."""
    said = ask(*arguments, **environment, PYTHONPROFILEIMPORTTIME="1")
    return {name for name in SLOW if re.search(rf"\| +{name}$", said, re.M)}


def commands() -> Iterator[tuple[str, list[str], str]]:
    """Each command, its options and the text below its help."""
    todo = [("", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop(0)
        inner = getattr(command, "commands", {})
        todo += [(f"{name} {key}".strip(), one) for key, one in inner.items()]
        if name:
            names = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
            yield name, names, command.epilog or ""


def test_help_imports_nothing_slow() -> None:
    assert imported_by("--help") == set()
    assert "dlcloud_operator.api" in imported_by("ls", DLCLOUD_HOME="/nonexistent"), "the measure measures"


def test_every_command_has_examples_in_its_help() -> None:
    for name, _, epilog in commands():
        if " " not in name or epilog:
            assert "dlcloud " in epilog or name == "checkpoints", f"dlcloud {name} --help shows no example"


def test_every_command_and_option_is_in_the_documentation() -> None:
    text = DOC.read_text()
    sections = dict(re.findall(r"^## `dlcloud ([a-z]+)`.*?\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    missing = []
    for name, options, _ in commands():
        section = sections.get(name.split()[0], "")
        if f"dlcloud {name}" not in text or not section:
            missing.append(name)
        missing += [f"{name} {option}" for option in options if option not in section and option not in COMMON]
    assert missing == []


COMMON = ("--local", "--kubeconfig", "--context", "--namespace", "--help")  # described once, above the commands


def test_the_common_options_and_exit_codes_are_in_the_documentation() -> None:
    text = DOC.read_text()
    codes = (Path(__file__).resolve().parents[3] / "cli" / "dlcloud" / "exits.py").read_text()
    for word in [*COMMON, *re.findall(r"= (\d+)", codes)]:
        assert word in text, word


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_names_the_program_and_its_question(shell: str) -> None:
    said = ask("completion", shell)
    assert "_DLCLOUD_COMPLETE=complete_" + shell in said and "dlcloud" in said


def complete(line: str, home: Path) -> tuple[list[str], dict[str, str]]:
    """What bash is offered behind this line."""
    words = line.split(" ")
    asked = {"_DLCLOUD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    environment = {**asked, "DLCLOUD_HOME": str(home)}
    return ask(**environment).split(), environment


def test_commands_and_ids_of_runs_are_completed(tmp_path: Path) -> None:
    folder = make_run(tmp_path, job_view())
    assert "suspend" in complete("dlcloud su", tmp_path)[0]
    found, environment = complete("dlcloud describe dig", tmp_path)
    assert found == [folder.name]
    assert imported_by(**environment) == set()


def test_an_unknown_shell_is_refused() -> None:
    assert "give bash, zsh or fish" in ask("completion", "tcsh")


def test_as_a_plugin_of_kubectl_a_cluster_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert not Place().in_cluster
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-dlcloud", "ls"])
    assert Place().in_cluster and not Place(local=True).in_cluster
    assert Place(namespace="a b").command("logs", "j") == "kubectl dlcloud logs j -n 'a b'"


def test_errors_have_the_exit_codes_of_the_documentation(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['dlcloud', *sys.argv[1:]]; from dlcloud.main import main; main()"
    for arguments, expected in ((["describe", "x"], 2), (["ls", "--nonsense"], 2), (["ls"], 0)):
        env = {**os.environ, "DLCLOUD_HOME": str(tmp_path)}
        env.pop("KUBECONFIG", None)
        done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (expected, False), done.stderr


def test_ctrl_c_ends_any_command_on_jobs_with_its_own_exit_code() -> None:
    @on_place()
    def waits(*, place: Place) -> None:
        assert place == Place(namespace="research")
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        waits(place_local=False, place_kubeconfig=None, place_context="", place_namespace="research")
    assert ended.value.exit_code == EXIT_INTERRUPTED
