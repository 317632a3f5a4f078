"""Image archives of tests/cluster: what an engine is told to be in them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ..cluster.archive import File, Folder, Link, Tree, write_image, write_layer


def tree(source: Path) -> Tree:
    return {
        "usr/bin/program": File(source, 0o755),
        "etc/name": File(b"node\n"),
        "usr/bin/alias": Link("program"),
        "tmp": Folder(0o1777),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "built"
    path.write_bytes(b"\x7fELF")
    return path


def test_a_layer_has_the_files_links_and_the_folders_above_them(tmp_path: Path, source: Path) -> None:
    with tarfile.open(write_layer(tmp_path / "layer.tar", tree(source))) as tar:
        found = {entry.name: entry for entry in tar}
        program = tar.extractfile("usr/bin/program")
        assert program is not None and program.read() == b"\x7fELF"
    assert list(found) == ["etc", "etc/name", "tmp", "usr", "usr/bin", "usr/bin/alias", "usr/bin/program"]
    assert found["usr/bin"].isdir() and found["usr/bin"].mode == 0o755
    assert found["usr/bin/program"].mode == 0o755 and found["etc/name"].mode == 0o644
    assert found["usr/bin/alias"].linkname == "program"
    assert found["tmp"].mode == 0o1777
    assert {(entry.uid, entry.gid, entry.mtime) for entry in found.values()} == {(0, 0, 0)}


def test_the_same_files_give_the_same_bytes_whenever_they_were_written(tmp_path: Path, source: Path) -> None:
    first = write_layer(tmp_path / "first.tar", tree(source)).read_bytes()
    source.touch()
    source.chmod(0o600)
    second = write_layer(tmp_path / "second.tar", dict(reversed(tree(source).items()))).read_bytes()
    assert first == second


def test_an_image_names_its_layers_by_their_digests_lowest_first(tmp_path: Path) -> None:
    layers = [write_layer(tmp_path / f"{name}.tar", {name: File(name.encode())}) for name in ("low", "high")]
    config = {"Entrypoint": ["/init"]}
    image = write_image(tmp_path / "image.tar", ["localhost/a:1", "localhost/b:1"], config, layers)
    with tarfile.open(image) as tar:
        manifest: Any = json.loads(tar.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        about: Any = json.loads(tar.extractfile(manifest["Config"]).read())  # type: ignore[union-attr]
        digests = [
            hashlib.sha256(tar.extractfile(layer).read()).hexdigest()  # type: ignore[union-attr]
            for layer in manifest["Layers"]
        ]
    assert manifest["RepoTags"] == ["localhost/a:1", "localhost/b:1"]
    assert about["config"] == config and about["os"] == "linux"
    assert about["rootfs"]["diff_ids"] == [f"sha256:{digest}" for digest in digests]
    assert digests == [hashlib.sha256(layer.read_bytes()).hexdigest() for layer in layers]


def test_a_layer_that_cannot_be_finished_leaves_the_old_one_as_it_was(tmp_path: Path) -> None:
    target = write_layer(tmp_path / "layer.tar", {"old": File(b"")})
    before = target.read_bytes()
    with pytest.raises(FileNotFoundError):
        write_layer(target, {"new": File(tmp_path / "is-not-there")})
    assert target.read_bytes() == before
