"""torch, GPUs and forking, looked at by processes of the trainer: this program never imports torch.

May import this package.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ..local.gpus import visible_gpus
from .findings import Finding, Skipped, fail, ok, size_text, skip, warn
from .programs import Bench

_TORCH = "pip install 'dlcloud[trainer]'"
_CUDA_VERSION = re.compile(r"CUDA Version:\s*([0-9]+\.[0-9]+)")
_DRIVER = re.compile(r"Driver Version:\s*([0-9.]+)")


class TorchChecks:
    """The checks; torch is asked once."""

    def __init__(self, bench: Bench, environ: Mapping[str, str]) -> None:
        self._bench = bench
        self._environ = environ

    @cached_property
    def _facts(self) -> Mapping[str, Any]:
        ended = self._bench.python("dlcloud_trainer.checks.machine", env=self._environ)
        if ended.code is None:
            return {"error": f"torch could not be imported within {self._bench.limit_s:g} s", "slow": True}
        found = ended.objects()
        return found[0] if found else {"error": ended.last_words}

    def torch(self) -> Finding:
        """Version and build."""
        facts = self._facts
        if facts.get("slow"):
            return warn(str(facts["error"]), "a cold disk is slow the first time: run this again, with --limit 60")
        if "error" in facts:
            return fail(str(facts["error"]), f"install it anew: {_TORCH}")
        build = f"CUDA {facts['cuda']}" if facts["cuda"] else f"ROCm {facts['rocm']}" if facts["rocm"] else "CPU"
        threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
        text = f"{facts['torch']}, build for {build}, {threads}, imported in {facts['importS']:.1f} s"
        if not facts["gloo"]:
            return fail(f"{text}, without gloo", f"workers cannot talk to each other: {_TORCH}")
        return ok(text)

    def gpu(self) -> Finding:
        """Whether torch can compute on the GPUs there are."""
        here = visible_gpus(self._environ)
        hidden = self._environ.get("CUDA_VISIBLE_DEVICES")
        if not here and hidden is not None and visible_gpus({}):
            return warn(f"{len(visible_gpus({}))} here, hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset it")
        driver = self._driver()
        facts = self._facts
        if not here and not facts.get("gpus") and "Driver Version" not in driver:
            return skip("no NVIDIA GPU here: runs use the CPU")
        if "error" in facts:
            raise Skipped("torch cannot be imported")
        return judge_gpus(facts, len(here), driver)

    def fork(self, workload: str) -> Finding:
        """Whether a rank can be forked and computes."""
        ended = self._bench.python("dlcloud_trainer.checks.fork", workload, env=self._environ)
        steps = {str(step.get("step")): step for step in ended.objects()}
        wrong = next((step for step in steps.values() if not step.get("ok")), None)
        if wrong is not None:
            return fail(f"{wrong['step']}: {wrong['message']}", f"if torch is damaged: {_TORCH}; else report it")
        if ended.code is None:
            done = ", ".join(steps) or "nothing"
            return fail(f"not done within {self._bench.limit_s:g} s ({done} was)", "try again with --limit 60")
        if "fork" not in steps:
            return fail(ended.last_words, f"install it anew: {_TORCH}")
        times = (
            f"zygote ready in {steps['zygote']['seconds']:.1f} s, a fork computed in {steps['fork']['seconds']:.2f} s"
        )
        return ok(times)

    def _driver(self) -> str:
        """What nvidia-smi says; empty without it."""
        if shutil.which("nvidia-smi", path=self._environ.get("PATH")) is None:
            return ""
        try:
            ended = self._bench.run(["nvidia-smi"], env=self._environ)
        except OSError:
            return ""
        return ended.output + ended.errors


def judge_gpus(facts: Mapping[str, Any], devices: int, driver: str) -> Finding:
    """From what torch (`facts`) and nvidia-smi (`driver`) say, with `devices` GPUs visible by their files."""
    version, most = _first(_DRIVER, driver), _first(_CUDA_VERSION, driver)
    gpus = facts.get("gpus") or []
    count = max(devices, len(gpus))
    plural = "s" * (count != 1)
    about = f"driver {version}, for CUDA up to {most}" if version and most else "no driver that nvidia-smi knows"
    if facts["rocm"]:
        return warn(f"{count} NVIDIA GPU{plural} here, torch is built for ROCm", f"install a CUDA build: {_TORCH}")
    if not facts["cuda"]:
        text = f"{count} NVIDIA GPU{plural} here ({about}), but torch is built for the CPU"
        return warn(text, "install a CUDA build of torch (https://pytorch.org/get-started)")
    if facts.get("gpuError") or not gpus:
        why = facts.get("gpuError") or "torch finds none"
        if most and _number(facts["cuda"])[0] > _number(most)[0]:
            remedy = f"torch needs CUDA {facts['cuda']}: update the driver, or install a torch build for CUDA {most}"
        elif not version:
            remedy = "install NVIDIA's driver; in a container, start it with the NVIDIA runtime (--gpus all)"
        else:
            remedy = "look at nvidia-smi and dmesg; another program may hold the GPU, or the driver needs a restart"
        return fail(
            f"{count} NVIDIA GPU{plural} here ({about}), but torch {facts['torch']} cannot use it: {why}", remedy
        )
    broken = [str(number) for number, gpu in enumerate(gpus) if not gpu["computes"]]
    if broken:
        return fail(f"GPU {', '.join(broken)} computes wrong sums", "take it out with CUDA_VISIBLE_DEVICES")
    names = ", ".join(sorted({str(gpu["name"]) for gpu in gpus}))
    memory = f"{size_text(min(gpu['freeBytes'] for gpu in gpus))} free of {size_text(gpus[0]['totalBytes'])}"
    text = f"{len(gpus)} x {names}, {memory}, {about}, a product computed on each"
    return ok(text) if facts["nccl"] else warn(f"{text}; torch has no NCCL", "several GPUs will use gloo, slowly")


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text)) or (0,)
