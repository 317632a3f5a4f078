"""The ranks of a round: how they find each other, and the few collectives the loop needs.

May import torch and checkpoint's values. Never a collective of Python objects (it unpickles what a peer sends), never
one before the nonce was compared: a process of an older round may still answer at the same address.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed has them, and does not say so
from torch.nn.parallel import DistributedDataParallel

from .assignment import Assignment, Place
from .checkpoint import Restored, Stateful
from .checkpoint.spread import Spread
from .checkpoint.state import Target
from .errors import PeerLost, StaleRound
from .lifeline import Connection, Lifeline, connections, seen_from_there, to_peers

NONCE_KEY = "dlcloud/nonce"
POLL_S = 0.005
PIECE_BYTES = 16 << 20
COLLECTIVE_LIMIT_S = 3600.0  # the operator's step limit comes first; this one is for a pod whose operator is gone
SIOCGIFADDR = 0x8915

T = TypeVar("T")


class Group:
    """The ranks that train together; one rank alone needs no process group, and has none."""

    def __init__(
        self,
        place: Place,
        device: torch.device,
        store: Store | None = None,
        lifeline: Lifeline | None = None,
        processes: dist.ProcessGroup | None = None,
    ) -> None:
        """`processes`: a group for these collectives alone; by default torch's own."""
        self.rank, self.world_size, self._device = place.rank, place.world_size, device
        self._processes = processes
        self._store = store  # rank 0's holds the server: it lives as long as the group
        self._lifeline = lifeline

    @property
    def alone(self) -> bool:
        """One rank only."""
        return self.world_size == 1

    def sum(self, values: Tensor) -> Tensor:
        """The values (on the CPU) added up over all ranks, in place."""
        if not self.alone:
            dist.all_reduce(values, group=self._processes)
        return values

    def sum_later(self, values: Tensor) -> dist.Work | None:
        """The same in the background; of a rank that is not alone."""
        work: dist.Work | None = dist.all_reduce(values, group=self._processes, async_op=True)
        return work

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum(torch.zeros(1))

    def part(self) -> None:
        """After the last collective: from now on a peer may leave."""
        if self._lifeline is not None:
            self._lifeline.release()

    def share(self, restored: Restored | None, parts: Mapping[str, Stateful]) -> bool:
        """Rank 0's restored state into every rank's parts: in pieces, so that no rank ever holds it twice. False on
        every rank when there is none.
        """
        if self.alone:
            return restored is not None
        header = b"" if restored is None else restored.header()
        size = torch.tensor([len(header)])
        dist.broadcast(size, 0, group=self._processes)
        if size.item() == 0:
            return False
        text = torch.frombuffer(bytearray(header or int(size.item())), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self._processes)
        target = Target(parts)
        if restored is None:
            restored = Restored.announced(text.numpy().tobytes(), target.place)
        row = Spread(restored.tensors, restored.specs)
        buffer = torch.empty(min(PIECE_BYTES, row.size_bytes), dtype=torch.uint8)
        for start in range(0, row.size_bytes, PIECE_BYTES):
            piece = buffer[: row.size_bytes - start]
            if self.rank == 0:
                row.gather(start, piece)
            dist.broadcast(piece, 0, group=self._processes)
            if self.rank != 0:
                row.scatter(start, piece)
        if self.rank != 0:
            target.finish()
        return True

    def tell(self, data: bytes) -> bytes:
        """Rank 0's bytes on every rank."""
        if self.alone:
            return data
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, group=self._processes)
        text = torch.frombuffer(bytearray(data if self.rank == 0 else int(size.item())), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self._processes)
        return text.numpy().tobytes()

    def hand_out(self, model: nn.Module) -> None:
        """Rank 0's weights and buffers into every rank's model."""
        if not self.alone:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0, group=self._processes)

    def align(self, model: nn.Module) -> None:
        """Rank 0's buffers (running statistics) on every rank: those a checkpoint has. DDP does it before each forward
        of a training, and leaves the ranks different after the last one.
        """
        if not self.alone:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0, group=self._processes)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward averages the gradients over all ranks. Every rank already has the same weights."""
        if self.alone:
            return model
        ids = [self._device] if self._device.type == "cuda" else None
        # torch says so of a convolution of one channel, too: strides of a dimension of size 1, which mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # The weights come from one seed or one checkpoint: sending them once more would cost the size of the model.
        return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, init_sync=False)


@dataclass(frozen=True)
class Agreed(Generic[T]):
    """What all ranks know about an earlier step. `loss` is the mean over its samples, None when nobody asked; `pause`:
    somebody keeps the others waiting before the next step.
    """

    stop: bool
    pause: bool
    loss: float | None
    about: T


class Agreement(Generic[T]):
    """Tells every rank, one step later, whether any of them wants to stop or to pause: so all do after the same step,
    and no step waits.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._pending: tuple[dist.Work | None, Tensor, bool, T] | None = None

    def exchange(self, *, stop: bool, pause: bool, loss: Tensor | None, about: T) -> Agreed[T] | None:
        """Say something about this step, and hear about the one before (None at the first); of a rank alone, about this
        one. Reading a loss on a GPU waits for it.
        """
        if self._group.alone:
            return Agreed(stop, pause, None if loss is None else loss.item(), about)
        values = torch.tensor([stop, pause, 0.0 if loss is None else loss.item()], dtype=torch.float64)
        work = self._group.sum_later(values)
        before = self.settle()
        self._pending = (work, values, loss is not None, about)
        return before

    def ahead(self) -> Agreed[T] | None:
        """Hear the last step's loss before the next one; whether to stop or to pause is left for `exchange`, which does
        not tell this loss again.
        """
        if self._pending is None:
            return None
        work, values, has_loss, about = self._pending
        if work is not None:
            work.wait()
        self._pending = (None, values, False, about)
        return Agreed(False, False, values[2].item() / self._group.world_size if has_loss else None, about)

    def settle(self) -> Agreed[T] | None:
        """Hear about the last step said, None when it was heard."""
        if self._pending is None:
            return None
        (work, values, has_loss, about), self._pending = self._pending, None
        if work is not None:
            work.wait()
        stop, pause, loss = values.tolist()
        return Agreed(stop > 0, pause > 0, loss / self._group.world_size if has_loss else None, about)


