"""The import rules of docs/architecture.md, checked on the source text."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDARD = frozenset(sys.stdlib_module_names)

API = "dlcloud_operator.api"
CORE = "dlcloud_operator.core"
ENGINE = "dlcloud_operator.engine"
KUBE = "dlcloud_operator.kube"

# folder -> what its modules may import beside the standard library and themselves
ALLOWED: dict[str, frozenset[str]] = {
    "operator/dlcloud_operator/api": frozenset({API, "pydantic", "pydantic_core", "annotated_types", "yaml"}),
    "operator/dlcloud_operator/core": frozenset({CORE, API}),
    "operator/dlcloud_operator/engine": frozenset({ENGINE, CORE, API, "aiohttp", "jinja2", "jwt", "yaml", "pydantic"}),
    "operator/dlcloud_operator/kube": frozenset(
        {KUBE, ENGINE, CORE, API, "aiohttp", "cryptography", "kopf", "kubernetes", "prometheus_client", "yarl"}
    ),
    "operator/dlcloud_operator": frozenset({KUBE, ENGINE, CORE, API}),
    "cli/dlcloud": frozenset(
        {
            "dlcloud",
            ENGINE,
            CORE,
            API,
            "typer",
            "click",
            "rich",
            "yaml",
            "minio",
            "urllib3",
            "matplotlib",
            "aiohttp",
            "kubernetes",
        }
    ),
    "trainer/dlcloud_trainer": frozenset(
        {
            "dlcloud_trainer",
            "torch",
            "numpy",
            "obstore",
            "pydantic",
            "PIL",
            "pyarrow",
            "onnx",
            "onnxruntime",
            "safetensors",
        }
    ),
    "trainer/dlcloud_trainer/agent": frozenset(),
}
MAX_LINES = 300


def imported_names(path: Path) -> list[tuple[int, str]]:
    package = path.relative_to(ROOT).with_suffix("").parts[1:]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return names


def allowed(name: str, rule: frozenset[str], own: str) -> bool:
    if name.split(".")[0] in STANDARD:
        return True
    return any(name == prefix or name.startswith(prefix + ".") for prefix in rule | {own})


def modules() -> list[Path]:
    return sorted(path for folder in ("operator", "cli", "trainer") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    folder = max((f for f in ALLOWED if path.is_relative_to(ROOT / f)), key=len, default=None)
    if folder is None:
        assert path.name == "__init__.py", f"{path} belongs to no part"
        return
    own = ".".join(Path(folder).parts[1:])
    wrong = [f"line {line}: {name}" for line, name in imported_names(path) if not allowed(name, ALLOWED[folder], own)]
    assert not wrong, f"{path.relative_to(ROOT)} may not import {wrong}"


def test_the_rules_notice_a_forbidden_import(tmp_path: Path) -> None:
    assert not allowed("kubernetes.client", ALLOWED["operator/dlcloud_operator/core"], CORE)
    assert not allowed("dlcloud_operator.engine.queue", ALLOWED["operator/dlcloud_operator/core"], CORE)
    assert not allowed("dlcloud_trainer.loop", ALLOWED["cli/dlcloud"], "dlcloud")
    assert allowed("dlcloud_operator.api.Outcome", ALLOWED["operator/dlcloud_operator/core"], CORE)


def test_the_folder_operator_is_no_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would shadow the standard library's operator module"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_enough_to_read(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines: split it"
