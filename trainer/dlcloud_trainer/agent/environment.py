"""The environment of a rank: torchrun's variables and our own. A pure function.

May import the standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .values import Assignment

UNLIMITED_RESTARTS = 1000  # how many there may be is the operator's business; scripts only ever compare


def rank_environment(assignment: Assignment, rank: int, local_rank: int) -> dict[str, str]:
    """What is set for one rank beside the pod's own environment, without DLCLOUD_EVENTS_FD."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(assignment.world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(len(assignment.ranks)),
        "GROUP_RANK": str(assignment.worker),
        "GROUP_WORLD_SIZE": str(assignment.workers),
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(assignment.world_size),
        "ROLE_NAME": "default",
        "MASTER_ADDR": assignment.master_addr,
        "MASTER_PORT": str(assignment.master_port),
        "OMP_NUM_THREADS": str(assignment.threads),
        "TORCHELASTIC_RESTART_COUNT": str(assignment.restarts),
        "TORCHELASTIC_MAX_RESTARTS": str(max(UNLIMITED_RESTARTS, assignment.restarts)),
        "TORCHELASTIC_RUN_ID": str(assignment.job.get("uid", "")),
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # rank 0 hosts the store itself
        "DLCLOUD_ROUND": str(assignment.round),
        "DLCLOUD_NONCE": assignment.nonce,
        "DLCLOUD_ASSIGNMENT": assignment.text,
    }
