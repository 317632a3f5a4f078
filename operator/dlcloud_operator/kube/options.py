"""The operator's command line: each `--flag VALUE` may also come as the environment's `DLCLOUD_FLAG`.

May import the engine's reading of egress rules. A wrong flag gets one sentence: which, what was given, what may be.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dlcloud_operator.engine.network_policy import parse_egress

DEFAULT_TRAINER_IMAGE = "dlcloud-trainer:0.1.0"
_YES = {"1", "true", "yes", "on"}


class BadOption(Exception):
    """A flag that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Options:
    """What one operator process is told. Ports are TCP ports; a port of 0 takes a free one."""

    watch_namespaces: tuple[str, ...]
    own_namespace: str
    pod_name: str
    pod_uid: str
    lease_name: str
    host: str
    rendezvous_port: int
    rendezvous_url: str
    tls_ca_dir: Path | None
    tls_dir: Path | None
    metrics_port: int
    trainer_image: str
    image_pull_policy: str
    token_audience: str
    token_review: bool
    network_policy: bool
    network_policy_egress: tuple[Mapping[str, Any], ...] | None
    allow_privileged_pod_templates: bool
    object_store_endpoint: str
    object_store_region: str
    object_store_credentials_secret: str
    kubeconfig: Path | None
    log_format: str
    log_level: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadOption(message)


def parse_options(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Options:
    """The options of a command line and an environment. Raises BadOption; prints help and exits for --help."""
    parser = _parser(environ)
    given = parser.parse_args(argv)
    if given.tls_ca_dir and given.tls_dir:
        raise BadOption("--tls-ca-dir and --tls-dir: give one of them; the first signs its own certificate")
    if not (given.tls_ca_dir or given.tls_dir or given.insecure_http):
        raise BadOption("--tls-ca-dir or --tls-dir is missing: agents send their tokens to this server")
    if not given.own_namespace:
        raise BadOption("--own-namespace is missing (POD_NAMESPACE): where the lease and this operator's pods are")
    if given.own_namespace in given.watch_namespace:
        raise BadOption(
            f"--watch-namespace: {given.own_namespace!r} is the operator's own namespace, where jobs are refused"
        )
    scheme = "http" if given.insecure_http else "https"
    default_url = f"{scheme}://dlcloud-rendezvous.{given.own_namespace}.svc:{given.rendezvous_port}"
    return Options(
        watch_namespaces=tuple(dict.fromkeys(given.watch_namespace)),
        own_namespace=given.own_namespace,
        pod_name=given.pod_name,
        pod_uid=environ.get("POD_UID", ""),
        lease_name=given.lease_name,
        host=given.host,
        rendezvous_port=given.rendezvous_port,
        rendezvous_url=(given.rendezvous_url or default_url).rstrip("/"),
        tls_ca_dir=given.tls_ca_dir,
        tls_dir=given.tls_dir,
        metrics_port=given.metrics_port,
        trainer_image=given.trainer_image,
        image_pull_policy=given.image_pull_policy,
        token_audience=given.token_audience,
        token_review=given.token_review,
        network_policy=given.network_policy == "on",
        network_policy_egress=_egress(given.network_policy_egress),
        allow_privileged_pod_templates=given.allow_privileged_pod_templates,
        object_store_endpoint=given.object_store_endpoint,
        object_store_region=given.object_store_region,
        object_store_credentials_secret=given.object_store_credentials_secret,
        kubeconfig=given.kubeconfig,
        log_format=given.log_format,
        log_level=given.log_level,
    )


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m dlcloud_operator",
        description="Keeps TrainingJobs running. Flags may also come from the environment: DLCLOUD_LOG_LEVEL=debug.",
        allow_abbrev=False,
    )

    def flag(name: str, default: Any = "", *, also: str = "", **more: Any) -> None:
        variable = f"DLCLOUD_{name.upper().replace('-', '_')}"
        told = environ.get(variable) or (environ.get(also) if also else None)
        if told and "choices" in more and told not in more["choices"]:
            raise BadOption(f"{variable}: {told!r} is none of {', '.join(filter(None, more['choices']))}")
        parser.add_argument(f"--{name}", default=told if told else default, **more)

    def switch(name: str, help: str) -> None:
        told = environ.get(f"DLCLOUD_{name.upper().replace('-', '_')}", "").lower() in _YES
        parser.add_argument(f"--{name}", action="store_true", default=told, help=help)

    told = [name for name in environ.get("DLCLOUD_WATCH_NAMESPACE", "").split(",") if name]
    parser.add_argument(
        "--watch-namespace", action="append", default=told, metavar="NAMESPACE", help="may be repeated; none: all"
    )
    flag("own-namespace", also="POD_NAMESPACE", help="namespace of the lease and of this operator's pods")
    flag("pod-name", also="POD_NAME", help="this operator's pod; empty outside a cluster")
    flag("lease-name", "dlcloud-operator", help="operators of one lease stand by for each other")
    flag("host", "0.0.0.0", help="address to listen on")
    flag("rendezvous-port", 8443, type=_port, help="port the agents of pods talk to")
    flag("rendezvous-url", help="how pods reach it (default: https://dlcloud-rendezvous.NAMESPACE.svc:PORT)")
    flag("tls-ca-dir", None, type=_directory, help="folder with ca.crt and ca.key: certificates are made here")
    flag("tls-dir", None, type=_directory, help="folder with tls.crt, tls.key and ca.crt, read again when they change")
    switch("insecure-http", "no TLS at all: for tests on one machine")
    flag("metrics-port", 8080, type=_port, help="port of /metrics, /healthz and /readyz")
    flag("trainer-image", DEFAULT_TRAINER_IMAGE, help="image of workers without an image of their own")
    flag("image-pull-policy", "", choices=["", "Always", "IfNotPresent", "Never"], help="of the trainer image")
    flag("token-audience", "dlcloud", help="audience of the pods' tokens")
    switch("token-review", "ask the API server about tokens that cannot be verified with its published keys")
    flag("network-policy", "on", choices=["on", "off"], help="a NetworkPolicy for each job")
    flag(
        "network-policy-egress",
        None,
        type=Path,
        metavar="FILE",
        help="JSON list of egress rules; none: no limit",
    )
    switch("allow-privileged-pod-templates", "jobs may ask for host namespaces, hostPath volumes and privileges")
    flag("object-store-endpoint", help="for jobs that name no endpoint of their own")
    flag("object-store-region", help="of that endpoint")
    flag("object-store-credentials-secret", help="Secret in the job's namespace with that endpoint's keys")
    flag("kubeconfig", None, type=Path, metavar="FILE", help="outside a cluster; inside, the service account is used")
    flag("log-format", "text", choices=["text", "json"], help="one object a line, or text")
    flag("log-level", "info", choices=["debug", "info", "warning", "error"], help="what is logged")
    return parser


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 to 65535")
    return int(text)


def _directory(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder that can be read")
    return Path(text)


def _egress(path: Path | None) -> tuple[Mapping[str, Any], ...] | None:
    if path is None:
        return None
    try:
        return tuple(parse_egress(path.read_text()))
    except (OSError, ValueError) as error:
        raise BadOption(f"--network-policy-egress: {path}: {error}") from None
