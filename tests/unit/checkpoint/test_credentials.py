"""Where keys come from, in which order, and that half of a rotation is never used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dlcloud_trainer.objects import AccessDenied, CredentialsMissing, StoreUnusable
from dlcloud_trainer.objects.credentials import Keys, MountedKeys, StaticKeys
from dlcloud_trainer.objects.opening import find_keys
from dlcloud_trainer.objects.web_identity import Lent, Role, WebIdentityKeys

WHAT = "checkpoint.uri"
STATIC = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
IDENTITY = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"}


def mount(folder: Path, version: str, **values: str) -> None:
    """Exchange a Secret's files as the kubelet does."""
    new = folder / f"..{version}"
    new.mkdir(parents=True)
    for name, value in values.items():
        (new / f"AWS_{name}").write_text(value)
    link = folder / "..new"
    link.symlink_to(new.name)
    link.replace(folder / "..data")


def keys(number: int, token: str = "") -> dict[str, str]:
    return {"ACCESS_KEY_ID": f"id-{number}", "SECRET_ACCESS_KEY": f"secret-{number}", "SESSION_TOKEN": token}


def find(**environ: str) -> object:
    return find_keys(environ, region="eu-1", ca=None, what=WHAT)


def test_mounted_files_come_first_then_the_environment_then_the_web_identity() -> None:
    everything = {"DLCLOUD_STORE_CREDENTIALS_DIR": "/d", **STATIC, **IDENTITY}
    assert isinstance(find(**everything), MountedKeys)
    assert isinstance(find(**STATIC, **IDENTITY), StaticKeys)
    assert isinstance(find(**IDENTITY), WebIdentityKeys)
    assert find() is None


def test_a_key_without_its_secret_is_named() -> None:
    with pytest.raises(CredentialsMissing, match="AWS_SECRET_ACCESS_KEY is missing"):
        find(AWS_ACCESS_KEY_ID="id")


def test_a_web_identity_without_a_role_is_named() -> None:
    with pytest.raises(CredentialsMissing, match="AWS_ROLE_ARN is missing beside AWS_WEB_IDENTITY_TOKEN_FILE"):
        find(AWS_WEB_IDENTITY_TOKEN_FILE="/token")
    assert find(AWS_WEB_IDENTITY_TOKEN_FILE="/token", AWS_ENDPOINT_URL_STS="http://minio:9000") is not None


def test_a_token_service_that_is_no_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(StoreUnusable, match="AWS_ENDPOINT_URL_STS: it is no address") as caught:
        find(**IDENTITY, AWS_ENDPOINT_URL_STS="http://user:hidden@sts")
    assert "hidden" not in str(caught.value)


def test_exchanged_files_are_read_again(tmp_path: Path) -> None:
    mount(tmp_path, "1", **keys(1, "token"))
    source = MountedKeys(tmp_path, WHAT)
    assert source.get() == Keys("id-1", "secret-1", "token")
    mount(tmp_path, "2", **keys(2))
    assert source.get() == Keys("id-2", "secret-2")


def test_files_that_are_no_mount_are_read_again_too(tmp_path: Path) -> None:
    for name, value in keys(1).items():
        (tmp_path / f"AWS_{name}").write_text(value + "\n")
    source = MountedKeys(tmp_path, WHAT)
    assert source.get() == Keys("id-1", "secret-1")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("another")
    assert source.get() == Keys("id-1", "another")


def test_half_a_pair_is_never_used(tmp_path: Path) -> None:
    mount(tmp_path, "0", **keys(0))
    source = MountedKeys(tmp_path, WHAT)
    done = threading.Event()

    def rotate() -> None:
        for number in range(1, 300):
            before = (tmp_path / "..data").readlink()
            mount(tmp_path, str(number), **keys(number, "t" * (number % 2)))
            for path in (tmp_path / before).iterdir():  # as the kubelet does: the old files go, one by one
                path.unlink()
            (tmp_path / before).rmdir()
        done.set()

    thread = threading.Thread(target=rotate)
    thread.start()
    seen = set()
    while not done.is_set():
        found = source.get()
        number = int(found.access_key.removeprefix("id-"))
        assert found == Keys(f"id-{number}", f"secret-{number}", "t" * (number % 2))
        seen.add(number)
    thread.join()
    assert len(seen) > 10
    assert source.get().access_key == "id-299"


