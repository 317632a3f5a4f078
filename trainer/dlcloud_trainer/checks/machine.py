"""What torch sees of this machine: `python -m dlcloud_trainer.checks.machine`. One line of JSON.

May import torch. It computes on each GPU: a driver that shows a GPU may still be unable to use it.
"""

from __future__ import annotations

from typing import Any

from .lines import one_line, tell, timed


def main() -> None:
    """Write the facts, `error` instead of them when torch cannot be imported."""
    with timed() as seconds:
        try:
            import torch
        except Exception as error:  # whatever a broken installation raises
            tell(error=one_line(error))
            return
        facts: dict[str, Any] = {
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "",
            "rocm": getattr(torch.version, "hip", None) or "",
            "threads": torch.get_num_threads(),
            "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
            "nccl": torch.distributed.is_available() and torch.distributed.is_nccl_available(),
            "importS": seconds(),
        }
    tell(**facts, **_gpus(torch) if facts["cuda"] else {"gpus": [], "gpuError": ""})


def _gpus(torch: Any) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    error = ""
    try:
        torch.cuda.init()
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            ones = torch.ones(64, 64, device=f"cuda:{number}")
            value = float((ones @ ones).sum())
            free, total = torch.cuda.mem_get_info(number)
            found.append({"name": about.name, "freeBytes": free, "totalBytes": total, "computes": value == 64.0**3})
    except Exception as failure:  # a driver's errors have no common class
        error = one_line(failure)
    return {"gpus": found, "gpuError": error}


if __name__ == "__main__":
    main()
