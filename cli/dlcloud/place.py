"""Where jobs are: this machine, or a cluster, as the options and the environment say.

May import this package's home and, when a place is opened, its jobs. A cluster is meant by --kubeconfig, --context or
-n, when $KUBECONFIG is set, or by the kubectl plugin; --local wins.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .home import PLUGIN, program

if TYPE_CHECKING:
    from .jobs.source import JobSource


@dataclass(frozen=True)
class Place:
    """Where the user says the jobs are; `endpoint` is their S3 server as it is reached from here."""

    local: bool = False
    kubeconfig: Path | None = None
    context: str = ""
    namespace: str = ""
    endpoint: str = ""

    def command(self, *words: str) -> str:
        """A command of ours on the same place, as a message may name it."""
        options = ["--local"] if self.local and _by_default() else []
        options += ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        options += ["--context", self.context] if self.context else []
        options += ["-n", self.namespace] if self.namespace else []
        return shlex.join([*program(), *words, *options])

    @property
    def in_cluster(self) -> bool:
        """Whether a cluster is meant."""
        given = self.kubeconfig or self.context or self.namespace
        return (bool(given) or _by_default()) and not self.local

    def open(self, *, all_namespaces: bool = False) -> JobSource:
        """The source of jobs there. Raises JobsError."""
        if self.in_cluster:
            from .jobs.cluster import ClusterJobs

            return ClusterJobs(
                kubeconfig=self.kubeconfig,
                context=self.context,
                namespace=self.namespace,
                all_namespaces=all_namespaces,
                endpoint=self.endpoint,
            )
        from .jobs.local_runs import LocalRuns

        return LocalRuns()


def _by_default() -> bool:
    """Whether a cluster is meant without an option."""
    return bool(os.environ.get("KUBECONFIG")) or Path(sys.argv[0]).name == PLUGIN
