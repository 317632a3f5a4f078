"""The nodes' image where no registry is reached: Debian's packages, our programs, and the images of a control plane.

May import this package. Nothing in it is downloaded except Debian's packages. kubeadm finds every image that it asks
for in the node, under REPOSITORY.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..rig.builder import locked
from . import debian, programs, versions
from .archive import File, Folder, Link, Tree, write_image, write_layer
from .engine import ClusterError, Engine, cluster_folder

Say = Callable[[str], None]
NODE = versions.HERE / "node"
REPOSITORY = "localhost/dlcloud-node"  # of the node's image, and of the images in it
UNITS = ("announce", "containerd", "kubelet", "load-node-images")
PATH = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
IN_NODE = {  # program -> where it is in a node
    **dict.fromkeys(("containerd", "containerd-shim-runc-v2", "ctr"), "usr/local/bin"),
    **dict.fromkeys(("kubelet", "kubeadm"), "usr/bin"),
    **dict.fromkeys(("ptp", "host-local", "loopback", "portmap"), "opt/cni/bin"),
}


def name() -> str:
    """The image's name; its tag changes with all that goes into it."""
    sources = [path for path in NODE.rglob("*") if path.is_file()]
    sources += [versions.HERE / each for each in ("archive.py", "node_image.py")]
    return f"{REPOSITORY}:{debian.tag()}-{versions.digest(sources)[:6]}{versions.programs_digest()[:6]}"


def ensure(engine: Engine, say: Say) -> str:
    """Build the image unless it is there: 30 s, and a minute for Debian the first time. Returns its name.

    Raises ClusterError.
    """
    image = name()
    if not engine.has_image(image):
        with locked(cluster_folder() / "debian", say):
            if not engine.has_image(image):  # another run may have built it meanwhile
                build(engine, image, say)
    return image


def build(engine: Engine, image: str, say: Say) -> None:
    """Build the image, and remove those of other versions. Raises ClusterError."""
    started = time.monotonic()
    base = debian.ensure(say)
    say(f"building the nodes' image {image}")
    for left in cluster_folder().glob(".node-*"):  # of a run that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=".node-", dir=cluster_folder()) as scratch:
        folder = Path(scratch)
        layer = write_layer(folder / "node.tar", node_tree(write_images(folder, base)))
        shutil.rmtree(folder / "images")
        config = {
            "Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"],
            "StopSignal": "SIGRTMIN+3",
            "Env": ["container=" + engine.name],
        }
        archive = write_image(folder / "image.tar", [image], config, [base.node, layer])
        layer.unlink()
        engine.run("load", "--input", str(archive))
        size_mb = archive.stat().st_size / 1e6
    remove_others(engine, image)
    say(f"the nodes' image: {size_mb:.0f} MB, built in {time.monotonic() - started:.0f} s")


def write_images(folder: Path, base: debian.Base) -> dict[str, Path]:
    """Write the archives of the images in a node: path in the node -> file."""
    built = programs.find_programs([*programs.OFFLINE, *programs.CONTROL_PLANE])

    def layer(program: str, links: tuple[str, ...] = ()) -> Path:
        target = folder / "images" / f"layer-{program}.tar"
        tree: dict[str, File | Link | Folder] = {
            f"usr/local/bin/{program}": File(built.get(program, built["kube-apiserver"]).resolve(), 0o755),
            **{f"usr/local/bin/{link}": Link(program) for link in links},
        }
        return write_layer(target, tree)

    # one program with the names it is called by, so one image with three names
    kube = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    shell, firewall = base.busybox, base.iptables
    images: Mapping[str, tuple[list[str], list[Path], Mapping[str, list[str]]]] = {
        "control-plane/kube": (
            [f"{REPOSITORY}/{each}:{versions.KUBERNETES}" for each in kube],
            [layer("kube", kube)],
            {},
        ),
        "control-plane/etcd": ([f"{REPOSITORY}/etcd:{versions.ETCD}"], [layer("etcd")], {}),
        "control-plane/storage": (
            [f"{REPOSITORY}/local-path-provisioner:1"],
            [layer("local-path-provisioner")],
            {},
        ),
        "all/kube-proxy": (
            [f"{REPOSITORY}/kube-proxy:{versions.KUBERNETES}"],
            [shell, firewall, layer("kube-proxy")],
            {},
        ),
        "all/netd": (
            [f"{REPOSITORY}/netd:1"],
            [shell, firewall, layer("netd")],
            {"Entrypoint": ["/usr/local/bin/netd"]},
        ),
        "all/coredns": (
            [f"{REPOSITORY}/coredns:{versions.COREDNS}"],
            [layer("coredns")],
            {"Entrypoint": ["/usr/local/bin/coredns"]},
        ),
        "all/pause": ([f"{REPOSITORY}/pause:1"], [layer("pause")], {"Entrypoint": ["/usr/local/bin/pause"]}),
        "all/busybox": ([f"{REPOSITORY}/busybox:1"], [shell], {"Cmd": ["/bin/sh"]}),
    }
    return {
        f"kind/images/{path}.tar": write_image(folder / "images" / f"{path}.tar", names, {**PATH, **config}, layers)
        for path, (names, layers, config) in images.items()
    }


def node_tree(images: Mapping[str, Path]) -> Tree:
    """What a node has on top of Debian."""
    built = programs.find_programs([*programs.OFFLINE, *programs.CONTROL_PLANE])
    tree: dict[str, File | Link | Folder] = {path: File(file) for path, file in images.items()}
    tree |= {f"{folder}/{program}": File(built[program], 0o755) for program, folder in IN_NODE.items()}
    tree["usr/bin/kubectl"] = File(built["kube-apiserver"].resolve(), 0o755)
    rootfs = NODE / "rootfs"
    for path in rootfs.rglob("*"):
        if path.is_file():
            executable = path.stat().st_mode & 0o111 != 0
            tree[str(path.relative_to(rootfs))] = File(path, 0o755 if executable else 0o644)
    tree["kind/version"] = File(f"{versions.KUBERNETES}\n".encode())
    tree["etc/containerd/base-spec.json"] = File(container_specification(built["ctr"]))
    tree |= {"etc/kubernetes/manifests": Folder(), "etc/cni/net.d": Folder()}
    units = "etc/systemd/system"
    tree[f"{units}/default.target"] = Link("/usr/lib/systemd/system/multi-user.target")
    tree |= {f"{units}/multi-user.target.wants/{unit}.service": Link(f"{'/' + units}/{unit}.service") for unit in UNITS}
    masked = (NODE / "masked-units").read_text().splitlines()
    tree |= {f"{units}/{unit}": Link("/dev/null") for unit in masked if unit and not unit.startswith("#")}
    return tree


def container_specification(ctr: Path) -> bytes:
    """containerd's default for containers, without its limit of 1024 open files."""
    done = subprocess.run([ctr, "oci", "spec"], capture_output=True, check=False, timeout=60)
    if done.returncode != 0:
        raise ClusterError(f"{ctr} oci spec: {done.stderr.decode(errors='replace').strip()[-500:]}")
    specification = json.loads(done.stdout)
    specification["process"].pop("rlimits", None)
    return json.dumps(specification).encode()


def remove_others(engine: Engine, image: str) -> None:
    """Remove node images of other versions, except those that a cluster still uses."""
    told = engine.run("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={REPOSITORY}")
    for other in told.split():
        if other != image:
            try:
                engine.run("rmi", other)
            except ClusterError:
                continue
