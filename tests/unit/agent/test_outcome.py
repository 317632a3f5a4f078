"""How ends are judged, and which words are kept."""

from __future__ import annotations

import signal

import pytest

from dlcloud_operator.api import Outcome
from dlcloud_trainer.agent import outcome
from dlcloud_trainer.agent.outcome import BY_EXIT_CODE, SEVERITY, Ending, judge, last_words, shorten, shorten_start


def test_every_outcome_is_a_word_of_the_api() -> None:
    assert set(SEVERITY) == {word.value for word in Outcome} - {"PodLost", "Preempted"}


@pytest.mark.parametrize(("code", "word"), sorted(BY_EXIT_CODE.items()))
def test_our_exit_codes_mean_what_the_table_says(code: int, word: str) -> None:
    assert judge(Ending(code, script=False))[0] == word


@pytest.mark.parametrize("code", [1, 2, 64, 72, 75, 255])
def test_a_scripts_exit_codes_mean_error(code: int) -> None:
    assert judge(Ending(code, script=True, tail="bad"))[0:2] == ("Error", "bad")


def test_an_unknown_code_of_ours_is_an_error() -> None:
    assert judge(Ending(99, script=False)) == ("Error", "exit code 99 without a word")


def test_the_failed_line_wins_over_the_exit_code_and_over_our_own_kill() -> None:
    killed = Ending(-9, script=False, failed=("Stalled", "step"), sent=frozenset({9}), stopping=True)
    assert judge(killed) == ("Stalled", "step")


@pytest.mark.parametrize("word", ["Succeeded", "PodLost", "nonsense"])
def test_a_failed_line_cannot_claim_what_no_rank_can_know(word: str) -> None:
    assert judge(Ending(1, script=False, failed=(word, "x")))[0] == "Error"


def test_a_rank_killed_for_a_newer_round_is_stopped() -> None:
    assert judge(Ending(-9, script=False, sent=frozenset({9}), stopping=True)) == ("Stopped", "")


def test_a_signal_nobody_here_sent_is_named() -> None:
    word, message = judge(Ending(-11, script=True, tail="Fatal Python error"))
    assert (word, message) == ("Signal", "ended by SIGSEGV (signal 11): Fatal Python error")


def test_sigkill_with_an_oom_kill_is_out_of_memory_and_other_signals_are_not() -> None:
    assert judge(Ending(-9, script=True, oom_kills=1))[0] == "OutOfMemory"
    assert judge(Ending(-11, script=True, oom_kills=1))[0] == "Signal"


def test_a_failure_beside_an_oom_kill_names_it() -> None:
    word, message = judge(Ending(1, script=True, oom_kills=1, tail="DataLoader worker killed"))
    assert word == "Error"
    assert message == "the kernel killed a process of this pod for its memory limit: DataLoader worker killed"


@pytest.mark.parametrize("code", [-signal.SIGTERM, -signal.SIGKILL, 1, 143])
def test_a_script_that_ends_after_sigterm_to_the_pod_is_stopped(code: int) -> None:
    ending = Ending(code, script=True, draining=True, sent=frozenset({signal.SIGTERM, signal.SIGKILL}))
    assert judge(ending)[0] == "Stopped"


def test_a_rank_of_ours_that_fails_while_draining_keeps_its_outcome() -> None:
    assert judge(Ending(77, script=False, draining=True))[0] == "StoreUnusable"


TRACEBACK = b"""step 1
Traceback (most recent call last):
  File "train.py", line 3, in <module>
    f()
ValueError: wrong
"""


def test_the_last_words_of_a_python_program_are_its_traceback() -> None:
    assert last_words(TRACEBACK) == TRACEBACK.decode().split("\n", 1)[1].strip()


def test_of_chained_tracebacks_the_last_is_kept() -> None:
    chained = TRACEBACK + b"\nDuring handling of the above exception, another exception occurred:\n\n" + TRACEBACK
    assert last_words(chained.replace(b"wrong\n", b"first\n", 1)).count("Traceback") == 1
    assert last_words(chained).endswith("ValueError: wrong")


def test_much_noise_after_the_exception_is_dropped_and_a_long_exception_is_not() -> None:
    assert last_words(TRACEBACK + b"W noise\n" * 20).endswith("ValueError: wrong")
    assert last_words(TRACEBACK + b"  field required\n").endswith("field required")


def test_the_prefix_of_torchs_own_excepthook_does_not_hide_a_traceback() -> None:
    prefixed = b"".join(b"[rank0]: " + line + b"\n" for line in TRACEBACK.splitlines()[1:])
    assert last_words(b"step\n" + prefixed).startswith("Traceback (most recent call last):\n  File")
    assert last_words(b"step\n" + prefixed).endswith("ValueError: wrong")


def test_without_a_traceback_the_last_lines_are_kept() -> None:
    words = last_words(b"".join(b"line %d\n" % number for number in range(1000)))
    assert words.endswith("line 999")
    assert words.startswith("...\nline ")
    assert len(words.encode()) <= 1024


def test_a_long_traceback_keeps_its_end() -> None:
    frames = b'  File "x.py", line 1, in f\n    f()\n' * 100
    words = last_words(b"Traceback (most recent call last):\n" + frames + b"RecursionError: deep\n")
    assert len(words.encode()) <= 1024
    assert words.endswith("RecursionError: deep")


def test_bytes_that_are_no_text_make_no_trouble() -> None:
    assert "abc" in last_words(b"\xff\xfeabc\n")


@pytest.mark.parametrize("text", ["é" * 2000, "x" * 2000, "line\n" * 500])
def test_shortening_keeps_whole_characters_within_the_limit(text: str) -> None:
    assert len(shorten(text, 1024).encode()) <= 1024
    assert len(shorten_start(text, 1024).encode()) <= 1024
    assert shorten(text, 1024).endswith(" ...")
    assert shorten_start(text, 1024).startswith("...")


def test_the_module_knows_every_name_it_uses() -> None:
    names = {value for name, value in vars(outcome).items() if name.isupper() and value in SEVERITY}
    assert names == set(SEVERITY)
