"""Where the agent's keys for the object store come from."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from dlcloud_trainer.agent.credentials import CredentialSource, NoCredentials, read_folder
from dlcloud_trainer.agent.sigv4 import Credentials


def write_secret(folder: Path, version: str, access: str, secret: str, token: str = "") -> None:
    """A new version of a mounted Secret, exchanged as the kubelet does it: one rename of the link `..data`."""
    (folder / version).mkdir(parents=True)
    for name, value in (("ACCESS_KEY_ID", access), ("SECRET_ACCESS_KEY", secret), ("SESSION_TOKEN", token)):
        if value:
            (folder / version / f"AWS_{name}").write_text(value + "\n")
    (folder / "..new").symlink_to(version)
    (folder / "..new").rename(folder / "..data")


def source(**env: str) -> CredentialSource:
    return CredentialSource(env, "us-east-1", None)


def test_the_mounted_secret_comes_before_the_environment_and_is_read_anew(tmp_path: Path) -> None:
    write_secret(tmp_path, "..v1", "AKIA1", "secret1", "token1")
    keys = source(DLCLOUD_STORE_CREDENTIALS_DIR=str(tmp_path), AWS_ACCESS_KEY_ID="old", AWS_SECRET_ACCESS_KEY="old")
    assert keys.get() == Credentials("AKIA1", "secret1", "token1")
    write_secret(tmp_path, "..v2", "AKIA2", "secret2")
    assert keys.get() == Credentials("AKIA2", "secret2", "")


def test_a_plain_folder_of_files_will_do(tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("AKIA")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("secret")
    assert read_folder(tmp_path) == Credentials("AKIA", "secret", "")


def test_a_rotating_pair_is_never_read_from_two_versions(tmp_path: Path) -> None:
    write_secret(tmp_path, "..0", "0", "0")
    stop = threading.Event()

    def rotate() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_secret(tmp_path, f"..{number}", str(number), str(number))
            old = tmp_path / f"..{number - 1}"
            for file in old.iterdir():
                file.unlink()
            old.rmdir()

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        end = time.monotonic() + 1.0
        seen = set()
        while time.monotonic() < end:
            found = read_folder(tmp_path)
            if found is not None:
                assert found.access_key == found.secret_key
                seen.add(found.access_key)
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 2


def test_the_environment_is_used_when_the_secrets_folder_has_no_keys(tmp_path: Path) -> None:
    keys = source(
        DLCLOUD_STORE_CREDENTIALS_DIR=str(tmp_path / "none"), AWS_ACCESS_KEY_ID="A", AWS_SECRET_ACCESS_KEY="S"
    )
    assert keys.get() == Credentials("A", "S", "")


def test_without_any_source_it_is_said_what_was_looked_at() -> None:
    with pytest.raises(NoCredentials, match="AWS_ACCESS_KEY_ID"):
        source().get()


Answer = Callable[[str, dict[str, str]], tuple[int, str]]


class Identity:
    """A token service or a pod identity's agent, on 127.0.0.1."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[str] = []
        self.answer: tuple[int, str] = (500, "")
        identity = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                identity.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.do_GET()

            def do_GET(self) -> None:
                identity.requests.append((self.path, dict(self.headers)))
                status, body = identity.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def identity() -> Iterator[Identity]:
    running = Identity()
    yield running
    running.server.shutdown()
    running.server.server_close()


def role_answer(access: str, ends_in_s: float) -> str:
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ends_in_s))
    return f"""<?xml version="1.0"?>
    <AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
      <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>
        <SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken><Expiration>{end}</Expiration>
      </Credentials></AssumeRoleWithWebIdentityResult>
    </AssumeRoleWithWebIdentityResponse>"""


def role_source(identity: Identity, tmp_path: Path) -> CredentialSource:
    (tmp_path / "token").write_text("a.jwt+/=\n")
    return source(
        AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "token"),
        AWS_ROLE_ARN="arn:aws:iam::1:role/train",
        AWS_ENDPOINT_URL_STS=identity.url,
        DLCLOUD_POD="job-0-1",
    )


def test_a_role_is_assumed_with_the_pods_token_and_its_keys_are_kept_until_shortly_before_their_end(
    identity: Identity, tmp_path: Path
) -> None:
    keys = role_source(identity, tmp_path)
    identity.answer = 200, role_answer("ASIA1", 3600)
    assert keys.get() == keys.get() == Credentials("ASIA1", "secret", "token")
    ((path, headers),) = identity.requests
    assert path == "/"  # a token in a URL would end up in logs
    assert parse_qs(identity.bodies[0]) == {
        "Action": ["AssumeRoleWithWebIdentity"],
        "Version": ["2011-06-15"],
        "RoleArn": ["arn:aws:iam::1:role/train"],
        "RoleSessionName": ["job-0-1"],
        "WebIdentityToken": ["a.jwt+/="],
    }
    assert "Authorization" not in headers


def test_keys_of_a_role_that_are_about_to_end_are_renewed(identity: Identity, tmp_path: Path) -> None:
    keys = role_source(identity, tmp_path)
    identity.answer = 200, role_answer("ASIA1", 299)
    assert keys.get().access_key == "ASIA1"
    identity.answer = 200, role_answer("ASIA2", 3600)
    keys._renew_at -= 2  # they are not asked for more than once a second
    assert keys.get().access_key == "ASIA2"


def test_keys_the_store_refused_are_asked_for_anew(identity: Identity, tmp_path: Path) -> None:
    keys = role_source(identity, tmp_path)
    identity.answer = 200, role_answer("ASIA1", 3600)
    keys.get()
    keys.forget()
    identity.answer = 200, role_answer("ASIA2", 3600)
    assert keys.get().access_key == "ASIA2"


@pytest.mark.parametrize("answer", [(403, "<Error>a.jwt</Error>"), (200, "no xml a.jwt"), (200, "<a>a.jwt</a>")])
def test_a_refusal_tells_nothing_of_what_was_sent_or_answered(
    identity: Identity, tmp_path: Path, answer: tuple[int, str]
) -> None:
    identity.answer = answer
    with pytest.raises(NoCredentials) as caught:
        role_source(identity, tmp_path).get()
    assert "jwt" not in str(caught.value)


def test_a_pod_identitys_agent_is_asked_with_its_token(identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("pod-token")
    identity.answer = 200, json.dumps({"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": ""})
    keys = source(
        AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{identity.url}/v1/credentials",
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(tmp_path / "token"),
    )
    assert keys.get() == Credentials("ASIA", "s", "t")
    assert identity.requests[0][0] == "/v1/credentials"
    assert identity.requests[0][1]["Authorization"] == "pod-token"


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").mkdir()
    with pytest.raises(NoCredentials, match="AWS_ACCESS_KEY_ID"):
        read_folder(tmp_path)
