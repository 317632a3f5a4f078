"""Words, overrides, store choice, run folders, log following and output that vanishes."""

from __future__ import annotations

import errno
import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dlcloud.home import home, make_run_folder
from dlcloud.logs import LogFollower
from dlcloud.objects import StoreError, open_reader
from dlcloud.output import Output
from dlcloud.overrides import apply_overrides
from dlcloud.store import given_access, store_need, with_store
from dlcloud.view.words import duration, metric_name, metric_value, size
from dlcloud_operator.api import InvalidManifest, Progress, TrainingJob
from dlcloud_operator.core.time_left import seconds_left

KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


def job(**spec: object) -> TrainingJob:
    document = {
        "metadata": {"name": "digits"},
        "spec": {"workload": "cnn", "data": {"uri": "builtin://digits"}, **spec},
    }
    return TrainingJob.model_validate(document)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (0.84, "0.8s"),
        (9.97, "10s"),
        (59.7, "1m00s"),
        (187, "3m07s"),
        (7500, "2h05m"),
        (timedelta(days=3, hours=4), "3d4h"),
    ],
)
def test_durations_are_short(span: float | timedelta, text: str) -> None:
    assert duration(span) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (5 * 2**20, "5.0 MiB"), (2**50, "1024 TiB")]
)
def test_sizes_have_a_unit(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


def test_the_eta_follows_from_the_rate() -> None:
    assert seconds_left(Progress(step=100, total_steps=300, samples=6400, samples_per_second=640)) == pytest.approx(20)


def test_without_a_rate_there_is_no_eta() -> None:
    assert seconds_left(Progress(step=100, total_steps=300, samples=6400)) is None


def test_metrics_read_as_words() -> None:
    assert (metric_name("validationLoss"), metric_value("testAccuracy", 0.9812)) == ("validation loss", "98.1%")


def test_settings_change_the_spec_as_yaml() -> None:
    changed = apply_overrides(job(), ["parameters.epochs=3", "workers.count=4", "spec.suspend=true"])
    assert (changed.spec.parameters["epochs"], changed.spec.workers.count, changed.spec.suspend) == (3, 4, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs", "give path=value"),
        ("workers.cuont=3", "cuont"),
        ("workers.count=many", "workers.count"),
        ("workload.x=1", "holds no fields"),
    ],
)
def test_a_wrong_setting_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidManifest, match=words):
        apply_overrides(job(), [text])


def test_buckets_come_from_every_s3_address() -> None:
    spec = {"checkpoint": {"uri": "s3://checkpoints/a"}, "data": {"uri": "s3://datasets/mnist"}}
    need = store_need(job(**spec))
    assert (need.buckets, need.reads) == (("checkpoints", "datasets"), True)


def test_a_job_of_files_needs_no_store() -> None:
    assert store_need(job(checkpoint={"uri": "file:///tmp/x"})).buckets == ()


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://x", "http://", "http://host/bucket"])
def test_an_endpoint_that_is_no_server_address_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidManifest, match="not an S3 server's address"):
        given_access(endpoint, "us-east-1", KEYS)


def test_missing_keys_are_named() -> None:
    with pytest.raises(InvalidManifest, match="AWS_SECRET_ACCESS_KEY not set"):
        given_access("http://h:1", "us-east-1", {"AWS_ACCESS_KEY_ID": "a"})


def test_the_local_server_takes_the_place_of_the_clusters() -> None:
    remote = job(objectStore={"endpoint": "http://minio.storage:9000", "credentialsSecret": "s3", "caConfigMap": "ca"})
    store = with_store(remote, given_access("http://127.0.0.1:8333/", "eu", KEYS)).spec.object_store
    assert (store.endpoint, store.region, store.ca_config_map) == ("http://127.0.0.1:8333", "eu", "")
    assert store.credentials_secret not in ("", "s3")


def test_the_home_folder_follows_its_variables() -> None:
    assert home({"DLCLOUD_HOME": "/x/y"}) == Path("/x/y")
    assert home({"XDG_DATA_HOME": "/data"}) == Path("/data/dlcloud")
    assert home({"XDG_DATA_HOME": "relative"}) == Path.home() / ".local/share/dlcloud"


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    first, second = (make_run_folder(tmp_path / "runs", "digits", now) for _ in range(2))
    assert first != second
    assert first.is_dir()
    assert second.is_dir()


def test_only_whole_new_lines_are_followed(tmp_path: Path) -> None:
    path, follower = tmp_path / "log", LogFollower()
    assert follower.poll([path]) == []
    path.write_bytes(b"one\ntw")
    assert follower.poll([path]) == ["one"]
    with path.open("ab") as file:
        file.write(b"o\n\xff\n")
    assert follower.poll([path]) == ["two", "\ufffd"]
    assert follower.poll([path]) == []


def test_a_progress_bar_shows_its_last_state(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b" 10%\r 50%\r100%\r\n")
    assert LogFollower().poll([path]) == ["100%"]


def test_a_flood_of_output_is_cut_to_its_newest_part(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%09d\n" % i for i in range(100_000)))
    lines = LogFollower().poll([path])
    assert lines[-1] == "000099999"
    assert len(lines) < 30_000


class FailingStream(io.StringIO):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def flush(self) -> None:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize(("code", "gone"), [(errno.EPIPE, True), (errno.EIO, True), (errno.ENOSPC, False)])
def test_output_survives_its_reader(code: int, gone: bool) -> None:
    out = Output(FailingStream(code))
    out.line("a")
    assert out.gone is gone


def test_output_writes_what_its_encoding_allows() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Output(stream).line("λ ok")
    assert raw.getvalue() == b"? ok\n"


def test_objects_of_a_folder_are_listed_by_key(tmp_path: Path) -> None:
    (tmp_path / "a b" / "metrics").mkdir(parents=True)
    (tmp_path / "a b" / "metrics" / "1.jsonl").write_text("{}")
    (tmp_path / "a b" / "head.json").write_text("{}")
    reader = open_reader(f"file://{tmp_path}/a%20b/", None)
    assert [info.key for info in reader.list()] == ["head.json", "metrics/1.jsonl"]
    assert reader.read("metrics/1.jsonl") == b"{}"
    assert reader.read("none") is None


def test_s3_without_a_server_says_how_to_name_one() -> None:
    with pytest.raises(StoreError, match="--endpoint"):
        open_reader("s3://bucket/prefix/", None)
