"""Real agents and real rendezvous servers over TLS: certificates rotate, leaders change, and ranks notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dlcloud_operator.api import Member, Phase, RoundStatus, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView, Report
from dlcloud_operator.engine.rendezvous import PodIdentity, RendezvousServer, Unauthorized
from dlcloud_operator.kube.certificates import Certificates, sign_with

from ...rig.kubelet.client import LoopThread

KEY = JobKey("default", "job")
POD = "job-0-1"
START = datetime(2026, 1, 2, tzinfo=UTC)
PEM = serialization.Encoding.PEM


class TokenOfName:
    async def identify(self, token: str) -> PodIdentity:
        if not token.startswith("token-of-"):
            raise Unauthorized("the token is unknown")
        name = token.removeprefix("token-of-")
        return PodIdentity("default", name, f"uid-of-{name}")


def in_round(number: int, *command: str) -> JobView:
    member = Member(index=0, pod=POD, uid=f"uid-of-{POD}", ranks=[0])
    decided = RoundStatus(
        number=number,
        nonce=f"n{number}",
        world_size=1,
        master="127.0.0.1",
        port=29500,
        threads=1,
        members=[member],
        started_at=START,
    )
    spec = TrainingJobSpec.model_validate({"script": {"command": list(command)}, "workers": {"count": 1}})
    return JobView(KEY, "job-uid", str(number), 1, START, TrainingJobStatus(phase=Phase.RUNNING, round=decided), spec)


class Replica:
    """One operator's rendezvous server; `leads` is its lease."""

    def __init__(self, ca_dir: Path, leads: bool, life: timedelta) -> None:
        self.leads = leads
        self.certificates: Certificates = sign_with(ca_dir, ["localhost"], life=life)
        self.server = RendezvousServer(TokenOfName(), lambda *_: KEY, may_speak=lambda: self.leads)

    async def start(self) -> int:
        url = await self.server.start(ssl_context=self.certificates.context)
        return int(url.rsplit(":", 1)[1])

    def report(self, pod: str = POD) -> Report | None:
        """What the pod said last."""
        return self.server.reports_for(KEY).by_uid.get(f"uid-of-{pod}")


class Service:
    """Sends every new connection to the replica that leads, as the Service of a cluster does; old ones stay."""

    def __init__(self) -> None:
        self.target = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> int:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self._server = server
        return int(server.sockets[0].getsockname()[1])

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers += [writer, back]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
        finally:
            target.close()

    def reset(self) -> None:
        """Every connection breaks off."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


class Cluster:
    """Two replicas behind one Service; the first one leads."""

    def __init__(self, ca_dir: Path, life: timedelta) -> None:
        self.loop = LoopThread("replicas")
        self.replicas = [Replica(ca_dir, True, life), Replica(ca_dir, False, life)]
        self.service = Service()
        self.ports = [self.loop.run(replica.start()) for replica in self.replicas]
        self.service.target = self.ports[0]
        self.port = self.loop.run(self.service.start())
        self.ca = self.replicas[0].certificates.ca_pem

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def there() -> Any:
            return function(*arguments)

        return self.loop.run(there())

    def change_leader(self) -> None:
        self.replicas[0].leads, self.replicas[1].leads = False, True
        self.service.target = self.ports[1]

    def close(self) -> None:
        for replica in self.replicas:
            self.loop.run(replica.server.stop())
        self.call(self.service.reset)
        self.call(self.service._server.close)
        self.loop.close()


@pytest.fixture
def ca_dir(tmp_path: Path) -> Path:
    """A CA as the chart makes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    certificate = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            datetime.now(UTC) - timedelta(hours=1),
            datetime.now(UTC) + timedelta(days=3650),
        )
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ca.crt").write_bytes(certificate.public_bytes(PEM))
    (tmp_path / "ca" / "ca.key").write_bytes(private)
    return tmp_path / "ca"


@pytest.fixture
def cluster(ca_dir: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    one = Cluster(ca_dir, getattr(request, "param", timedelta(days=1)))
    yield one
    one.close()


@pytest.mark.parametrize("cluster", [timedelta(seconds=3)], indirect=True, ids=["3 s"])
def test_agents_go_on_reporting_over_a_rotation_of_the_certificate(cluster: Cluster, start_agent, until) -> None:
    leader = cluster.replicas[0]
    agent = start_agent(POD, url=f"https://localhost:{cluster.port}", env={"DLCLOUD_CA": cluster.ca})
    until(lambda: cluster.call(leader.report), "the agent reports")
    old = leader.certificates.leaf_expires_at
    until(lambda: cluster.call(leader.certificates.refresh), "a new certificate is served")
    assert leader.certificates.ca_pem == cluster.ca
    until(lambda: datetime.now(UTC) > old, "the old one has expired")
    cluster.call(leader.server.publish, in_round(1, "python", "-c", "print('after', flush=True)"))
    agent.line("after")  # over the connections of before
    cluster.call(leader.certificates.refresh)
    cluster.call(cluster.service.reset)
    cluster.call(leader.server.publish, in_round(2, "python", "-c", "print('again', flush=True)"))
    agent.line("again")  # over new ones
    until(
        lambda: (found := cluster.call(leader.report)) and found.round == 2 and found.results, "the result of round 2"
    )
    assert "CERTIFICATE_VERIFY_FAILED" not in agent.text()


def test_agents_follow_the_leader_and_their_ranks_run_on(cluster: Cluster, start_agent, until) -> None:
    first, second = cluster.replicas
    agent = start_agent(POD, url=f"https://localhost:{cluster.port}", env={"DLCLOUD_CA": cluster.ca})
    command = ["python", "-c", "import time; print('up', flush=True); time.sleep(60)"]
    cluster.call(first.server.publish, in_round(1, *command))
    agent.line("up")
    cluster.call(second.server.publish, in_round(1, *command))
    cluster.call(cluster.change_leader)
    reported = until(lambda: cluster.call(second.report), "the agent reports to the new leader", 10)
    assert [(rank.rank, rank.state) for rank in reported.ranks] == [(0, "running")]
    cluster.call(second.server.publish, in_round(2, "python", "-c", "print('next', flush=True)"))
    agent.line("next")
    assert agent.text().count("up\n") == 1


def test_an_agent_that_meets_a_standby_says_so_once_and_tries_until_it_leads(
    cluster: Cluster, start_agent, until
) -> None:
    cluster.replicas[0].leads = False
    agent = start_agent(POD, url=f"https://localhost:{cluster.port}", env={"DLCLOUD_CA": cluster.ca})
    agent.line("the operator answers 503")
    until(lambda: len(cluster.service.writers) >= 2 * 5, "it tries again, each time over a connection of its own")
    cluster.replicas[0].leads = True
    cluster.call(cluster.replicas[0].server.publish, in_round(1, "python", "-c", "pass"))
    until(lambda: cluster.call(cluster.replicas[0].report), "it reports")
    agent.line("the operator answers again")
    assert agent.text().count("the operator answers 503") == 1


def test_a_server_of_another_name_is_not_trusted_though_its_authority_is(cluster: Cluster, start_agent) -> None:
    agent = start_agent(POD, url=f"https://127.0.0.1:{cluster.port}", env={"DLCLOUD_CA": cluster.ca})
    agent.line("IP address mismatch")
    assert cluster.call(cluster.replicas[0].report) is None
