"""A mistake is shown in its line: the caret stands where the reader looks, whatever the line holds."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud.caret import excerpt
from dlcloud.formats import Format
from dlcloud.manifest import ManifestErrors, load_manifest
from dlcloud.output import Output
from dlcloud.validate import validate_command

GOOD = """\
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {name: a}
spec:
  workload: cnn
  data: {uri: "builtin://digits"}
"""


def cells(text: str) -> int:
    """Columns a terminal needs."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def under_caret(shown: list[str]) -> str:
    """What stands above the caret and its tail."""
    line, marks = shown
    start, end = marks.index("^"), len(marks)
    found, at = "", 0
    for character in line:
        if start <= at < end:
            found += character
        at += cells(character)
    return found


def test_the_caret_and_its_tail_mark_the_whole_word() -> None:
    assert excerpt("spec:\n  epoch: 10\n", 2, 3, 5) == ["   2 |   epoch: 10", "     |   ^~~~~"]


@pytest.mark.parametrize(
    "line",
    ["\tepoch: 10", "a: \t epoch: 10", "学習: {epoch: 10}", "e\u0301e\u0301: {epoch: 10}", "\x1b[31m: {epoch: 10}"],
)
def test_tabs_wide_and_combining_characters_do_not_shift_the_caret(line: str) -> None:
    shown = excerpt(line, 1, line.index("epoch") + 1, 5)
    assert under_caret(shown) == "epoch"
    assert "\x1b" not in shown[0]
    assert "\t" not in shown[0]


@pytest.mark.parametrize("before", [0, 5, 60, 500])
@pytest.mark.parametrize("after", [0, 500])
def test_a_long_line_is_cut_around_the_place(before: int, after: int) -> None:
    line = "x" * before + "epoch" + "y" * after
    shown = excerpt(line, 1, before + 1, 5, width=60)
    assert max(map(cells, shown)) <= 60
    assert under_caret(shown) == "epoch"


@given(st.text(max_size=200), st.integers(1, 5), st.integers(1, 250), st.integers(1, 250), st.integers(1, 120))
def test_nothing_is_wider_than_asked_and_nothing_raises(
    text: str, line: int, column: int, length: int, width: int
) -> None:
    shown = excerpt(text, line, column, length, width=width)
    assert len(shown) == 2
    assert all(c.isprintable() or unicodedata.combining(c) for row in shown for c in row)
    assert len(shown[1]) <= max(30, width)


def test_a_place_behind_the_last_line_is_the_end_of_the_file() -> None:
    assert excerpt("a: [\n", 2, 1)[0] == "   2 | (end of the file)"


def test_every_mistake_of_a_file_has_its_line_below(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(GOOD + "  workers: {gpu: 1}\n  parameters: {epoch: 10}\n")
    with pytest.raises(ManifestErrors) as caught:
        load_manifest(file)
    lines = caught.value.explained(100).splitlines()
    assert lines[1:3] == ["   7 |   workers: {gpu: 1}", "     |             ^~~"]
    assert lines[4:6] == ["   8 |   parameters: {epoch: 10}", "     |                ^~~~~"]


def test_a_mistake_about_the_whole_file_has_no_caret(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("")
    with pytest.raises(ManifestErrors) as caught:
        load_manifest(tmp_path / "job.yaml")
    assert caught.value.explained() == f"{tmp_path}/job.yaml: is empty; write a TrainingJob into it"


def validate(*paths: Path, form: Format = Format.TEXT) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = validate_command(paths, Output(out), Output(err), form)
    return code, out.getvalue(), err.getvalue()


def test_machines_get_one_list_of_all_mistakes_of_all_files(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(GOOD + "  workers: {count: 0}\n")
    code, out, err = validate(tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "none", form=Format.JSON)
    found = json.loads(out)
    assert (code, err) == (2, "")
    assert [(Path(m["file"]).name, m["line"], m["column"], m["path"]) for m in found] == [
        ("a.yaml", 7, 13, "spec.workers.count"), ("b.yaml", 7, 13, "spec.workers.count"), ("none", None, None, ""),
    ]  # fmt: skip


def test_without_mistakes_machines_get_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert validate(tmp_path / "a.yaml", form=Format.JSON) == (0, "[]\n", "")


def test_of_a_folder_every_manifest_is_checked_and_other_kinds_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "---\n" + GOOD.replace("name: a", "name: b"))
    (tmp_path / "b.yml").write_text(GOOD + "  workers: {count: 0}\n")
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
    (tmp_path / "d.txt").write_text("no manifest")
    code, out, err = validate(tmp_path)
    assert code == 2
    assert [line.removeprefix(f"{tmp_path}/") for line in out.splitlines()] == [
        "a.yaml: OK: TrainingJob a, cnn, 1 worker",
        "a.yaml: OK: TrainingJob b, cnn, 1 worker",
        "c.yaml: no TrainingJob in it, not checked",
    ]
    assert err.splitlines()[0].startswith(f"{tmp_path}/b.yml:7:13: spec.workers.count")


def test_a_file_of_another_kind_alone_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: ConfigMap\n")
    code, _, err = validate(tmp_path / "c.yaml")
    assert code == 2
    assert "give TrainingJob" in err


def test_objects_beside_a_job_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: c}\n")
    assert validate(tmp_path / "a.yaml")[1].splitlines()[1].endswith("1 object of other kinds not checked")


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: [\n")))
    code, _, err = validate(Path("-"))
    assert code == 2
    assert err.startswith("<stdin>:2:1: is no YAML")
