"""How mounted paths are rewritten, and what a volume may not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlcloud.local.facts import NotReady, Objects, PodFacts
from dlcloud.local.volumes import PathMap, exchange, mounts, prepare_volumes

FACTS = PodFacts("default", "demo-0-1", "uid", labels={"a": "1"})
PATHS = PathMap(
    {"/dlcloud/bin": Path("/run/bin"), "/data": Path("/run/data"), "/data/in": Path("/run/in"), "/ca/": Path("/run/ca")}
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dlcloud/bin", "/run/bin"),
        ("/dlcloud/bin/agent.pyz", "/run/bin/agent.pyz"),
        ("--cert=/ca/root.pem", "--cert=/run/ca/root.pem"),
        ("/usr/bin:/dlcloud/bin:/bin", "/usr/bin:/run/bin:/bin"),
        ("cat '/data/x' /data/y; ls /data", "cat '/run/data/x' /run/data/y; ls /run/data"),
        ("file:///data/x", "file:///run/data/x"),
        ("/data/in/x", "/run/in/x"),
    ],
)
def test_a_mounted_path_is_rewritten_wherever_it_begins(text: str, expected: str) -> None:
    assert PATHS.apply(text) == expected


@pytest.mark.parametrize(
    "text", ["/database", "/data.bak", "/data-old/x", "s3://bucket/data/x", "/mnt/data", "./data", "~/data", "x"]
)
def test_other_paths_stay(text: str) -> None:
    assert PATHS.apply(text) == text


def test_without_mounts_nothing_is_rewritten() -> None:
    assert PathMap({}).apply("/data") == "/data"


def test_a_sub_path_is_a_folder_of_its_own(tmp_path: Path) -> None:
    mount = {"name": "v", "mountPath": "/x", "subPath": "part"}
    assert mounts({"volumeMounts": [mount]}, {"v": tmp_path}) == {"/x": tmp_path / "part"}
    assert (tmp_path / "part").is_dir()


def test_a_mount_of_no_volume_is_named() -> None:
    with pytest.raises(NotReady, match="container 'trainer' mounts volume 'v'"):
        mounts({"name": "trainer", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}, {})


def prepare(tmp_path: Path, volume: dict[str, Any], **objects: Any) -> Path:
    return prepare_volumes(
        {"volumes": [{"name": "v", **volume}]}, tmp_path / "pod", FACTS, Objects(**objects), "token"
    )["v"]


@pytest.mark.parametrize("path", ["../outside", "/outside"])
def test_a_file_outside_its_volume_is_refused(tmp_path: Path, path: str) -> None:
    volume = {"configMap": {"name": "c", "items": [{"key": "k", "path": path}]}}
    with pytest.raises(NotReady, match="must stay within its volume"):
        prepare(tmp_path, volume, config_maps={"c": {"k": "x"}})


def test_a_projected_volume_unites_its_sources(tmp_path: Path) -> None:
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "c"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    folder = prepare(tmp_path, {"projected": {"sources": sources}}, config_maps={"c": {"k": "x"}})
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"token": "token", "k": "x", "labels": 'a="1"'}


def test_an_optional_secret_that_is_missing_is_an_empty_folder(tmp_path: Path) -> None:
    assert list(prepare(tmp_path, {"secret": {"secretName": "gone", "optional": True}}).iterdir()) == []


def test_a_secrets_files_are_exchanged_together_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    folder = prepare(tmp_path, {"secret": {"secretName": "s"}}, secrets={"s": {"id": "1", "old": "x"}})
    before = (folder / "..data").resolve()
    assert (folder / "id").read_text() == "1"
    exchange(folder, {"id": "2", "new": "y"})
    assert {p.name: p.read_text() for p in folder.iterdir() if not p.name.startswith("..")} == {"id": "2", "new": "y"}
    assert not before.exists()
    assert (folder / "id").resolve().parent == (folder / "..data").resolve()
    modes = {p.stat().st_mode & 0o777 for p in folder.rglob("*")}
    assert modes == {0o700, 0o600}


def test_a_host_path_is_used_as_it_is_and_must_exist(tmp_path: Path) -> None:
    assert prepare(tmp_path, {"hostPath": {"path": str(tmp_path)}}) == tmp_path
    with pytest.raises(NotReady, match="hostPath /no/such/folder does not exist"):
        prepare(tmp_path, {"hostPath": {"path": "/no/such/folder"}})
