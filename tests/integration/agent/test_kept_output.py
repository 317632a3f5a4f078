"""A pod's output on a real S3 server: whole, in order, and there when the pod is gone."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dlcloud_trainer.agent.backlog import PART_BYTES
from dlcloud_trainer.agent.log_store import NotKept, open_store
from dlcloud_trainer.objects import Objects, open_objects

from ..checkpoint.proxy import Fault, Proxy

FINISHED = {"kind": "finished", "phase": "Succeeded"}
ODD = "a b/ü+x/t~*'()/q?x#y/a%25b/c=d&e;f@g:h,i$j!k"


class Bucket:
    """A prefix of its own, what an agent is told of it, and what lies below it as the trainer's client sees it."""

    def __init__(self, server: Any, bucket: str, prefix: str = "") -> None:
        self.server = server
        self.uri = f"s3://{bucket}/{prefix or 'jobs'}/{secrets.token_hex(4)}/"
        self.env = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        self.objects: Objects = open_objects(self.uri, endpoint=server.endpoint)

    def job(self, endpoint: str = "", **store: Any) -> dict[str, Any]:
        """The fields of an assignment's job."""
        address = {"endpoint": endpoint or self.server.endpoint, "region": "us-east-1", **store}
        return {"checkpoint": {"uri": self.uri}, "objectStore": address}

    def output(self, pod: str = "job-0-1") -> bytes:
        return b"".join(self.objects.get(key) for key in self.objects.list(f"logs/{pod}"))


@pytest.fixture
def bucket(s3_server: Any, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    return lambda prefix="": Bucket(s3_server, s3_bucket, prefix)


def tell(rendezvous: Any, name: str, instruction: dict[str, Any], fields: dict[str, Any]) -> None:
    rendezvous.tell(name, {**instruction, "job": {**instruction["job"], **fields}})


def test_a_burst_of_many_megabytes_lies_in_whole_parts_that_are_the_pods_log_byte_for_byte(
    rendezvous, start_agent, round_script, bucket, bare_python
) -> None:
    place = bucket()
    agent = start_agent(python=bare_python, env=place.env)
    code = (
        "import os\n"
        "block = b''.join(b'%06d some text of a line, as programs write them\\n' % n for n in range(1000))\n"
        "for _ in range(400):\n"
        "    data = block\n"
        "    while data: data = data[os.write(1, data):]\n"
        "os.write(2, b'no end')\n"
    )
    tell(rendezvous, agent.name, round_script(1, "python3", "-c", code), place.job())
    assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"
    rendezvous.tell(agent.name, FINISHED)
    assert agent.wait() == 0
    keys = place.objects.list("logs")
    assert keys == [f"logs/{agent.name}/{number:06d}.log" for number in range(len(keys))]
    log = agent.log.read_bytes()
    assert len(log) > 20 * PART_BYTES
    assert [len(place.objects.get(key)) for key in keys[:-1]] == [PART_BYTES] * (len(keys) - 1)
    assert place.output() == log


def test_what_a_running_pod_said_seconds_ago_outlives_its_sigkill(
    rendezvous, start_agent, round_script, bucket, until
) -> None:
    place = bucket()
    agent = start_agent(env=place.env)
    code = "import time\nprint('early', flush=True)\nfor n in range(10**6): print(n, flush=True); time.sleep(0.02)"
    tell(rendezvous, agent.name, round_script(1, "python", "-c", code), place.job())
    agent.line("[rank 0] early")
    seen = time.monotonic()
    until(lambda: b"[rank 0] early\n" in place.output(), "the first line is on the store")
    first = place.output()
    assert time.monotonic() - seen < 10  # 5 s, and a loaded machine
    until(lambda: len(place.output()) > len(first), "the part was rewritten")
    agent.process.send_signal(signal.SIGKILL)
    agent.process.wait()
    kept, log = place.output(), agent.log.read_bytes()
    assert kept.startswith(first)
    assert log.startswith(kept)
    assert len(place.objects.list("logs")) == 1


def test_a_drained_pods_last_words_are_kept(rendezvous, start_agent, round_script, bucket) -> None:
    place = bucket()
    agent = start_agent(env=place.env)
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
        "print('up', flush=True)\ntime.sleep(1000)"
    )
    tell(rendezvous, agent.name, round_script(1, "python", "-c", code), place.job())
    agent.line("[rank 0] up")
    agent.process.send_signal(signal.SIGTERM)
    agent.wait()
    assert b"[rank 0] saved\n" in place.output()
    assert place.output() == agent.log.read_bytes()


def test_a_job_without_checkpoint_keeps_nothing_and_ends_as_fast(rendezvous, start_agent, round_script, bucket) -> None:
    place = bucket()
    agent = start_agent(env=place.env)
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "print('x')"))
    rendezvous.result(agent.name, 1)
    rendezvous.tell(agent.name, FINISHED)
    assert agent.wait() == 0
    assert place.objects.list() == []


