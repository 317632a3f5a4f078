"""The pod's environment, and every way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlcloud_trainer.agent.settings import SettingsError, read_settings, read_token

REQUIRED = (
    "DLCLOUD_RENDEZVOUS_URL", "DLCLOUD_TOKEN_FILE", "DLCLOUD_NAMESPACE", "DLCLOUD_JOB", "DLCLOUD_JOB_UID",
    "DLCLOUD_INDEX", "DLCLOUD_POD", "DLCLOUD_POD_UID", "DLCLOUD_POD_IP",
)  # fmt: skip


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("abc.def\n")
    return {
        "DLCLOUD_RENDEZVOUS_URL": "https://operator:8443/base/",
        "DLCLOUD_TOKEN_FILE": str(tmp_path / "token"),
        "DLCLOUD_NAMESPACE": "team",
        "DLCLOUD_JOB": "mnist",
        "DLCLOUD_JOB_UID": "u",
        "DLCLOUD_INDEX": "3",
        "DLCLOUD_POD": "mnist-3-1",
        "DLCLOUD_POD_UID": "p",
        "DLCLOUD_POD_IP": "10.0.0.3",
    }


def test_the_settings_are_read_with_their_defaults(env: dict[str, str]) -> None:
    settings = read_settings(env)
    assert settings.url == "https://operator:8443/base"
    assert settings.path == "/v1/namespaces/team/jobs/mnist/pods/mnist-3-1"
    assert (settings.worker, settings.processes, settings.drain_s, settings.workload) == (3, 1, 30.0, "")
    assert settings.fork_limit_s == 20.0


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named(env: dict[str, str], name: str, value: str | None) -> None:
    env = {key: text for key, text in env.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(SettingsError, match=name):
        read_settings(env)


@pytest.mark.parametrize(
    ("name", "value"),
    [("DLCLOUD_INDEX", "-1"), ("DLCLOUD_PROCESSES", "0"), ("DLCLOUD_DRAIN_S", "nan"), ("DLCLOUD_DRAIN_S", "soon"),
     ("DLCLOUD_RENDEZVOUS_URL", "operator:8443")],
)  # fmt: skip
def test_an_unusable_value_is_named_and_quoted(env: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: '{value}'"):
        read_settings({**env, name: value})


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"a\r\nX-Header: b"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SettingsError, match="DLCLOUD_TOKEN_FILE"):
        read_token(str(tmp_path / "token"))
