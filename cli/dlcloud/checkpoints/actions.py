"""`dlcloud checkpoints verify|get|pin|unpin|rm`: the tool's events as words for a user.

May import this package, formats and output. Nothing here decides about checkpoints: the tool does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..exits import EXIT_FAILED, EXIT_OK
from ..formats import Format, document_text
from ..home import short
from ..output import Output
from ..target import Target
from ..view.words import size
from .running import Refused, run
from .tool import EXPORT, Event

Ask = Callable[[str], bool]


def verify(target: Target, words: Sequence[str], form: Format, out: Output) -> int:
    """Say of every checkpoint whether it is sound; 1 when one is not."""
    found: list[Mapping[str, Any]] = []

    def told(event: Event) -> None:
        if event.kind == "checkpoint":
            found.append(event.fields)
            if not form.for_machines:
                out.line(_verdict(event.fields))

    result = run("verify", target, words, [], told)
    if form.for_machines:
        out.line(document_text(found, form))
    elif not result["sound"]:
        out.line(_advice(found))
    return EXIT_OK if result["sound"] else EXIT_FAILED


def _verdict(fields: Mapping[str, Any]) -> str:
    what = f"step {fields['step']}" if fields["step"] is not None else "head.json"
    if fields["sound"]:
        return f"{what}: OK ({size(fields['sizeBytes'])})"
    return f"{what}: damaged: {fields['problem']}"


def _advice(found: Sequence[Mapping[str, Any]]) -> str:
    sound = [fields["step"] for fields in found if fields["sound"]]
    damaged = sum(1 for fields in found if not fields["sound"])
    rest = f"the job would go on from step {sound[0]}" if sound else "nothing sound was found"
    return f"{damaged} of {len(found)} damaged; {rest}"


def get(target: Target, word: str, path: Path | None, *, only: str, force: bool, out: Output, err: Output) -> int:
    """Download a checkpoint; says where it lies and how it is used."""
    place = (path or Path(f"{target.name}-{word}")).expanduser()
    options = ["--out", str(place), *(["--only", only] if only else []), *(["--force"] if force else [])]
    try:
        result = run("get", target, [word], options, lambda event: None)
    except KeyboardInterrupt:
        err.line("interrupted; the same command goes on from what has come")
        raise
    kept = f", of it {size(result['keptBytes'])} from before" if result["keptBytes"] else ""
    out.line(f"step {result['step']}: {result['tensors']} tensors, {size(result['sizeBytes'])}{kept}")
    out.line(f"  {short(Path(result['file']).absolute())}")
    out.line(f"  {short(Path(result['state']).absolute())}")
    if only == "model":
        out.line(f"load: model.load_state_dict(safetensors.torch.load_file({result['file']!r}))")
    return EXIT_OK


def export(
    target: Target, word: str, path: Path | None, *, quantize: str, data: str, force: bool, out: Output, err: Output
) -> int:
    """Hand a checkpoint over as files in a folder; says what they are and how good the model is."""
    place = (path or Path(f"{target.name}-export")).expanduser()
    options = ["--out", str(place), "--quantize", quantize]
    options += [*(["--data", data] if data else []), *(["--force"] if force else [])]
    result = run("export", target, [word], options, _notice(err), EXPORT)
    out.line(f"{result['workload']}, step {result['step']}: {short(Path(result['folder']).absolute())}")
    width = max(len(file["name"]) for file in result["files"])
    for file in result["files"]:
        out.line(f"  {file['name']:{width}}  {size(file['sizeBytes']):>9}  {file['about']}")
    measured = {part: means.get("accuracy", means.get("loss")) for part, means in (result["metrics"] or {}).items()}
    for part, value in measured.items():
        if value is not None:
            what = "accuracy" if "accuracy" in result["metrics"][part] else "loss"
            out.line(f"{part} {what}: {value:.4f}")
    if result["checked"]:
        out.line(f"compared with torch: largest difference {result['checked']['largestDifference']:.1g}")
    if (cost := result["quantized"]) and "accuracy" in cost:
        out.line(f"int8: accuracy {cost['accuracy']:.4f} instead of {cost['accuracyFloat32']:.4f}")
    return EXIT_OK


def pin(target: Target, words: Sequence[str], pinned: bool, out: Output) -> int:
    """Set or take away the pin of these steps."""
    verb = "pin" if pinned else "unpin"
    result = run(verb, target, words, [], lambda event: None)
    steps = _steps(result["steps"])
    state = "pinned" if pinned else "not pinned"
    if result["already"]:
        out.line(f"{steps} {'was' if len(result['steps']) == 1 else 'were'} {state} already")
    else:
        out.line(f"{steps} {state}" + ("" if pinned else ": keepLast and keepBest decide with the job's next commit"))
    return EXIT_OK


def remove(
    target: Target, words: Sequence[str], *, force: bool, stopped: bool, ask: Ask | None, out: Output, err: Output
) -> int:
    """Remove checkpoints; `ask` is put the question when that is dangerous, else it is refused without `force`."""
    record = target.record
    if record is None and not stopped:
        raise Refused(
            f"{target.label}: from a URI it cannot be seen whether a job still works there; add --stopped when none "
            "does, or give the job's ID",
            force=False,
        )
    stopped = not record.running if record is not None else True
    options = ["--stopped"] if stopped else []
    try:
        result = run("rm", target, words, [*options, *(["--force"] if force else [])], _notice(err))
    except Refused as refusal:
        if not refusal.force:
            raise
        if ask is None:
            raise Refused(f"{refusal}; add --force to remove it all the same", force=True) from None
        if not ask(str(refusal)):
            out.line("nothing was removed")
            return EXIT_FAILED
        result = run("rm", target, words, [*options, "--force"], _notice(err))
    left = f"left: {', '.join(map(str, result['left']))}" if result["left"] else "none is left"
    out.line(f"{_steps(result['removed'])} removed; {left}")
    if not result["deleted"]:
        out.line("the job is not finished: what they occupy is freed after its next commit, by the job itself")
    return EXIT_OK


def _steps(steps: Sequence[int]) -> str:
    return f"step{'s' * (len(steps) != 1)} {', '.join(map(str, steps))}"


def _notice(err: Output) -> Callable[[Event], None]:
    def told(event: Event) -> None:
        if event.kind == "notice":
            err.line(event.fields["message"])

    return told
