"""A run as a screen of at most `height` lines of at most `width` columns, drawn again several times a second.

May import rich, the API and this package. Pure: a snapshot in, one text out. Never more than fits: rich would scroll.
"""

from __future__ import annotations

from rich.text import Text

from dlcloud_operator.api import Phase
from dlcloud_operator.core.model import RankState
from dlcloud_operator.core.time_left import seconds_left

from .snapshot import RankRow, Snapshot
from .words import clock, duration, metric_texts, number, printable, size

_PHASE_STYLES = {
    Phase.RUNNING: "bold green",
    Phase.SUCCEEDED: "bold green",
    Phase.RESTARTING: "bold yellow",
    Phase.SUSPENDED: "bold yellow",
    Phase.FAILED: "bold red",
}
_STATE_STYLES = {RankState.RUNNING: "green", RankState.STARTING: "yellow", RankState.ENDED: "dim"}
_QUIET_SHOWN_S = 7.0  # agents report every 5 s: below that, silence says nothing


def render(now: Snapshot, width: int, height: int, *, final: bool = False) -> Text:
    """The screen, what matters most first: that is kept on a small terminal. The final one is of facts alone."""
    lines = [_headline(now)]
    if now.stopping and not final:
        lines.append(Text(now.stopping, style="bold yellow"))
    elif now.message:
        lines.append(Text(now.message, style="" if now.phase is Phase.RUNNING else "yellow"))
    lines += _progress_lines(now, width)
    room = max(0, height - len(lines))
    ranks, events, log = _share(room, len(now.ranks), len(now.events), len(now.log))
    lines += _rank_lines(now.ranks, ranks, width)
    if final:
        events = log = 0
    if events > 1:
        lines.append(Text("events", style="dim"))
        lines += [_event_line(now, i) for i in range(len(now.events) - events + 1, len(now.events))]
    if log > 1:
        lines.append(Text("output", style="dim"))
        lines += [Text(printable(line)) for line in now.log[-(log - 1) :]]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines[:height])


def _headline(now: Snapshot) -> Text:
    text = Text(now.name, style="bold")
    text.append(f"  {now.phase or 'Starting'}", style=_PHASE_STYLES.get(now.phase, "bold") if now.phase else "bold")
    text.append(f"  {duration(now.elapsed)}", style="dim")
    if now.workers:
        text.append(f"  workers {now.workers}")
    if now.round_number > 1:
        text.append(f"  round {now.round_number}", style="dim")
    if now.restarts:
        text.append(f"  restarts {now.restarts}", style="yellow")
    return text


def _progress_lines(now: Snapshot, width: int) -> list[Text]:
    progress = now.progress
    lines = []
    if progress is not None and progress.step:
        if progress.total_steps:
            lines.append(_bar(progress.step, progress.total_steps, now, width))
        facts = []
        if progress.loss is not None:
            facts.append(f"loss {number(progress.loss)}")
        facts += metric_texts(progress.metrics)
        if progress.samples_per_second:
            facts.append(f"{progress.samples_per_second:,.0f} samples/s")
        if not progress.total_steps:
            facts.insert(0, f"step {progress.step}")
        if facts:
            lines.append(Text("  ".join(facts)))
    if now.checkpoint is not None:
        age = duration(max(0.0, (now.now - now.checkpoint.committed_at).total_seconds()))
        what = f"checkpoint at step {now.checkpoint.step}, {age} ago"
        lines.append(Text(what + (f", {size(now.checkpoint.size_bytes)}" if now.checkpoint.size_bytes else "")))
    return lines


def _bar(step: int, total: int, now: Snapshot, width: int) -> Text:
    progress = now.progress
    head = f"epoch {progress.epoch}/{progress.epochs} " if progress and progress.epoch is not None else ""
    share = min(1.0, step / total)
    left = seconds_left(progress) if progress else None
    running = now.phase not in (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)
    tail = f" {share:4.0%} step {step}/{total}" + (f" eta {duration(left)}" if left and running else "")
    cells = max(5, min(50, width - len(head) - len(tail)))
    filled = round(share * cells)
    return Text.assemble(head, ("━" * filled, "green"), ("━" * (cells - filled), "bright_black"), tail)


def _share(room: int, ranks: int, events: int, log: int) -> tuple[int, int, int]:
    """Lines for ranks, events and output, the latter two with their headings; ranks first, then events get half."""
    for_ranks = min(ranks, max(0, room - 2), max(2, room // 2)) if ranks else 0
    room -= for_ranks
    for_log = min(log + 1, room) if log else 0
    for_events = min(events + 1, max(room - for_log, room // 2)) if events else 0
    for_log = min(for_log, room - for_events)
    return for_ranks, for_events, for_log


def _rank_lines(ranks: tuple[RankRow, ...], room: int, width: int) -> list[Text]:
    if room <= 0:
        return []
    shown = ranks if len(ranks) <= room else ranks[: max(0, room - 1)]
    lines = [_rank_line(row) for row in shown]
    if len(shown) < len(ranks):
        hidden = ranks[len(shown) :]
        counts = {state: sum(1 for row in hidden if row.state is state) for state in RankState}
        lines.append(
            Text(f"… {len(hidden)} more: " + ", ".join(f"{n} {s}" for s, n in counts.items() if n), style="dim")
        )
    return lines


def _rank_line(row: RankRow) -> Text:
    text = Text(f"rank {row.rank:<3} worker {row.worker:<3} ")
    text.append(f"{row.state.value:<9}", style=_STATE_STYLES[row.state])
    if row.step is not None:
        text.append(f" step {row.step:<7}")
    if row.steps_per_second is not None and row.state is RankState.RUNNING:
        text.append(f" {row.steps_per_second:6.1f} steps/s")
    if row.quiet_s is not None and row.quiet_s > _QUIET_SHOWN_S and row.state is RankState.RUNNING:
        text.append(f" quiet for {duration(row.quiet_s)}", style="yellow")
    return text


def _event_line(now: Snapshot, index: int) -> Text:
    event = now.events[index]
    style = "yellow" if event.warning else ""
    return Text.assemble((clock(event.at), "dim"), "  ", (f"{event.reason}: {printable(event.message)}", style))
