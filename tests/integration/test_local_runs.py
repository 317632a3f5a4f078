"""Runs of this machine as things that last: in the background, suspended, killed, resumed, removed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio

from dlcloud.jobs.local_runs import LocalRuns
from dlcloud.jobs.local_store import embedded_server
from dlcloud.jobs.run_folder import read_info
from dlcloud.local.store import EmbeddedStore
from dlcloud.objects import Access, open_reader
from dlcloud.output import Output
from dlcloud.store import is_locked
from dlcloud.watching import watch

from ..unit.cli.runs import job_view, make_run
from .command import WAIT_FOREVER, Place, read_until, wait_for
from .conftest import S3Server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    result = Place(tmp_path)
    yield result
    result.close()


def owner(place: Place) -> int:
    return read_info(place.run_dir()).stints[-1].pid


def in_background(place: Place, body: str = WAIT_FOREVER) -> str:
    """Start a light job in the background; its id, once its script is up."""
    code, said = place.run("run", place.light_job(body), "--local", "--detach")
    assert code == 0, said
    name = place.run_dir().name
    assert f"run: {name}\n" in said and f"dlcloud logs -f {name}" in said, said
    wait_for(lambda: any("up" in log.read_text() for log in place.run_dir().glob("pods/*/log")))
    return name


def test_a_detached_run_goes_on_and_is_suspended_from_another_terminal(place: Place) -> None:
    name = in_background(place)
    assert place.phase() == "Running"
    assert os.getsid(owner(place)) == owner(place), "a session of its own: a closing terminal does not end it"
    code, said = place.run("suspend", "light")
    assert code == 0, said
    assert f"{name} is Suspended\n" in said
    assert f"resume {name}" in said
    assert place.phase() == "Suspended"
    assert read_info(place.run_dir()).stints[-1].exit_code == 4
    wait_for(lambda: not place.processes(), limit_s=10)
    code, said = place.run("suspend", "light")
    assert (code, "already" in said) == (0, True), said


def test_a_detached_run_that_cannot_start_says_why(place: Place) -> None:
    manifest = place.light_job("pass")
    (place.folder / "home" / "store").mkdir(parents=True)
    (place.folder / "home" / "store" / "data").write_text("no folder")
    code, said = place.run("run", manifest, "--local", "--detach", "--set", "checkpoint.uri=s3://bucket/")
    assert code != 0, said
    assert "data" in said and "Traceback" not in said
    assert place.processes() == []


def test_a_killed_run_is_interrupted_its_pods_are_gone_and_resume_goes_on(place: Place) -> None:
    go = place.folder / "go"
    name = in_background(place, f"while not os.path.exists({str(go)!r}): time.sleep(0.05)")
    os.kill(owner(place), signal.SIGKILL)
    wait_for(lambda: not place.processes(), limit_s=10)
    (before,) = place.jobs()
    assert before.phase == "Interrupted"
    assert f"dlcloud resume {name}" in before.message
    go.touch()
    code, said = place.run("resume", name)
    assert code == 0, said
    (after,) = place.jobs()
    assert after.phase == "Succeeded"
    assert after.job.uid == before.job.uid
    assert after.job.status.recovery.last_round == 2
    logs = sorted(path.parent.name for path in place.run_dir().glob("pods/*/log"))
    assert logs == ["light-0-1", "light-0-2"], "the output of before stays"


def final_weights(place: Place) -> tuple[object, ...]:
    """What the last checkpoint consists of, but for names and times."""
    (head,) = place.folder.glob("checkpoints/default/digits/*/head.json")
    newest = json.loads(head.read_text())["checkpoints"][0]
    manifest = json.loads((head.parent / newest["manifest"]).read_text())
    return newest["step"], [part["crc32"] for part in manifest["slices"]]


@pytest.mark.timeout(240)
def test_a_run_killed_while_training_ends_as_if_it_had_not_been(place: Place, tmp_path: Path) -> None:
    straight = Place(tmp_path / "straight")
    straight.folder.mkdir()
    code, said = straight.run("run", straight.cnn(12, f"file://{straight.folder}/checkpoints"), "--local")
    assert code == 0, said

    process = place.start("run", place.cnn(12, f"file://{place.folder}/checkpoints"), "--local")
    read_until(process, "checkpoint at step")
    process.kill()
    process.wait()
    assert place.phase() == "Interrupted"
    code, said = place.run("resume", "digits")
    assert code == 0, said
    steps = [int(step) for step in re.findall(r"step (\d+)/240", said)]
    assert steps[0] >= 20, "it went on from a checkpoint"
    assert final_weights(place) == final_weights(straight)
    ends = [job.job.status.progress for one in (place, straight) for job in one.jobs()]
    assert ends[0] is not None and ends[1] is not None and ends[0].loss == ends[1].loss


@pytest.mark.slow  # tests/unit/cli/test_continuing.py is its short form
def test_a_failed_run_goes_on_with_a_new_budget_once_its_cause_is_mended(place: Place) -> None:
    mended = place.folder / "mended"
    manifest = place.light_job(f"assert os.path.exists({str(mended)!r}), 'not yet'")
    code, said = place.run("run", manifest, "--local")
    assert code == 1, said
    assert "begin again with: " in said
    mended.touch()
    code, said = place.run("resume", "light")
    assert code == 0, said
    (job,) = place.jobs()
    assert {c.type: c.status for c in job.job.status.conditions}["Failed"] == "False"


def test_a_stopped_run_goes_on_with_other_workers_but_not_with_another_program(place: Place) -> None:
    done = place.folder / "done"
    in_background(place, f"while not os.path.exists({str(done)!r}): time.sleep(0.05)")
    place.run("suspend", "light")
    refused = {
        ("--set", "script.args=[more]"): "cannot change once the job exists",
        ("--set", "script.agrs=[more]"): "spec.script.agrs",
    }
    for arguments, words in refused.items():
        code, said = place.run("resume", "light", *arguments)
        assert code == 2, said
        assert words in said and "Traceback" not in said
        assert place.phase() == "Suspended"
    done.touch()
    code, said = place.run("resume", "light", "--workers", "2", "--detach")
    assert code == 0, said
    wait_for(lambda: place.phase() == "Succeeded")
    assert {path.name for path in place.run_dir().glob("pods/*")} == {"light-0-1", "light-0-2", "light-1-1"}


def test_ctrl_c_ends_the_waiting_for_a_suspension_and_the_job_still_stops(place: Place) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + WAIT_FOREVER
    in_background(place, deaf)
    wait_for(lambda: any("deaf" in log.read_text() for log in place.run_dir().glob("pods/*/log")))
    waiting = place.start("suspend", "light")
    read_until(waiting, "saving and stopping")
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=10)
    assert waiting.returncode == 130
    assert b"still does" in said and b"Traceback" not in said
    wait_for(lambda: place.phase() == "Suspended" and not place.processes(), limit_s=30)


def test_a_running_job_is_neither_resumed_nor_removed_without_force(place: Place) -> None:
    name = in_background(place)
    for command, words in (("resume", "is running already"), ("rm", "--force")):
        code, said = place.run(command, name)
        assert (code, words in said) == (1, True), said
    assert place.phase() == "Running"
    code, said = place.run("rm", "-f", name)
    assert code == 0, said
    assert "folder deleted, " in said
    assert place.jobs() == []
    wait_for(lambda: not place.processes(), limit_s=10)


@pytest.mark.slow  # tests/unit/cli/test_local_runs.py has the kill alone
def test_a_run_that_does_not_listen_is_killed_by_rm_force(place: Place) -> None:
    name = in_background(place)
    os.kill(owner(place), signal.SIGSTOP)
    code, said = place.run("rm", "--force", "--objects", "--yes", name)
    assert code == 0, said
    wait_for(lambda: not place.processes(), limit_s=10)


def test_full_disk_is_a_sentence_and_leaves_no_half_of_a_run(place: Place) -> None:
    manifest = place.light_job("pass")

    def no_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    code, said = place.run("run", manifest, "--local", preexec_fn=no_bytes)
    assert code == 1, said
    assert "the run cannot be written down, so it is not begun" in said
    assert "Traceback" not in said
    assert place.jobs() == []
    make_run(place.folder / "home", job_view(uri=""))
    code, said = place.run("resume", "digits", preexec_fn=no_bytes)
    assert (code, "it is not begun" in said, "Traceback" in said) == (1, True, False), said
    assert place.phase() == "Suspended"


def test_a_run_is_followed_to_its_end_by_somebody_who_only_looks_on(place: Place) -> None:
    in_background(place, "time.sleep(1); print('done', flush=True)")
    source, out = LocalRuns({"DLCLOUD_HOME": str(place.folder / "home")}), io.StringIO()
    told = Output(out)
    code = watch(
        source, source.find("light"), told, told, plain=True, logs=None, command=lambda *words: " ".join(words)
    )
    assert code == 0, out.getvalue()
    assert "[rank 0] done" in out.getvalue() and "Succeeded after" in out.getvalue()


def test_objects_are_reached_through_a_server_that_runs_or_one_started_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with asyncio.Runner() as runner:
        store = EmbeddedStore(folder)
        runner.run(store.start())
        try:
            runner.run(store.ensure_bucket("bucket"))
            with embedded_server(folder) as access:
                assert (access.endpoint, access.secret_key) == (store.endpoint, store.secret_key)
            assert is_locked(folder), "the run's own server goes on"
        finally:
            runner.run(store.stop())
    with embedded_server(folder) as access:
        assert open_reader("s3://bucket/prefix/", access).list() == []
    assert not is_locked(folder)


def test_what_a_job_stored_is_removed_with_it(
    place: Place, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    uri = f"s3://{s3_server.make_bucket()}/tenant"
    make_run(place.folder / "home", job_view(uri=uri), endpoint=s3_server.endpoint)
    source = LocalRuns({"DLCLOUD_HOME": str(place.folder / "home")})
    record = source.find("digits")
    with source.access(record) as access:
        assert access is not None
        for name in ("head.json", "manifests/1.json", "attempts/000001-x/00000.bin"):
            put(access, record.checkpoint_prefix + name, b"x" * 10)
        put(access, f"{uri}/default/other/uid-2/head.json", b"{}")
    freed = source.remove(record, objects=True)
    assert "3 objects deleted" in freed[0] and "30 B" in freed[0]
    assert [info.key for info in open_reader(f"{uri}/", access).list()] == ["default/other/uid-2/head.json"]


def put(access: Access, uri: str, data: bytes) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = Minio(
        endpoint=access.endpoint.removeprefix("http://"),
        access_key=access.access_key,
        secret_key=access.secret_key,
        secure=False,
    )
    client.put_object(bucket, key, io.BytesIO(data), len(data))
