"""A pod's volumes as folders of this machine, and its paths rewritten to them.

May import this package and the standard library. Writes only below the pod's own folder, and nothing others can read.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .facts import Manifest, NotReady, Objects, PodFacts

SHARED_PATHS = frozenset({"/tmp", "/dev/shm"})  # a pod's are this machine's own
_VERSION_LINK = "..data"
_SOURCES = ("emptyDir", "projected", "secret", "configMap", "downwardAPI", "hostPath")


def prepare_volumes(spec: Manifest, folder: Path, facts: PodFacts, objects: Objects, token: str) -> dict[str, Path]:
    """Make every volume of a pod spec below `folder`; name -> folder (or file, for a hostPath).

    `token` fills serviceAccountToken projections. Raises NotReady for what does not exist, with the kubelet's words.
    """
    found = {}
    for volume in spec.get("volumes", ()):
        name = str(volume["name"])
        kind = next((source for source in _SOURCES if source in volume), None)
        if kind is None:
            other = ", ".join(key for key in volume if key != "name") or "nothing"
            raise NotReady(f"volume {name!r}: {other} does not exist on this machine; use one of {', '.join(_SOURCES)}")
        source = volume[kind] or {}
        if kind == "hostPath":
            path = Path(source["path"])
            if not path.exists():
                raise NotReady(f'MountVolume.SetUp failed for volume "{name}" : hostPath {path} does not exist')
            found[name] = path
            continue
        found[name] = target = folder / name
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            files = (
                _projected(source, facts, objects, token)
                if kind == "projected"
                else _files(kind, source, facts, objects)
            )
        except NotReady as missing:
            raise NotReady(f'MountVolume.SetUp failed for volume "{name}" : {missing}') from None
        if kind == "secret":
            exchange(target, files)
            continue
        for relative, text in files.items():
            _write(target, relative, text)
    return found


def exchange(folder: Path, files: Mapping[str, str]) -> None:
    """Replace all files of a Secret's volume at once, as the kubelet does: they lie behind one link, `..data`. Raises
    NotReady for a path that leads out of it."""
    link, gone = folder / _VERSION_LINK, None
    if link.is_symlink():
        gone = folder / link.readlink()
    if files:
        new = Path(tempfile.mkdtemp(prefix="..", dir=folder))  # 0700
        for relative, text in files.items():
            _write(new, relative, text)
        turned = folder / f"{_VERSION_LINK}_new"
        turned.symlink_to(new.name)
        turned.replace(link)
    elif gone is not None:
        link.unlink()
    names = {Path(relative).parts[0] for relative in files}
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path(_VERSION_LINK, name))
    for path in folder.iterdir():
        if path.is_symlink() and path.name not in names | {_VERSION_LINK}:
            path.unlink()
    if gone is not None:
        shutil.rmtree(gone)


def _projected(source: Manifest, facts: PodFacts, objects: Objects, token: str) -> dict[str, str]:
    files = {}
    for part in source.get("sources", ()):
        for kind, inner in part.items():
            if kind == "serviceAccountToken":
                files[inner["path"]] = token
            elif kind in ("secret", "configMap", "downwardAPI"):
                files.update(_files(kind, inner or {}, facts, objects))
            else:
                raise NotReady(f"a projected {kind} does not exist on this machine")
    return files


def _files(kind: str, source: Manifest, facts: PodFacts, objects: Objects) -> dict[str, str]:
    if kind == "emptyDir":
        return {}
    if kind == "downwardAPI":
        return {
            item["path"]: facts.field(item["fieldRef"]["fieldPath"])
            for item in source.get("items", ())
            if "fieldRef" in item
        }
    name, optional = str(source.get("secretName") or source.get("name", "")), bool(source.get("optional"))
    data = objects.data("secret" if kind == "secret" else "configmap", name, optional)
    if not (items := source.get("items")):
        return dict(data)
    missing = [item["key"] for item in items if item["key"] not in data]
    if missing and not optional:
        raise NotReady(f'{kind} "{name}" references non-existent key: {missing[0]}')
    return {item["path"]: data[item["key"]] for item in items if item["key"] in data}


def _write(folder: Path, relative: str, text: str) -> None:
    path = folder / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise NotReady(f"path {relative!r} must stay within its volume")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


class PathMap:
    """Rewrites paths: each mount path, wherever it begins a path in a text, becomes the folder behind it."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = {path.rstrip("/"): folder for path, folder in folders.items()}
        # The longest first, so that a mount within another one wins. A path begins after a delimiter or a URI's `://`,
        # and its prefix ends with a part's end: /data is no prefix of /database, nor of s3://bucket/data.
        choices = "|".join(re.escape(path) for path in sorted(self._folders, key=len, reverse=True))
        self._pattern = re.compile(rf"(?:(?<=://)|(?<![\w./~@%+-]))(?:{choices})(?![\w.%+-])") if choices else None

    def apply(self, text: str) -> str:
        """`text` with every mounted path replaced."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: str(self._folders[match[0]]), text)

    def folder(self, path: str) -> Path | None:
        """Where exactly this mount path leads, if it is mounted."""
        return self._folders.get(path.rstrip("/"))


def mounts(container: Manifest, volumes: Mapping[str, Path]) -> dict[str, Path]:
    """Mount path -> folder for one container, without SHARED_PATHS. Raises NotReady for an unknown volume."""
    found = {}
    for mount in container.get("volumeMounts", ()):
        path, name = str(mount["mountPath"]).rstrip("/"), str(mount["name"])
        if name not in volumes:
            raise NotReady(f"container {container.get('name')!r} mounts volume {name!r}, which the pod does not have")
        if path in SHARED_PATHS:
            continue
        folder = volumes[name]
        if sub := mount.get("subPath"):
            folder = folder / sub
            if not folder.exists():
                folder.mkdir(mode=0o700, parents=True)
        found[path] = folder
    return found
