"""Defaults of `device`, `threads`, `download`: what the call says, then `register`, then the environment."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import PIL.Image
import pytest

import licodec
import licodec.api
import licodec.store
from lic_format import UsageError
from licodec import options
from licodec.devices import resolve_device
from licodec.threads import limited
from tests.sdk.fixtures import pixels

REGISTER = {
    "everything": licodec.register,
    "pillow": licodec.register_pillow,
    "imageio": licodec.register_imageio,
}


@pytest.fixture(autouse=True)
def as_it_was(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LICODEC_DEVICE", raising=False)
    monkeypatch.delenv("LICODEC_THREADS", raising=False)
    monkeypatch.delenv("LICODEC_DOWNLOAD", raising=False)
    yield
    licodec.unregister()
    licodec.register()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """With how many threads pictures are coded."""
    noted: list[int | None] = []

    def noting(number: int | None) -> AbstractContextManager[None]:
        noted.append(number)
        return limited(number)

    monkeypatch.setattr(licodec.api, "limited", noting)
    return noted


def through_every_host(**given: Any) -> None:
    """Write and read with the SDK (two calls, two objects), Pillow and imageio, in this order."""
    data = licodec.encode(pixels(), codec="stand-in", **given)
    licodec.decode(data, **given)
    licodec.Encoder("stand-in", **given)(pixels())
    licodec.Decoder(**given)(data)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels()).save(buffer, "LIC", codec="stand-in", **given)
    image = PIL.Image.open(buffer)
    for name, value in given.items():
        setattr(image, name, value)
    image.load()
    iio.imwrite("<bytes>", pixels(), extension=".lic", codec="stand-in", **given)
    iio.imread(data, **given)


def test_the_call_goes_before_register_and_that_before_the_environment(
    threads: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(**given: Any) -> set[int | None]:
        threads.clear()
        through_every_host(**given)
        assert len(threads) == 9  # an Encoder loads weights when it is made
        return set(threads)

    assert noted() == {None}
    monkeypatch.setenv("LICODEC_THREADS", "1")
    assert noted() == {1}
    licodec.register(threads=2)
    assert noted() == {2}
    assert noted(threads=3) == {3}
    licodec.register()
    assert noted() == {2}
    licodec.register(threads=None)
    assert noted() == {1}
    monkeypatch.setenv("LICODEC_THREADS", "")
    assert noted() == {None}


def test_a_default_that_is_not_named_again_stays() -> None:
    licodec.register(device="cpu")
    licodec.register(threads=2)
    assert [options.setting(name).value for name in ("device", "threads")] == ["cpu", 2]


def test_a_hosts_own_default_goes_before_the_one_for_everything(threads: list[int | None]) -> None:
    licodec.register(threads=1)
    licodec.register_pillow(threads=2)
    licodec.register_imageio(threads=3)
    licodec.register()
    through_every_host()
    assert threads == [1, 1, 1, 1, 1, 2, 2, 3, 3]


def test_an_environment_variable_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICODEC_DEVICE", "cpu")
    monkeypatch.setenv("LICODEC_THREADS", " 2 ")
    assert options.setting("device") == options.Setting("cpu", "LICODEC_DEVICE")
    assert options.setting("threads") == options.Setting(2, "LICODEC_THREADS")
    assert options.setting("device", "auto") == options.Setting("auto", "device")


def test_every_host_hands_down_whether_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []
    load = licodec.store.load

    def noting(*names: Any, download: Any, **given: Any) -> licodec.store.Weights:
        noted.append(download)
        return load(*names, download=download, **given)

    monkeypatch.setattr(licodec.store, "load", noting)

    def through(**given: Any) -> set[str]:
        noted.clear()
        licodec.clear_cache()
        through_every_host(**given)
        return set(noted)

    assert through() == {"auto"}
    monkeypatch.setenv("LICODEC_DOWNLOAD", "never")
    assert through() == {"never"}
    assert through(download="auto") == {"auto"}
    monkeypatch.delenv("LICODEC_DOWNLOAD")
    licodec.register_imageio(download="never")
    assert through() == {"auto", "never"}
    licodec.register(download="never")
    assert through() == {"never"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "gpu"),
        ("threads", "0"),
        ("threads", "many"),
        ("threads", "1.5"),
        ("download", "perhaps"),
        ("download", "1"),
    ],
)
def test_a_wrong_variable_is_named_when_it_is_needed_and_no_earlier(
    name: str, value: str, lic: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable = f"LICODEC_{name.upper()}"
    monkeypatch.setenv(variable, value)
    path = tmp_path / "x.lic"
    path.write_bytes(lic)
    calls = (
        lambda: licodec.decode(lic),
        lambda: licodec.encode(pixels(), codec="stand-in"),
        licodec.Decoder,
        lambda: licodec.Encoder("stand-in"),
        lambda: PIL.Image.open(path).load(),
        lambda: iio.imread(path),
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"^{variable}: expected .*, got '{value}'") as caught:
            call()
        assert isinstance(caught.value, UsageError)
        assert caught.value.argument == variable
    licodec.inspect(lic)
    licodec.register()
    PIL.Image.open(path).verify()
    assert iio.improps(path).shape == (40, 56, 3)
    used: Any = {name: {"device": "cpu", "threads": 1, "download": "never"}[name]}
    assert licodec.decode(lic, **used).size == (56, 40)
    code = "import licodec, sys; licodec.register(); licodec.inspect(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize("scope", REGISTER)
def test_a_wrong_default_is_an_error_of_register_and_changes_nothing(scope: str) -> None:
    register = REGISTER[scope]
    register(threads=2)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"device": "gpu"}, "^device: expected auto"),
        ({"threads": 0}, "^threads: expected"),
        ({"threads": 1, "quality": 3}, "^quality: no default"),
        ({"threds": 1}, "^threds: no default"),
    )
    for given, message in wrong:
        with pytest.raises(UsageError, match=message):
            register(**given)
    assert options.with_defaults(scope, {}) == {"threads": 2}  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_told_with_who_asked_for_it(
    lic: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LICODEC_DEVICE", "cuda:99")
    with pytest.raises(ValueError, match=r"^LICODEC_DEVICE: cuda:99 is not there"):
        licodec.decode(lic)
    with pytest.raises(ValueError, match=r"^device: cuda:99 is not there"):
        resolve_device("cuda:99")


def test_the_command_line_has_both(lic: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from licodec.cli.program import run

    (tmp_path / "x.lic").write_bytes(lic)
    command = ["decode", str(tmp_path / "x.lic"), "-o", str(tmp_path / "x.png")]
    assert run([*command, "--threads", "1", "--device", "cpu", "--quiet"]) == 0
    assert run([*command, "--threads", "0"]) == 2
    monkeypatch.setenv("LICODEC_THREADS", "many")
    assert run(command) == 2
    assert run([*command, "--threads", "1", "--quiet"]) == 0
