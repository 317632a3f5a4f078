"""Data from a real S3 server: read once by all ranks and rounds, checked, bounded, refused when it is not itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import RankServer
from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_colour_images
from dlcloud_trainer.data_tool.index import INDEX, Listed, index_text
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.objects import StoreUnusable
from dlcloud_trainer.parameters import TrainingParameters

from ...unit.trainer.data.made import BATCHES, cifar_files, folder_files, write_files
from ..checkpoint.proxy import Fault
from .conftest import DataPlace

PARAMETERS = TrainingParameters()
FILES = cifar_files(40)


def load(place: DataPlace) -> Any:
    return load_colour_images(place.uri, StoreAddress(place.endpoint), PARAMETERS)


def test_a_second_round_fetches_nothing_and_reads_the_same(place: DataPlace, tmp_path: Path) -> None:
    place.upload(FILES)
    first = load(place)
    assert place.fetched() == sorted(BATCHES)
    place.proxy.forget()
    second = load(place)
    assert place.fetched() == []
    here = load_colour_images(write_files(tmp_path / "here", FILES), StoreAddress(), PARAMETERS)
    for data in (first, second):
        assert torch.equal(data.train.images, here.train.images)
        assert torch.equal(data.test.labels, here.test.labels)
        assert data.normalisation == here.normalisation


def test_files_in_a_folder_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCLOUD_CACHE", str(tmp_path / "cache"))
    load_colour_images(write_files(tmp_path / "here", FILES), StoreAddress(), PARAMETERS)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_was_replaced_is_fetched_again_and_only_that(place: DataPlace) -> None:
    place.upload(FILES)
    load(place)
    changed = FILES["test_batch.bin"][:1] + bytes(3072) + FILES["test_batch.bin"][3073:]
    place.upload({"test_batch.bin": changed})
    assert not load(place).test.images[0].any()
    assert place.fetched() == ["test_batch.bin"]


def test_damage_in_the_cache_is_noticed_and_mended(place: DataPlace) -> None:
    place.upload(FILES)
    whole = load(place)
    for entry in place.entries():
        data = bytearray(entry.read_bytes())
        data[5000] ^= 1
        entry.write_bytes(data)
    place.proxy.forget()
    assert torch.equal(load(place).train.images, whole.train.images)
    assert place.fetched() == sorted(BATCHES)
    place.proxy.forget()
    load(place)
    assert place.fetched() == []


def test_the_ranks_of_a_pod_and_its_next_round_fetch_each_file_once(place: DataPlace, tmp_path: Path) -> None:
    place.upload(FILES)
    place.proxy.on("GET", "batch", Fault(delay_s=1.0))  # so that all ranks ask while the first one fetches
    job = {
        "workload": "cifar",
        "parameters": {"architecture": "conv32-64-64", "epochs": 1, "batchSize": 40, "augment": False},
        "data": {"uri": place.uri},
        "objectStore": {"endpoint": place.endpoint, "region": "us-east-1"},
    }
    with RankServer(tmp_path, env={**place.keys, "DLCLOUD_CACHE": str(place.cache)}) as server:
        for round in (1, 2):
            ranks = server.start_round(job, world_size=3, round=round)
            assert [rank.wait(100) for rank in ranks] == [0, 0, 0], ranks[0].log
            assert not any("cache" in rank.log for rank in ranks)
    assert place.fetched() == sorted(BATCHES)


def test_the_bound_is_kept_and_all_is_read(place: DataPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(FILES[BATCHES[0]])
    monkeypatch.setenv("DLCLOUD_CACHE_BYTES", str(3 * size + 4096))
    place.upload(FILES)
    assert len(load(place).test.labels) == 40
    assert 1 <= len(place.entries()) <= 3
    assert sum(path.stat().st_size for path in place.cache.iterdir()) <= 3 * size + 4096


def test_a_folder_that_cannot_be_used_costs_one_warning_and_no_training(
    place: DataPlace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DLCLOUD_CACHE", str(tmp_path / "file" / "cache"))
    place.upload(FILES)
    assert len(load(place).test.labels) == 40
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "the cache for data" in said[0]
    assert "Not a directory" in said[0]


def test_a_download_that_breaks_off_is_begun_again_and_whole(place: DataPlace) -> None:
    place.upload(FILES)
    place.proxy.on("GET", "data_batch_3", Fault(reply=0.5), times=1)
    whole = load(place)
    assert len(whole.train.labels) + len(whole.validation.labels) == 200
    place.proxy.forget()
    assert torch.equal(load(place).train.images, whole.train.images)
    assert place.fetched() == []


def test_a_store_that_goes_away_leaves_no_half_file(place: DataPlace) -> None:
    place.upload(FILES)
    rule = place.proxy.on("GET", "data_batch_3", Fault(status=503))
    with pytest.raises(StoreUnusable, match="503"):
        load(place)
    assert rule.met > 0
    assert place.entries(".part") == []
    place.proxy.clear()
    assert len(load(place).test.labels) == 40


def index_of(files: dict[str, bytes]) -> bytes:
    import hashlib

    return index_text(
        Listed(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    ).encode()


def test_what_the_index_says_of_a_file_is_checked(place: DataPlace) -> None:
    place.upload(FILES | {INDEX: index_of(FILES)})
    load(place)
    data = FILES["data_batch_2.bin"]
    place.upload({"data_batch_2.bin": bytes([data[0] ^ 1]) + data[1:]})
    with pytest.raises(InvalidInput, match=r"data_batch_2.bin: its SHA-256 is not what dlcloud-data.json says; upload"):
        load(place)
    place.upload({"data_batch_2.bin": data + data[:3073]})
    with pytest.raises(InvalidInput, match=r"data_batch_2.bin: \d+ bytes, dlcloud-data.json says \d+"):
        load(place)
    place.objects().delete("data_batch_2.bin")
    with pytest.raises(InvalidInput, match=r"data_batch_2.bin: the file is missing, dlcloud-data.json lists it"):
        load(place)


def test_what_the_index_does_not_list_is_no_part_of_the_set(place: DataPlace) -> None:
    images = folder_files()
    place.upload(FILES | images | {INDEX: index_of(images)})
    assert load(place).classes == ("blue", "green", "red")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"version": 2}', b'{"version": 1, "files": [{"name": "../x"}]}'])
def test_a_damaged_index_is_refused_by_name(place: DataPlace, text: bytes) -> None:
    place.upload(FILES | {INDEX: text})
    with pytest.raises(InvalidInput, match=r"dlcloud-data.json: .*upload"):
        load(place)
