"""`dlcloud checkpoints` on what a real checkpointer wrote, also while it writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlcloud.checkpoints.tool import run_tool
from dlcloud.jobs.errors import JobsError
from dlcloud.target import Target
from dlcloud_trainer.checkpoint import collect
from dlcloud_trainer.checkpoint.layout import HEAD, Entry, Head, Manifest, seal
from dlcloud_trainer.checkpoint_tool.edit import edit_head
from dlcloud_trainer.checkpoint_tool.fetching import get
from dlcloud_trainer.checkpoint_tool.lines import Lines, ToolError
from dlcloud_trainer.objects import open_objects

from .conftest import Cli, Store, save


def objects_of(store: Store) -> Any:
    return open_objects(store.uri, endpoint=store.endpoint)


def head_of(store: Store) -> Head:
    return Head.parse(objects_of(store).get(HEAD), HEAD)


def steps_of(store: Store) -> list[int]:
    return [entry.step for entry in head_of(store).checkpoints]


def test_the_list_tells_steps_metrics_pins_and_reasons(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    rank = store.rank()
    for step, metric in ((100, 0.9), (200, None), (300, 0.5)):
        save(rank, step, metric=metric)
    assert cli("checkpoints", "pin", store.uri, "200")[0] == 0
    code, said = cli("checkpoints", "ls", store.uri, "-o", "json")
    found = json.loads(said)
    assert code == 0
    assert [(row["step"], row["metric"], row["pinned"], row["kept"]) for row in found] == [
        (300, 0.5, False, ["last"]), (200, None, True, ["pinned"]), (100, 0.9, False, ["best"]),
    ]  # fmt: skip
    assert all(row["sizeBytes"] > 100 and row["uri"].startswith(store.uri) for row in found)
    code, said = cli("checkpoints", "ls", store.uri)
    assert said.splitlines()[0].split() == ["STEP", "ROUND", "AGE", "SIZE", "METRIC", "PINNED", "KEPT", "AS"]


def test_every_byte_is_verified_and_the_damage_named(cli: Cli, store: Store) -> None:
    rank = store.rank()
    for step in (100, 200, 300):
        save(rank, step)
    objects = objects_of(store)
    code, said = cli("checkpoints", "verify", store.uri, "all")
    assert (code, [line.split(" (")[0] for line in said.splitlines()]) == (
        0,
        [f"step {s}: OK" for s in (300, 200, 100)],
    )
    manifests = [Manifest.parse(objects.get(e.manifest), "") for e in head_of(store).checkpoints]
    broken, gone = manifests[0].slices[0].key, manifests[1].slices[0].key
    data = bytearray(objects.get(broken))
    data[5] ^= 1
    objects.put(broken, bytes(data))
    objects.delete(gone)
    code, said = cli("checkpoints", "verify", store.uri, "all")
    assert code == 1
    lines = said.splitlines()
    assert lines[0].endswith(f"{broken}: its CRC does not match")
    assert lines[1].endswith(f"{gone} is missing")
    assert lines[2].startswith("step 100: OK")
    assert lines[3] == "2 of 3 damaged; the job would go on from step 100"


def test_a_damaged_head_is_told_and_the_manifests_are_verified_all_the_same(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    save(store.rank(), 100)
    objects_of(store).put(HEAD, b'{"version": 1}')
    code, said = cli("checkpoints", "verify", store.uri, "all", "-o", "json")
    assert code == 1
    assert [(row["step"], row["sound"]) for row in json.loads(said)] == [(None, False), (100, True)]


def test_a_download_loads_with_safetensors_alone(cli: Cli, store: Store) -> None:
    save(store.rank(), 100)
    code, said = cli("checkpoints", "get", store.uri, "--out", "here")
    assert code == 0, said
    loaded = load_file(cli.folder / "here" / "checkpoint.safetensors")
    assert torch.equal(loaded["model.weight"], torch.full((4, 3), 100.0))
    assert torch.equal(loaded["optimizer.state.0.exp_avg"], torch.arange(7, dtype=torch.float64))
    assert (loaded["model.half"].dtype, loaded["model.flag"].item()) == (torch.bfloat16, True)
    assert len(loaded) == 5
    state = json.loads((cli.folder / "here" / "state.json").read_text())
    assert (state["step"], state["samples"]) == (100, 3200)
    assert sorted(path.name for path in (cli.folder / "here").iterdir()) == ["checkpoint.safetensors", "state.json"]


def test_the_model_part_fits_a_model(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    rank = store.rank()
    tensors, state = collect({"model": model, "optimizer": torch.optim.Adam(model.parameters())})
    assert rank.save(tensors, state, step=1, samples=1, metric=0.5, wait=True)
    rank.flush(30)
    code, said = cli("checkpoints", "get", store.uri, "best", "--only", "model", "--out", "m.safetensors")
    assert code == 0, said
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    fresh.load_state_dict(load_file(cli.folder / "m.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))
    assert (cli.folder / "m.state.json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["150"], "there is no checkpoint of step 150; there are the steps 200, 100"),
        (["best"], "no checkpoint has a metric yet"),
        (["newest"], "'newest' is no step; give a number, latest or best"),
        (["100", "--only", "modle"], "parts with tensors: model, optimizer"),
    ],
)
def test_a_wrong_request_gets_the_choice_there_is(cli: Cli, make_store: Any, words: list[str], expected: str) -> None:
    store = make_store("file")
    rank = store.rank()
    save(rank, 100)
    save(rank, 200)
    code, said = cli("checkpoints", "get", store.uri, *words)
    assert code == 2
    assert expected in said


def test_an_interrupted_download_goes_on_where_it_was(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    rank = store.rank()
    save(rank, 100, big=100 << 20)
    slices = sorted(store.folder.glob("attempts/*/*.bin"))
    assert len(slices) > 4
    slices[-1].rename(slices[-1].with_suffix(".away"))
    os.mkfifo(slices[-1])  # whoever opens it waits for ever
    process = cli.start("checkpoints", "get", store.uri, "--out", "a.safetensors")
    journal = cli.folder / "a.safetensors.partial.jsonl"
    give_up = time.monotonic() + 60
    while not (journal.exists() and len(journal.read_text().splitlines()) >= len(slices)):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert not (cli.folder / "a.safetensors").exists()
    slices[-1].unlink()
    slices[-1].with_suffix(".away").rename(slices[-1])
    for path in slices[:-1]:  # what has come is not asked for again
        path.unlink()
    code, said = cli("checkpoints", "get", store.uri, "--out", "a.safetensors")
    assert code == 0, said
    assert "from before" in said
    assert torch.equal(load_file(cli.folder / "a.safetensors")["optimizer.big"][250:260], torch.arange(250, 260) % 256)
    assert not list(cli.folder.glob("*.partial*"))


def test_what_was_damaged_since_an_interruption_is_fetched_again(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    save(store.rank(), 100, big=40 << 20)
    assert cli("checkpoints", "get", store.uri, "--out", "a.safetensors")[0] == 0
    good = (cli.folder / "a.safetensors").read_bytes()
    mark = {"manifest": f"{store.uri}/{head_of(store).checkpoints[0].manifest}", "only": ""}
    manifest = Manifest.parse(objects_of(store).get(head_of(store).checkpoints[0].manifest), "")
    mark["crc32"] = zlib.crc32(manifest.dump())
    partial = cli.folder / "a.safetensors.partial"
    partial.write_bytes(good[:-100] + b"x" * 100)
    lines = [mark, *({"slice": i, "crc32": piece.crc32} for i, piece in enumerate(manifest.slices))]
    (cli.folder / "a.safetensors.partial.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli("checkpoints", "get", store.uri, "--out", "a.safetensors", "--force")[0] == 0
    assert (cli.folder / "a.safetensors").read_bytes() == good


def test_a_file_is_replaced_only_when_asked(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    save(store.rank(), 100)
    (cli.folder / "a.safetensors").write_text("mine")
    code, said = cli("checkpoints", "get", store.uri, "--out", "a.safetensors")
    assert (code, (cli.folder / "a.safetensors").read_text()) == (2, "mine"), said
    assert cli("checkpoints", "get", store.uri, "--out", "a.safetensors", "--force")[0] == 0
    assert "model.flag" in load_file(cli.folder / "a.safetensors")


def test_a_disk_without_room_is_told_before_anything_comes(make_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store("file")
    save(store.rank(), 100, big=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    objects, out = objects_of(store), store.folder / "a.safetensors"
    nothing = "dlcloud_trainer.checkpoint_tool.fetching.read_slice"
    monkeypatch.setattr(nothing, lambda *_: pytest.fail("nothing may be read"))
    with pytest.raises(ToolError, match="are needed and 10 are free; free some, or give --out on another disk"):
        get(objects, "latest", out, only="", force=False, lines=Lines())
    assert not out.exists()


def test_without_the_trainer_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dlcloud.checkpoints.tool.find_spec", lambda name: None if name == "obstore" else name)
    with pytest.raises(JobsError, match=r"obstore not installed; .*pip install 'dlcloud\[trainer\]'"):
        next(run_tool("verify", Target("x", f"file://{tmp_path}/", None), ["all"]))


def test_a_pin_outlives_the_commits_of_the_job(cli: Cli, store: Store) -> None:
    rank = store.rank(keep_last=2)
    save(rank, 100)
    before = head_of(store)
    assert cli("checkpoints", "pin", store.uri, "100")[0] == 0
    after = head_of(store)
    assert (after.round, after.nonce, after.write != before.write) == (before.round, before.nonce, True)
    for step in (200, 300, 400):
        save(rank, step)
    assert steps_of(store) == [400, 300, 100]
    assert cli("checkpoints", "unpin", store.uri, "100")[0] == 0
    save(rank, 500)
    assert steps_of(store) == [500, 400]


def test_a_removed_checkpoint_stays_away_and_the_running_job_frees_its_objects(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    save(store.rank(1), 100)
    rank = store.rank(2)
    for step in (200, 300):
        save(rank, step)
    tool = [sys.executable, "-m", "dlcloud_trainer.checkpoint_tool", "rm", "--uri", store.uri, "100", "200"]
    subprocess.run(tool, check=True, stdin=subprocess.DEVNULL)
    assert steps_of(store) == [300]
    assert len(list(store.folder.glob("manifests/*"))) == 3, "the job is running: nothing is deleted yet"
    save(rank, 400)
    assert steps_of(store) == [400, 300]
    assert [int(path.name[:12]) for path in sorted(store.folder.glob("manifests/*"))] == [300, 400]
    assert len(list(store.folder.glob("attempts/*/*"))) == 2


def test_pins_and_removals_while_a_job_commits_are_all_kept(store: Store) -> None:
    rank = store.rank(keep_last=100)
    for step in range(1, 9):
        save(rank, step)
    stop = threading.Event()

    def train() -> None:
        step = 100
        while not stop.is_set():
            save(rank, step)
            step += 1

    training = threading.Thread(target=train)
    training.start()
    try:
        for step in range(1, 5):
            edit_head(objects_of(store), lambda es, s=step: [replace(e, pinned=e.pinned or e.step == s) for e in es])  # type: ignore[misc]
            edit_head(objects_of(store), lambda es, s=step: [e for e in es if e.step != s + 4])  # type: ignore[misc]
    finally:
        stop.set()
        training.join(30)
    save(rank, 10_000)
    entries = head_of(store).checkpoints
    assert entries[0].step == 10_000
    assert {entry.step for entry in entries if entry.pinned} == {1, 2, 3, 4}
    assert not {5, 6, 7, 8} & {entry.step for entry in entries}


def test_an_edit_that_meets_a_commit_is_made_again_on_top_of_it(store: Store) -> None:
    rank = store.rank()
    save(rank, 100)
    asked: list[list[int]] = []

    def pin_all(entries: Sequence[Entry]) -> list[Entry]:
        asked.append([entry.step for entry in entries])
        if len(asked) == 1:
            save(rank, 200)  # between our look and our write
        return [replace(entry, pinned=True) for entry in entries]

    edit_head(objects_of(store), pin_all)
    assert asked == [[100], [200, 100]]
    save(rank, 300)
    assert [(entry.step, entry.pinned) for entry in head_of(store).checkpoints] == [
        (300, False), (200, True), (100, True),
    ]  # fmt: skip


def test_an_edit_leaves_what_a_newer_program_wrote(make_store: Any) -> None:
    store = make_store("file")
    save(store.rank(), 100)
    objects = objects_of(store)
    body = json.loads(objects.get(HEAD)) | {"later": {"a": 1}}
    body.pop("crc32")
    body["checkpoints"][0]["note"] = "kept"
    objects.put(HEAD, seal(body))
    edit_head(objects, lambda entries: [replace(entry, pinned=True) for entry in entries])
    found = json.loads(objects.get(HEAD))
    assert (found["later"], found["checkpoints"][0]["note"], found["checkpoints"][0]["pinned"]) == (
        {"a": 1},
        "kept",
        True,
    )


def test_of_a_job_that_does_not_run_the_objects_go_at_once(cli: Cli, store: Store) -> None:
    rank = store.rank()
    for step in (100, 200, 300):
        save(rank, step)
    code, said = cli("checkpoints", "rm", store.uri, "100", "--stopped")
    assert (code, said) == (0, "step 100 removed; left: 300, 200\n")
    left = objects_of(store).list("manifests") + objects_of(store).list("attempts")
    assert len(left) == 4
    code, said = cli("checkpoints", "verify", store.uri, "all")
    assert code == 0, said


@pytest.mark.parametrize(
    ("pin", "steps", "why"),
    [
        ("100", ["100"], "step 100 is pinned"),
        ("", ["300"], "step 300 is the newest, and the job would go on from step 200"),
        ("", ["100", "200", "300"], "no checkpoint would be left"),
    ],
)
def test_a_dangerous_removal_is_refused_without_force(
    cli: Cli, make_store: Any, pin: str, steps: list[str], why: str
) -> None:
    store = make_store("file")
    rank = store.rank()
    for step in (100, 200, 300):
        save(rank, step)
    if pin:
        assert cli("checkpoints", "pin", store.uri, pin)[0] == 0
    code, said = cli("checkpoints", "rm", store.uri, *steps, "--stopped")
    assert code == 2
    assert why in said
    assert "--force" in said
    assert steps_of(store) == [300, 200, 100]
    assert cli("checkpoints", "rm", store.uri, *steps, "--stopped", "--force")[0] == 0
    assert set(steps_of(store)) == {100, 200, 300} - set(map(int, steps))


def test_a_removal_from_a_uri_asks_whether_the_job_still_runs(cli: Cli, make_store: Any) -> None:
    store = make_store("file")
    save(store.rank(), 100)
    code, said = cli("checkpoints", "rm", store.uri, "100")
    assert (code, "--stopped" in said, steps_of(store)) == (2, True, [100])


@pytest.mark.parametrize("verb", ["ls", "verify", "get", "pin"])
def test_a_prefix_without_checkpoints_gets_a_sentence(cli: Cli, tmp_path: Path, verb: str) -> None:
    words = ["1"] if verb == "pin" else []
    code, said = cli("checkpoints", verb, f"file://{tmp_path}/none/", *words)
    assert (code, "no checkpoint" in said) == (0 if verb == "ls" else 1, True), said


def test_the_tool_needs_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "dlcloud_trainer.checkpoint_tool", "-h"]
    said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True).stderr
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in said.splitlines()}
    assert "obstore" in names
    assert "torch" not in names