def test_a_store_nobody_answers_at_costs_one_line_and_a_moment_of_the_end(
    rendezvous, start_agent, round_script, bucket
) -> None:
    place = bucket()
    with socket.socket() as deaf:  # takes connections and never says a word
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        agent = start_agent(env=place.env)
        fields = place.job(endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        tell(rendezvous, agent.name, round_script(1, "python", "-c", "print('x' * 3_000_000)"), fields)
        assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"
        told = rendezvous.tell(agent.name, FINISHED)
        assert agent.wait() == 0
        assert time.monotonic() - told < 8


def test_a_store_that_refuses_costs_one_line_without_a_secret(rendezvous, start_agent, round_script, bucket) -> None:
    place = bucket()
    wrong = place.env | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    agent = start_agent(env=wrong)
    code = "import time\nfor _ in range(9): print('x' * 1_000_000)\ntime.sleep(3)"
    tell(rendezvous, agent.name, round_script(1, "python", "-c", code), place.job())
    line = agent.line("cannot be kept on the store")
    assert "403" in line
    assert "not-the-secret" not in agent.text()
    rendezvous.result(agent.name, 1)
    rendezvous.tell(agent.name, FINISHED)
    assert agent.wait() == 0
    assert agent.text().count("cannot be kept") == 1


def test_output_of_an_outage_is_written_afterwards(rendezvous, start_agent, round_script, bucket, until) -> None:
    place = bucket()
    with Proxy(place.server.endpoint).running() as proxy:
        proxy.on("PUT", "/logs/", Fault(status=503, code="SlowDown"), times=2)
        agent = start_agent(env=place.env)
        code = "import time\nprint('x' * 1_200_000)\ntime.sleep(1000)"
        tell(rendezvous, agent.name, round_script(1, "python", "-c", code), place.job(endpoint=proxy.endpoint))
        until(lambda: place.output(), "it was written after all", 30)
        rendezvous.tell(agent.name, FINISHED)
        agent.wait()
        assert place.output() == agent.log.read_bytes()
        assert b"503 SlowDown" in place.output()


def test_odd_characters_of_a_prefix_make_the_key_the_trainer_would_make(bucket) -> None:
    place = bucket(ODD)
    open_store(place.job(), place.env).put("logs/p/000000.log", b"said")
    assert place.objects.get("logs/p/000000.log") == b"said"
    assert place.objects.list() == ["logs/p/000000.log"]


def test_a_key_that_is_turned_in_the_mounted_secret_is_used_by_the_next_put(bucket, tmp_path: Path) -> None:
    place = bucket()
    for name, value in place.env.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("outdated")
    store = open_store(place.job(), {"DLCLOUD_STORE_CREDENTIALS_DIR": str(tmp_path), **place.env})
    with pytest.raises(NotKept, match="403"):
        store.put("logs/p/000000.log", b"said")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text(place.env["AWS_SECRET_ACCESS_KEY"])
    store.put("logs/p/000000.log", b"said")
    assert place.output("p") == b"said"


def test_a_missing_bucket_is_named_by_the_stores_own_code(bucket) -> None:
    place = bucket()
    job = place.job() | {"checkpoint": {"uri": "s3://no-such-bucket-here/x/"}}
    with pytest.raises(NotKept, match="404 NoSuchBucket"):
        open_store(job, place.env).put("logs/p/000000.log", b"")


def test_encryption_is_signed_and_asked_for_with_the_put(bucket) -> None:
    place = bucket()
    with Proxy(place.server.endpoint).running() as proxy:
        job = place.job(endpoint=proxy.endpoint, encryption={"type": "SSE-S3", "kmsKeyId": ""})
        if place.server.kind == "minio":  # needs a key service for it, and says so only after it took the signature
            with pytest.raises(NotKept, match="NotImplemented"):
                open_store(job, place.env).put("logs/p/000000.log", b"said")
            return
        open_store(job, place.env).put("logs/p/000000.log", b"said")
    assert place.output("p") == b"said"


def test_a_store_with_an_authority_of_its_own_is_trusted_by_its_ca_file_alone(bucket, tmp_path: Path) -> None:
    place, context = bucket(), own_authority(tmp_path)
    with Proxy(place.server.endpoint, tls=context).running() as proxy:
        job = place.job(endpoint=proxy.endpoint)
        with pytest.raises(NotKept, match="CERTIFICATE_VERIFY_FAILED"):
            open_store(job, place.env).put("logs/p/000000.log", b"said")
        open_store(job, {**place.env, "DLCLOUD_STORE_CA_FILE": str(tmp_path / "ca.crt")}).put("logs/p/0.log", b"said")
    assert place.output("p") == b"said"


def own_authority(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate for 127.0.0.1; its authority in `folder`/ca.crt."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.crt").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context