def choose_device(place: Place) -> torch.device:
    """The pod's GPU of this rank, else the CPU."""
    if torch.cuda.is_available() and place.local_rank < torch.cuda.device_count():
        device = torch.device("cuda", place.local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def join(assignment: Assignment, place: Place, device: torch.device, on_lost: Callable[[BaseException], None]) -> Group:
    """Meet the other ranks within `init_s`; raises `PeerLost`, `StaleRound` or what torch raises.

    `on_lost` is called from a thread when a peer is gone and the main thread does not hear of it.
    """
    if place.world_size == 1:
        return Group(place, device)
    address, port, limit = assignment.master_addr, assignment.master_port, timedelta(seconds=assignment.init_s)
    if place.rank != 0:
        _wait_for_listener(address, port, assignment.init_s)
    store = TCPStore(address, port, is_master=place.rank == 0, wait_for_workers=False, timeout=limit)
    if place.rank == 0:
        store.set(NONCE_KEY, assignment.nonce)
    elif (found := store.get(NONCE_KEY).decode(errors="replace")) != assignment.nonce:
        raise StaleRound(f"{address}:{port} belongs to the round of nonce {found!r}, this rank to {assignment.nonce!r}")
    _name_interface(address, port)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    before = connections()
    dist.init_process_group(
        backend,
        store=PrefixStore(assignment.nonce, store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=COLLECTIVE_LIMIT_S),
        device_id=device if device.type == "cuda" else None,
    )
    lost = PeerLost("another rank closed its connection, and the collective in progress was not told")
    return Group(place, device, store, Lifeline(_shared(connections() - before, store, place), lambda: on_lost(lost)))


def _shared(mine: frozenset[Connection], store: Store, place: Place) -> frozenset[Connection]:
    """The connections that lead to other ranks: each tells the others what it has."""
    store.set(f"dlcloud/connections/{place.rank}", seen_from_there(mine))
    keys = [f"dlcloud/connections/{rank}" for rank in range(place.world_size) if rank != place.rank]
    return to_peers(mine, [store.get(key).decode() for key in keys])


def _wait_for_listener(address: str, port: int, limit_s: float) -> None:
    """torch's client pauses a second and more after its first refused connection; this looks every few milliseconds."""
    end = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection((address, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise PeerLost(f"rank 0 at {address}:{port} did not answer within {limit_s:.0f} s: {error}") from None
        time.sleep(POLL_S)


def _name_interface(address: str, port: int) -> None:
    """Have gloo and NCCL use the interface that leads to rank 0: gloo's own choice is whatever the host's name resolves
    to.
    """
    name = interface_to(address, port)
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def interface_to(address: str, port: int) -> str | None:
    """The network interface with the IPv4 address that packets to `address` leave from, None when it cannot be told."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                reply = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if reply[20:24] == own:
                    return name
    return None