def test_a_secret_that_was_emptied_leaves_the_keys_that_worked(tmp_path: Path) -> None:
    mount(tmp_path, "1", **keys(1))
    source = MountedKeys(tmp_path, WHAT)
    before = source.get()
    mount(tmp_path, "2", ACCESS_KEY_ID="id-2")
    assert source.get() == before
    with pytest.raises(CredentialsMissing, match="AWS_SECRET_ACCESS_KEY is missing or empty in"):
        source.replace(before)


def test_refused_keys_are_replaced_only_by_others(tmp_path: Path) -> None:
    mount(tmp_path, "1", **keys(1))
    source = MountedKeys(tmp_path, WHAT)
    before = source.get()
    assert not source.replace(before)
    mount(tmp_path, "2", **keys(2))
    assert source.replace(before)


@pytest.mark.parametrize("value", ["se cret\tx\n", "  secret", "a\nb"])
def test_keys_with_white_space_are_refused_without_repeating_them(tmp_path: Path, value: str) -> None:
    mount(tmp_path, "1", ACCESS_KEY_ID="id", SECRET_ACCESS_KEY=value)
    with pytest.raises(CredentialsMissing, match="AWS_SECRET_ACCESS_KEY holds white space") as caught:
        MountedKeys(tmp_path, WHAT).get()
    assert "cret" not in str(caught.value).replace("Secret", "").replace("AWS_SECRET", "")


def test_an_empty_mount_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsMissing, match=f"AWS_ACCESS_KEY_ID is missing or empty in {tmp_path}"):
        MountedKeys(tmp_path, WHAT).get()


def test_no_key_shows_in_a_repr() -> None:
    assert repr(Keys("id", "secret", "token")) == "Keys()"
    assert "secret" not in f"{StaticKeys(STATIC, WHAT)!r} {StaticKeys(STATIC, WHAT).__dict__}"


# --- lent keys: their times ---


class Service:
    """Lends keys that live `life_s`; `fails` makes it refuse."""

    def __init__(self, life_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.life_s, self.now, self.asked, self.fails = life_s, 1000.0, 0, False
        monkeypatch.setattr("dlcloud_trainer.objects.web_identity.assume_role", self._assume)

    def _assume(self, role: Role, ca: bytes | None, what: str, now: float) -> Lent:
        self.asked += 1
        if self.fails:
            raise AccessDenied("refused")
        return Lent(Keys(f"id-{self.asked}", "s", "t"), now + self.life_s)

    def keys(self) -> WebIdentityKeys:
        return WebIdentityKeys(Role(Path("/token"), "arn", "s", "http://sts"), None, WHAT, lambda: self.now)


@pytest.mark.parametrize(("life_s", "until_s"), [(3600.0, 3300.0), (900.0, 600.0), (30.0, 20.0)])
def test_lent_keys_are_renewed_well_before_their_end(
    life_s: float, until_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(life_s, monkeypatch)
    source = service.keys()
    first = source.get()
    service.now += until_s - 1
    assert source.get() == first
    service.now += 1
    assert source.get().access_key == "id-2"


def test_lent_keys_are_used_to_their_end_when_no_new_ones_come(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(900.0, monkeypatch)
    source = service.keys()
    first = source.get()
    service.fails = True
    service.now += 601
    assert [source.get() for _ in range(5)] == [first] * 5
    assert service.asked == 2  # not at every request
    service.now += 300
    with pytest.raises(AccessDenied):
        source.get()


def test_refused_keys_are_lent_anew_but_not_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(900.0, monkeypatch)
    source = service.keys()
    first = source.get()
    assert source.replace(first)
    assert source.replace(first)  # another thread's refusal of the old ones
    assert not source.replace(source.get())
    assert service.asked == 2
    service.now += 60
    assert source.replace(source.get())


def test_reading_mounted_keys_is_cheap(tmp_path: Path) -> None:
    mount(tmp_path, "1", **keys(1))
    source = MountedKeys(tmp_path, WHAT)
    source.get()
    for path in (tmp_path / "..1").iterdir():
        path.unlink()  # it would notice, if it read more than the link
    assert source.get().access_key == "id-1"
