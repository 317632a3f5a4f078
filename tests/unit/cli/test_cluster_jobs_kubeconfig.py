"""Which cluster is meant, and what is wrong with it, is one sentence: it names the file, and never holds a token."""

from __future__ import annotations

import json
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from dlcloud.jobs.cluster import ClusterJobs
from dlcloud.jobs.errors import JobsError, Unreachable
from dlcloud.jobs.kubeconfig import connect

SECRET = "s3cr3t-t0k3n"


def config(server: str = "https://127.0.0.1:1", user: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": SECRET} if user is None else user}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "two", "context": {"cluster": "c", "user": "u"}},
        ],
        "current-context": "one",
        **fields,
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def sentence(kubeconfig: Path | None, context: str = "", **environ: str) -> str:
    with pytest.raises(JobsError) as caught:
        connect(kubeconfig, context, "", environ)
    message = str(caught.value)
    assert SECRET not in message
    return message


def test_the_namespace_is_the_options_else_the_contexts_else_default(tmp_path: Path) -> None:
    file = write(tmp_path / "config", config())
    assert connect(file, "", "mine", {}).namespace == "mine"
    assert connect(file, "", "", {}).namespace == "team"
    assert connect(file, "two", "", {}).namespace == "default"


def test_of_several_files_the_first_current_context_counts(tmp_path: Path) -> None:
    first = write(tmp_path / "1", config())
    second = write(tmp_path / "2", config(**{"current-context": "two"}))
    assert connect(None, "", "", {"KUBECONFIG": f"{tmp_path / 'missing'}:{first}:{second}"}).context == "one"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert sentence(tmp_path / "nowhere").startswith(f"kubeconfig {tmp_path / 'nowhere'}: there is no such file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"users: [{{token: {SECRET}", "is no YAML"),
        ("", "is empty"),
        ("- a", "is no mapping"),
        ("clusters: 3", "clusters is no list"),
        (config(contexts=[]), "context"),
        (config(**{"current-context": ""}), "there are one, two"),
        (config(clusters=[]), "names no cluster"),
        (config(user={"tokenFile": "missing"}), "missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "config",
)
def test_a_file_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, content: Any, words: str) -> None:
    message = sentence(write(tmp_path / "config", content))
    assert str(tmp_path / "config") in message
    assert words in message


def test_a_wrong_context_names_those_there_are(tmp_path: Path) -> None:
    message = sentence(write(tmp_path / "config", config()), "onne")
    assert "did you mean 'one'? (there are one, two)" in message


def plugin(tmp_path: Path, body: str) -> dict[str, Any]:
    program = tmp_path / "login"
    program.write_text(f"#!{sys.executable}\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
    }


def test_a_login_program_that_is_missing_is_named_with_its_hint(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "v1", "command": "no-such-login", "installHint": "get it at example.org"}}
    message = sentence(write(tmp_path / "config", config(user=user)), PATH="/usr/bin")
    assert "'no-such-login', which is not there; get it at example.org" in message


def test_a_login_program_that_fails_is_quoted(tmp_path: Path) -> None:
    user = plugin(tmp_path, "import sys; sys.exit('your session has ended')")
    assert "your session has ended" in sentence(write(tmp_path / "config", config(user=user)))


def test_a_login_programs_token_is_used(tmp_path: Path) -> None:
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": SECRET}}
    user = plugin(tmp_path, f"print({json.dumps(answer)!r})")
    found = connect(write(tmp_path / "config", config(user=user)), "", "", {})
    assert [auth["value"] for auth in found.configuration.auth_settings().values()] == [f"Bearer {SECRET}"]


def test_a_server_that_refuses_connections_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"https://127.0.0.1:{free.getsockname()[1]}"
    source = ClusterJobs(kubeconfig=write(tmp_path / "config", config(address)))
    with pytest.raises(Unreachable) as caught:
        source.records()
    message = str(caught.value)
    assert f"{address} (context one) cannot be reached: it refuses connections" in message
    assert SECRET not in message


def test_a_host_that_does_not_resolve_is_named(tmp_path: Path) -> None:
    source = ClusterJobs(kubeconfig=write(tmp_path / "config", config("https://no-such-host.invalid")))
    with pytest.raises(Unreachable, match="its host name does not resolve"):
        source.records()
