"""The options that say where jobs are, shared by all commands: this machine, or a cluster.

May import typer. A cluster is meant by --kubeconfig, --context or -n, or when $KUBECONFIG is set; --local wins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..jobs.source import JobSource

LocalOption = Annotated[bool, typer.Option("--local", help="Local runs, even when $KUBECONFIG is set.")]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="A cluster: its kubeconfig [default: $KUBECONFIG].")
]
ContextOption = Annotated[str, typer.Option("--context", metavar="NAME", help="A cluster: context of the kubeconfig.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAME", help="A cluster: namespace [default: the context's].")
]


@dataclass(frozen=True)
class Place:
    """Where the user says the jobs are."""

    local: bool = False
    kubeconfig: Path | None = None
    context: str = ""
    namespace: str = ""

    @property
    def in_cluster(self) -> bool:
        """Whether a cluster is meant."""
        given = self.kubeconfig or self.context or self.namespace or os.environ.get("KUBECONFIG")
        return bool(given) and not self.local

    def open(self) -> JobSource:
        """The source of jobs there. Raises JobsError."""
        if self.in_cluster:
            from ..jobs.cluster import ClusterJobs

            return ClusterJobs(kubeconfig=self.kubeconfig, context=self.context, namespace=self.namespace)
        from ..jobs.local_runs import LocalRuns

        return LocalRuns()
