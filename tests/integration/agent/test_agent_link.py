"""Real agents whose operator is hard to reach, and pods whose environment is wrong."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def test_the_agent_goes_on_through_a_restart_of_the_operator(make_rendezvous, start_agent, round_script) -> None:
    first = make_rendezvous()
    agent = start_agent(url=first.url)
    first.tell(agent.name, round_script(1, "python", "-c", "import time; print('up', flush=True); time.sleep(2)"))
    agent.line("up")
    first.close()
    agent.line("cannot reach the operator")
    second = make_rendezvous(port=first.port)
    assert second.result(agent.name, 1)["outcome"] == "Succeeded"
    assert agent.text().count("up\n") == 1
    second.tell(agent.name, round_script(2, "python", "-c", "print('second')"))
    assert second.result(agent.name, 2)["outcome"] == "Succeeded"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_once_and_tried_again(rendezvous, start_agent, round_script, until, status: int) -> None:
    pod = rendezvous.pod("job-0-1")
    pod.refuse_with = status
    agent = start_agent()
    agent.line(f"answers {status}")
    until(lambda: pod.requests >= 8, "the agent tries again")
    assert agent.text().count(f"answers {status}") == 1
    pod.refuse_with = 0
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "pass"))
    assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"


def test_the_token_is_read_anew_for_every_request(rendezvous, start_agent, tmp_path: Path, until) -> None:
    agent = start_agent()
    rendezvous.report(agent.name, lambda report: True)
    pod, token = rendezvous.pod(agent.name), tmp_path / f"{agent.name}.token"
    token.write_text("old")
    pod.instruction = {"kind": "finished", "phase": "Succeeded"}
    agent.line("answers 401")
    token.write_text(f"token-of-{agent.name}")
    assert agent.wait() == 0


def test_a_server_with_the_given_authority_is_trusted_and_another_is_not(
    make_rendezvous, start_agent, tmp_path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dlcloud")])
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
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "server.pem").write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = make_rendezvous(tls=context)
    trusting = start_agent("job-0-1", url=server.url, env={"DLCLOUD_CA": pem.decode()})
    doubting = start_agent("job-1-1", url=server.url)
    assert server.report(trusting.name, lambda report: True)["round"] == 0
    doubting.line("CERTIFICATE_VERIFY_FAILED")
    assert not server.pod(doubting.name).reports


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"DLCLOUD_RENDEZVOUS_URL": ""}, "DLCLOUD_RENDEZVOUS_URL"),
        ({"DLCLOUD_RENDEZVOUS_URL": "rendezvous:8080"}, "DLCLOUD_RENDEZVOUS_URL: 'rendezvous:8080' is not a URL"),
        ({"DLCLOUD_TOKEN_FILE": "/nowhere/token"}, "DLCLOUD_TOKEN_FILE: cannot read /nowhere/token"),
        ({"DLCLOUD_POD_UID": ""}, "DLCLOUD_POD_UID"),
        ({"DLCLOUD_INDEX": "first"}, "DLCLOUD_INDEX: 'first' is not a number"),
        ({"DLCLOUD_RENDEZVOUS_URL": "https://127.0.0.1:1", "DLCLOUD_CA": "nonsense"}, "DLCLOUD_CA: not a certificate"),
    ],
)
def test_a_wrong_environment_is_one_sentence_and_exit_64(start_agent, variables: dict[str, str], text: str) -> None:
    agent = start_agent(env=variables)
    assert agent.wait() == 64
    assert text in agent.text()
    assert len(agent.text().splitlines()) == 1


def test_an_agent_starts_within_its_time(rendezvous, start_agent, until) -> None:
    times = []
    for number in range(5):
        agent = start_agent(f"job-{number}-1")
        times.append(rendezvous.report(agent.name, lambda report: True)["arrivedAt"] - agent.started_at)
        agent.process.kill()
        agent.wait()
    assert min(times) <= 0.3, times


def test_the_entry_is_readable_for_any_python_and_the_rest_for_3_9() -> None:
    code = "import ast, sys; [ast.parse(open(f).read(), feature_version=(3, 9)) for f in sys.argv[1:]]"
    folder = Path(__file__).resolve().parents[3] / "trainer" / "dlcloud_trainer" / "agent"
    subprocess.run([sys.executable, "-c", code, *map(str, folder.glob("*.py"))], check=True)
    entry = (folder / "__main__.py").read_text()
    assert not [word for word in ("annotations", ' f"', " f'", "->  ", ":=", "print(") if word in entry]
