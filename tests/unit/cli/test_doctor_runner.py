"""Checks run side by side and bounded, and their lines come in a stable order."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlcloud.doctor.findings import Check, Finding, Skipped, State, fail, ok, skip
from dlcloud.doctor.programs import Bench
from dlcloud.doctor.runner import Result, run_checks
from dlcloud.doctor.show import Lines, document, summary
from dlcloud.jobs.errors import JobsError
from dlcloud.output import Output


def check(name: str, look: Callable[[], Finding], lane: str = "") -> Check:
    return Check(name, lane or name, look)


def test_results_come_in_the_order_of_the_list_not_of_the_clock() -> None:
    second_done = threading.Event()

    def first() -> Finding:
        assert second_done.wait(10)
        return ok("1")

    def second() -> Finding:
        second_done.set()
        return ok("2")

    results = list(run_checks([check("first", first), check("second", second)], 10))
    assert [result.finding.message for result in results] == ["1", "2"]


def test_a_check_that_hangs_fails_and_those_behind_it_still_run() -> None:
    for_ever = threading.Event()

    def hang() -> Finding:
        for_ever.wait(60)
        return ok("never")

    began = time.monotonic()
    results = list(run_checks([check("hangs", hang, "lane"), check("next", lambda: ok("here"), "lane")], 0.2))
    for_ever.set()
    assert [result.finding.state for result in results] == [State.FAIL, State.OK]
    assert "no answer within 0.2 s" in results[0].finding.message
    assert time.monotonic() - began < 10


def raises(error: Exception) -> Callable[[], Finding]:
    def look() -> Finding:
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "finding"),
    [
        (JobsError("it is so; do this; and that"), fail("it is so", "do this; and that")),
        (Skipped("needs the API server"), skip("needs the API server")),
        (ZeroDivisionError("x"), fail("this check itself failed: ZeroDivisionError: x", "please report it")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_check_raises_is_its_finding(error: Exception, finding: Finding) -> None:
    (result,) = run_checks([check("a", raises(error))], 10)
    assert result.finding == finding


def test_a_program_is_ended_at_the_limit_with_all_it_started(tmp_path: Path) -> None:
    with Bench(0.5) as bench:
        ended = bench.run(["sh", "-c", "sleep 60 & echo started; sleep 60"])
    assert (ended.code, ended.output) == (None, "started\n")


def test_leaving_the_bench_ends_a_program_and_removes_the_folder() -> None:
    ends: list[float] = []
    with Bench(60) as bench:
        folder = bench.folder()
        (folder / "file").touch()
        thread = threading.Thread(target=lambda: (bench.run(["sleep", "60"]), ends.append(time.monotonic())))
        thread.start()
        give_up = time.monotonic() + 10
        while not bench.running and time.monotonic() < give_up:
            time.sleep(0.01)
    thread.join(10)
    assert ends and not folder.exists()


RESULTS = [
    Result(check("one", lambda: ok("")), ok("all\nis well"), 0.1),
    Result(check("longer", lambda: ok("")), fail("it is not", "mend it"), 0.25),
]


def test_away_from_a_terminal_each_finding_is_one_plain_line() -> None:
    stream = io.StringIO()
    lines = Lines(Output(stream), stream, ["one", "longer"])
    for result in RESULTS:
        lines.waiting(result.check.name)
        lines.show(result)
    lines.close(RESULTS)
    assert stream.getvalue().splitlines() == [
        "ok   one     all is well",
        "fail longer  it is not",
        "             -> mend it",
        "",
        "1 ok, 1 failed: runs will fail until the failed ones are mended",
    ]


def test_machines_get_the_same_in_one_document() -> None:
    found = document("local", RESULTS)
    assert (found["ok"], [entry["state"] for entry in found["checks"]]) == (False, ["ok", "fail"])
    assert found["checks"][1] == {
        "name": "longer", "state": "fail", "message": "it is not", "remedy": "mend it", "seconds": 0.25
    }  # fmt: skip


def test_warnings_are_no_failure() -> None:
    results = [Result(RESULTS[0].check, Finding(State.WARN, "slow"), 0.0)]
    assert summary(results) == "0 ok, 1 warning: nothing is in the way of a run"
    assert document("local", results)["ok"] is True
