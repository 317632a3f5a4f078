"""Whether this machine is large enough for a manifest's workers. Pure.

May import the API and this package.
"""

from __future__ import annotations

from dlcloud_operator.api import TrainingJob, parse_quantity

from .findings import Finding, fail, ok, size_text, warn


def judge_size(job: TrainingJob, cores: float, free_bytes: int | None, gpus: int) -> Finding:
    """What the workers ask for beside what is here; local runs share CPU and memory, but not GPUs."""
    workers = job.spec.workers
    count = workers.count
    cpu, memory = count * parse_quantity(workers.cpu), count * parse_quantity(workers.memory)
    asked = f"{count} worker{'s' * (count != 1)} ask for {cpu:g} CPU, {size_text(memory)}"
    wanted = count * workers.gpus
    asked += f" and {wanted} GPU{'s' * (wanted != 1)}" if wanted else ""
    if wanted > gpus > 0:
        fitting = gpus // workers.gpus
        remedy = f"add --workers {fitting}" if fitting else f"add --set workers.gpus={gpus}"
        return fail(f"{asked}; this machine has {gpus}", remedy)
    remarks = []
    if wanted and not gpus:
        remarks.append("there is no NVIDIA GPU here, the CPU will be used")
    if cpu > cores * 1.01:
        remarks.append(f"there are {cores:g} cores, so the ranks share them")
    if free_bytes is not None and memory > free_bytes:
        remarks.append(f"{size_text(free_bytes)} of memory are free, so a job that uses what it asks for does not fit")
    if remarks:
        return warn(f"{asked}; {'; '.join(remarks)}", "fewer or smaller workers: --workers N, --set workers.memory=1Gi")
    return ok(f"{asked}: there is room")
