"""A Django form that takes `.lic` files: sizes from the first chunks, limits, damage; and no torch."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import PIL.Image
import pytest

import lic_format
import licodec
from examples import django_upload
from examples.django_upload import probe
from tests.examples.page import ROOT, masked, shown

DAMAGED = "Upload a valid image. The file you uploaded was either not an image or a corrupted image."


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of the site, on 127.0.0.1."""
    with make_server("127.0.0.1", 0, django_upload.application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def post(port: int, name: str, data: bytes, field: str = "picture") -> tuple[int, Any]:
    """Upload a file as a browser does."""
    body = (
        f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + data + b"\r\n--edge--\r\n"  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/", body, {"Content-Type": "multipart/form-data; boundary=edge"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def claiming(width: int, height: int, data: bytes) -> bytes:
    """A sound file whose header says another size than its payload has."""
    file = lic_format.read(data)
    values = {name: getattr(file.head, name) for name in file.head.__dataclass_fields__}
    head = lic_format.Head(**{**values, "width": width, "height": height})
    return lic_format.write(lic_format.LicFile(head=head, metadata=file.metadata, units=file.units))


def test_the_page_shows_what_it_prints_and_torch_stays_away(here: Path) -> None:
    (command,) = shown("python examples/django_upload.py")
    program = (
        "import sys; from examples import django_upload; status = django_upload.main(sys.argv[1:]); "
        "assert not {'torch', 'numpy', 'imageio'} & sys.modules.keys(); sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}
    done = subprocess.run(
        [sys.executable, "-c", program, *command.arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr  # one is damaged
    assert masked(done.stdout.splitlines()) == masked(command.lines)


@pytest.mark.parametrize("name", ["crop-1.lic", "round.lic", "crop-1.png"])
def test_an_upload_is_measured(port: int, lics: Path, pictures: Path, name: str) -> None:
    data = (pictures if name.endswith("png") else lics).joinpath(name).read_bytes()
    media = "image/png" if name.endswith("png") else "image/x-lic"
    said = {"type": media, "width": 256, "height": 256, "bytes": len(data)}
    assert post(port, name, data) == (200, said)
    assert post(port, "PHOTO.LIC", data) == (200, said)  # what it is, the bytes say


def test_what_is_no_picture_is_refused(port: int, lics: Path) -> None:
    good = (lics / "crop-1.lic").read_bytes()
    for data in (good[:40], good[:-1], good + b"x", b"You may do as you like.", b"\x89LIC\r\n\x1a\n"):
        assert post(port, "x.lic", data) == (400, {"picture": [DAMAGED]})
    assert post(port, "x.lic", (lics / "damaged.lic").read_bytes()) == (400, {"picture": [DAMAGED]})
    assert post(port, "x.lic", b"") == (400, {"picture": ["The submitted file is empty."]})
    assert post(port, "x.lic", good, field="other") == (400, {"picture": ["This field is required."]})
    status, said = post(port, "x.exe", good)
    assert status == 400 and "“exe” is not allowed" in said["picture"][0]
    assert post(port, "x.lic", good)[0] == 200


def test_every_damaged_byte_is_found(lics: Path, port: int) -> None:
    good = (lics / "crop-1.lic").read_bytes()
    for at in range(0, len(good), 97):
        bad = bytearray(good)
        bad[at] ^= 4
        assert post(port, "x.lic", bytes(bad))[0] == 400, at


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_limits_hold_before_anything_is_decoded(
    port: int, lics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (lics / "crop-1.lic").read_bytes()
    status, said = post(port, "x.lic", claiming(10_000, 5_001, good))
    assert (status, said) == (400, {"picture": ["10000 x 5001 pixels; the most are 50,000,000"]})
    status, said = post(port, "x.lic", claiming(1 << 24, 1 << 24, good))
    assert status == 400 and "exceeds limit" in said["picture"][0]
    monkeypatch.setattr(django_upload, "MOST_BYTES", len(good) - 1)
    status, said = post(port, "x.lic", good)
    assert status == 400 and said["picture"][0].startswith(f"{len(good):,} bytes; the most are")


def test_the_size_is_known_from_the_first_chunks(lics: Path) -> None:
    good = (lics / "crop-1.lic").read_bytes()
    for step in (1, 7, 100, 4096):
        taken: list[int] = []

        def chunks(step: int = step, taken: list[int] = taken) -> Iterator[bytes]:
            for at in range(0, len(good), step):
                taken.append(at + step)
                yield good[at : at + step]

        assert probe(chunks()) == (256, 256)
        assert taken[-1] <= max(step, 128)
    assert probe([]) is None and probe([good[:20]]) is None


def test_a_header_that_never_ends_is_not_waited_for(lics: Path) -> None:
    asked = 0

    def chunks() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 65536

    assert probe(chunks()) is None and asked == django_upload.HEADER // 65536


def test_a_large_profile_is_part_of_the_header(port: int) -> None:
    profile = os.urandom(200_000)
    data = licodec.encode(PIL.Image.new("RGB", (40, 30)), icc_profile=profile)
    status, said = post(port, "x.lic", data)
    assert (status, said["width"], said["height"]) == (200, 40, 30)
    assert PIL.Image.open(io.BytesIO(data)).info["icc_profile"] == profile


def test_a_file_that_is_not_there_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        django_upload.main(["nowhere.lic"])
    assert caught.value.code == 2 and "nowhere.lic" in capsys.readouterr().err
