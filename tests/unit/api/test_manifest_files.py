"""A file's mistakes are told with line and column; a file that is no manifest is told so in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlcloud.manifest import ManifestErrors, load_manifest, load_manifests

GOOD = """\
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {name: a}
spec:
  workload: cnn
  data: {uri: "builtin://digits"}
"""


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "job.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def errors(folder: Path, content: str | bytes) -> list[str]:
    file = write(folder, content)
    with pytest.raises(ManifestErrors) as caught:
        load_manifest(file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(file)) for line in lines)
    return [line.removeprefix(str(file)) for line in lines]


def test_a_good_file_is_a_job(tmp_path: Path) -> None:
    assert load_manifest(write(tmp_path, GOOD)).spec.workload == "cnn"


def test_every_mistake_is_told_by_line_and_column_in_their_order(tmp_path: Path) -> None:
    text = GOOD + "  workers:\n    gpu: 1\n    count: 0\n"
    text += "  scheduling:\n    tolerations:\n    - {key: a}\n    - 3\n"
    text = text.replace("name: a", 'name: a, labels: {"a.b/c": 1}')
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in errors(tmp_path, text)] == [
        ':3:30 metadata.labels["a.b/c"]',
        ":8:5 spec.workers.gpu",
        ":9:5 spec.workers.count",
        ":13:7 spec.scheduling.tolerations[1]",
    ]


def test_a_missing_field_is_told_where_it_is_missing(tmp_path: Path) -> None:
    text = GOOD + "  checkpoint:\n    keepLast: 1\n"
    assert errors(tmp_path, text) == [":7:3: spec.checkpoint.uri: is missing; give s3://bucket/prefix or file:///path"]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("", [": is empty; write a TrainingJob into it"]),
        ("---\n# nothing\n---\n", [": is empty; write a TrainingJob into it"]),
        ("- 1\n", [":1:1: is no mapping; give apiVersion, kind, metadata and spec"]),
        ("just text\n", [":1:1: is no mapping; give apiVersion, kind, metadata and spec"]),
        (
            "apiVersion: v1\nkind: Pod\n",
            [
                ":1:1: apiVersion: 'v1' is not what this program reads; give dlcloud.dev/v1",
                ":2:1: kind: 'Pod' is not what this program reads; give TrainingJob",
            ],
        ),
        ("a: 1\nb: 2\na: 3\n", [":3:1: a: is given twice, first in line 1; leave one"]),
        ("spec:\n  x:\n    a: 1\n    a: 3\n", [":4:5: spec.x.a: is given twice, first in line 3; leave one"]),
        ("1: a\n", [":1:1: the key '1' is not text; write it in quotes"]),
        ("yes: a\n", [":1:1: the key 'yes' is not text; write it in quotes"]),
        ("y: a\n", [":1:1: the key 'y' is not text; write it in quotes"]),
        ("? [a]\n: 1\n", [":1:3: the key a list or mapping is not text; write it in quotes"]),
        ("a: [1\nb: }\n", [":2:2: is no YAML: did not find expected ',' or ']' (while parsing a flow sequence)"]),
        ("a: *x\n", [":1:4: is no YAML: found undefined alias"]),
        ("a: &x [*x]\n", [":1:4: a[0]: an alias stands inside of what it names"]),
        ("a: 1\nb: \x01\n", [":2:1: is no YAML: control characters are not allowed"]),
        (b"\xff\xfe\x00\x01", [": is no text in UTF-8 (byte 0); give a YAML file"]),
        (b"\x7fELF\x02\x01\x01\x00\x90", [": is no text in UTF-8 (byte 8); give a YAML file"]),
        ("[" * 5000 + "]" * 5000, None),
        ("a: !!python/name:os.system x\n", None),
        ("a: !!binary aGk=\n", None),
        ("<<: 3\n", [":1:5: << merges mappings only"]),
        ("x" * (1024 * 1024 + 1), [": is larger than 1024 KiB; a manifest is a few lines of YAML"]),
    ],
)
def test_what_is_no_manifest_is_told_so(tmp_path: Path, content: str | bytes, lines: list[str] | None) -> None:
    found = errors(tmp_path, content)
    assert found == lines if lines is not None else len(found) == 1


def test_aliases_of_aliases_do_not_fill_the_memory(tmp_path: Path) -> None:
    rows = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)]
    assert any("more than 100000 values" in line for line in errors(tmp_path, "\n".join(rows)))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestErrors, match="there is no such file"):
        load_manifest(tmp_path / "no.yaml")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ManifestErrors, match="is a directory; give a YAML file"):
        load_manifest(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_one_may_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    file.chmod(0)
    with pytest.raises(ManifestErrors, match="cannot be read: Permission denied"):
        load_manifest(file)


def test_a_name_no_file_can_have() -> None:
    with pytest.raises(ManifestErrors, match="cannot be read"):
        load_manifest("a\0b")


def test_anchors_and_merge_keys_are_understood(tmp_path: Path) -> None:
    text = GOOD + "  workers: &w {count: 2}\n  restart: {maxFailures: 1}\n"
    text += "  podTemplate:\n    metadata:\n      labels: &l {a: b, c: d}\n      annotations: {<<: *l, c: e}\n"
    assert load_manifest(write(tmp_path, text)).spec.pod_template["metadata"]["annotations"] == {"a": "b", "c": "e"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0.25", -0.25),
        ("0x10", 16),
        ("010", 8),
        ("1_000", 1000),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ("y", True),
        ("Off", False),
        ("~", None),
        ("'1'", "1"),
        ("v1", "v1"),
    ],
)
def test_scalars_are_read_as_kubernetes_reads_them(tmp_path: Path, written: str, value: object) -> None:
    text = GOOD + f"  podTemplate: {{metadata: {{annotations: {{a: {written}}}}}}}\n"
    found = load_manifest(write(tmp_path, text)).spec.pod_template["metadata"]["annotations"]["a"]
    assert (type(found), found) == (type(value), value)


def test_of_several_documents_the_jobs_are_read(tmp_path: Path) -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
    file = write(tmp_path, f"{config}---\n{GOOD}---\n{GOOD.replace('name: a', 'name: b')}")
    assert [job.metadata.name for job in load_manifests(file)] == ["a", "b"]
    with pytest.raises(ManifestErrors, match=r"holds 2 TrainingJobs \(a, b\); give a file with one"):
        load_manifest(file)


def test_a_mistake_in_a_later_document_is_told_in_its_line(tmp_path: Path) -> None:
    text = f"{GOOD}---\n{GOOD}  workers: {{count: 0}}\n"
    assert [line.split(": ")[0] for line in errors(tmp_path, text)] == [":14:13"]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert load_manifest(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode())).metadata.name == "a"
