"""Kubeflow's training operator on the cluster: its definitions there, its process here, as administrator.

May import the rigs, and benchmarks.control_plane.peers for the build. It runs beside the cluster and not in it, which
spares it an image; that is no disadvantage for it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.control_plane import peers
from benchmarks.control_plane.peers import KINDS, NAMESPACE, SECRET
from tests.rig.cluster import Cluster
from tests.rig.processes import Program, free_ports, until

HOOK = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
HOOK_NAME = "validator.training-operator.kubeflow.org"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# Its workers wait for the master's name with alpine's nslookup, which no offline node has; this waits as long, with the
# name service's own program of an image that is there.
WAITING = """
- name: init-pytorch
  image: {{.InitContainerImage}}
  imagePullPolicy: IfNotPresent
  resources: {limits: {cpu: 100m, memory: 20Mi}, requests: {cpu: 50m, memory: 10Mi}}
  command: [sh, -c, "for i in $(seq {{.MaxTries}}); do getent hosts {{.MasterAddr}} && exit 0; sleep 2; done; exit 1"]
"""


@contextlib.contextmanager
def training_operator(cluster: Cluster, folder: Path, image: str) -> Iterator[None]:
    """The peer at work with its default settings; all of it is taken away again. Raises peers.NotBuilt.

    `image`: what its workers wait in.
    """
    program, module = peers.built()
    api = cluster.api
    for kind in KINDS:
        body = yaml.safe_load((module / "manifests" / "base" / "crds" / f"kubeflow.org_{kind}.yaml").read_text())
        api.apply(f"{DEFINITIONS}/{kind}.kubeflow.org", body)
    api.apply(f"/api/v1/namespaces/{NAMESPACE}", manifest("v1", "Namespace", NAMESPACE))
    # Its certificates are for an admission webhook that a process outside of the cluster cannot serve: none is asked.
    hook = manifest("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", HOOK_NAME)
    api.apply(f"{HOOK}/{HOOK_NAME}", {**hook, "webhooks": []})
    secret = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}"
    api.apply(secret, manifest("v1", "Secret", SECRET))
    metrics, probes, webhook = free_ports(3)
    waiting = folder / "waiting.yaml"
    waiting.write_text(WAITING)
    command = [
        str(program), "--metrics-bind-address", f"127.0.0.1:{metrics}", "--health-probe-bind-address",
        f"127.0.0.1:{probes}", "--webhook-server-port", str(webhook),
        "--pytorch-init-container-image", image, "--pytorch-init-container-template-file", str(waiting),
    ]  # fmt: skip
    log = folder / "training-operator.log"
    peer = Program("training-operator", log, os.getpid())
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": "/tmp"}
    peer.start(command, {**environment, "KUBECONFIG": str(cluster.kubeconfig)})
    try:
        until("the peer has made its certificates", lambda: _hand_certificates(cluster, secret), 60, peer)
        until("the peer works", lambda: log.read_text().count("Starting workers") >= len(KINDS), 90, peer)
        yield
    finally:
        peer.stop(grace_s=3)
        shutil.rmtree(peers.CERTIFICATES.parent, ignore_errors=True)
        for kind in KINDS:
            api.delete(f"{DEFINITIONS}/{kind}.kubeflow.org")
        api.delete(f"{HOOK}/{HOOK_NAME}")
        api.delete(f"/api/v1/namespaces/{NAMESPACE}")


def manifest(version: str, kind: str, name: str) -> dict[str, object]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _hand_certificates(cluster: Cluster, path: str) -> bool:
    """What the kubelet does in a cluster: the Secret's keys become files."""
    data = cluster.api.get(path).get("data") or {}
    if "tls.key" not in data:
        return False
    peers.write_certificates({name: base64.b64decode(value) for name, value in data.items()})
    return True
