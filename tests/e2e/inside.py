"""What a process finds in a pod, and what it is answered there: scripts that the pod's own python3 runs.

May import the rig. Looks only: nothing is left in the pod.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..rig.cluster import Cluster

Object = dict[str, Any]
TOKEN = "/dlcloud/token/token"
API_SERVER = "https://kubernetes.default.svc"
_LOOK = """
import json, os, pathlib, re
VIRTUAL, MOUNTED = ("/proc", "/sys"), ("/dev", "/dlcloud", "/etc/dlcloud", "/tmp", "/run/secrets", "/var/run/secrets")
SUSPECT = re.compile(
    r"^(\\.git|\\.netrc|\\.pypirc|\\.aws|\\.docker|\\.kube|pip\\.conf|kubeconfig.*|id_(rsa|ecdsa|ed25519)|.*\\.key)$"
)

def can_write(folder):
    name = os.path.join(folder, ".probe")
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError:
        return False
    os.unlink(name)
    return True

def inside(folder, of):
    return any(folder == one or folder.startswith(one + "/") for one in of)

def number(*names):
    for name in names:
        try:
            return int(pathlib.Path(name).read_text())
        except (OSError, ValueError):
            pass

status = dict(line.split(":", 1) for line in open("/proc/1/status"))
writable, suspect, tokens = [], [], []
for folder, folders, files in os.walk("/"):
    folders[:] = [one for one in folders if not inside(os.path.join(folder, one), VIRTUAL)]
    if can_write(folder):
        writable.append(folder)
        folders[:] = []
    if not inside(folder, MOUNTED):
        suspect += [os.path.join(folder, one) for one in folders + files if SUSPECT.match(one)]
    if folder.endswith("kubernetes.io/serviceaccount"):
        tokens.append(folder)
processes = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        facts = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        command = open(f"/proc/{pid}/cmdline").read().replace("\\0", " ").strip()
    except OSError:
        continue
    if int(pid) != os.getpid() and "VmRSS" in facts:
        processes[pid] = {"command": command, "resident_bytes": int(facts["VmRSS"].split()[0]) * 1024}
print(json.dumps({
    "uid": sorted({int(one) for one in status["Uid"].split()}),
    "gid": sorted({int(one) for one in status["Gid"].split()}),
    "capabilities": {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "no_new_privileges": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
    "writable": writable,
    "suspect": suspect,
    "api_credentials": tokens,
    "environment": dict(os.environ),
    "processes": processes,
    "memory_bytes": number("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    "memory_peak_bytes": number("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"),
}))
"""
_ASK = """
import json, os, ssl, sys, urllib.error, urllib.request
answers = []
for one in json.load(sys.stdin):
    if one["authority"]:
        context = ssl.create_default_context(cadata=one["authority"])
    else:
        context = ssl._create_unverified_context()
    token = one["token"] if one["token"] is not None else open("/dlcloud/token/token").read().strip()
    headers = {"Authorization": "Bearer " + token} if token else {}
    body = None if one["body"] is None else json.dumps(one["body"]).encode()
    request = urllib.request.Request(one["url"], body, {**headers, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=40, context=context) as answer:
            answers.append([answer.status, answer.read().decode()])
    except urllib.error.HTTPError as error:
        answers.append([error.code, error.read().decode()])
print(json.dumps(answers))
"""
_LISTEN = """
import socket
server = socket.create_server(("", {port}))
server.settimeout({limit_s})
print("listening", flush=True)
while True:
    try:
        server.accept()[0].close()
    except OSError:
        break
"""
_CONNECT = """
import socket
try:
    socket.create_connection(("{host}", {port}), {limit_s}).close()
    print("connected")
except OSError as error:
    print("no:", error)
"""


class Inside:
    """A container of a running pod."""

    def __init__(self, cluster: Cluster, pod: Object, container: str) -> None:
        self.pod = pod
        self.name, self.namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self._cluster, self._container = cluster, container

    def run(self, *command: str, given: Any = None) -> str:
        """The output of a command. Raises KubectlError."""
        where = ("-n", self.namespace, self.name, "-c", self._container)
        return self._cluster.kubectl("exec", "-i", *where, "--", *command, given=given)

    def look(self) -> Object:
        """Who runs there, with which rights, in which files; bytes of memory."""
        found: Object = json.loads(self.run("python3", "-c", _LOOK, given=""))
        return found

    def read(self, path: str) -> str:
        """A file's text."""
        script = f"import sys; sys.stdout.write(open({path!r}).read())"
        return self.run("python3", "-c", script, given="")

    def ask(self, questions: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
        """Status and text of the answers to `question`s."""
        told = self.run("python3", "-c", _ASK, given=list(questions))
        return [(status, text) for status, text in json.loads(told)]

    def reaches(self, host: str, port: int, limit_s: float = 4) -> bool:
        """Whether a connection can be made."""
        script = _CONNECT.format(host=host, port=port, limit_s=limit_s)
        return self.run("python3", "-c", script, given="").strip() == "connected"


def question(url: str, token: str | None = None, authority: str = "", body: Object | None = None) -> Object:
    """A GET, with a body a POST. `token`: None for the pod's own, "" for none. `authority`: PEM; none: any server."""
    return {"url": url, "token": token, "authority": authority, "body": body}


def listener(port: int, limit_s: float = 120) -> list[str]:
    """A command that accepts connections until none came for `limit_s`."""
    return ["python3", "-c", _LISTEN.format(port=port, limit_s=limit_s)]


def claims(token: str) -> Object:
    """What a JSON Web Token says."""
    payload = token.split(".")[1]
    found: Object = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found
