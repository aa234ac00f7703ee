"""The server: what each client gets, what none gets, and how much it does at a time. Called directly, and
over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import re
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import uvicorn
from PIL import ImageOps

import licodec
from examples.asgi_server import AS_IT_IS, OFFERS, LicFolder, Offer, chosen
from tests.examples.page import masked, shown

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.fixture(scope="module")
def folder(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples, a picture with orientation and profile, a long one, and what must not be served."""
    outside = tmp_path_factory.mktemp("server")
    folder = outside / "served"
    shutil.copytree(place / "out" / "samples" / "lic", folder)
    picture = PIL.Image.open(place / "out" / "samples" / "pictures" / "crop-1.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    licodec.save(picture.crop((0, 0, 96, 64)), folder / "turned.lic", exif=exif, icc_profile=b"profile")
    licodec.save(PIL.Image.new("L", (16384, 2)), folder / "long.lic")
    (folder / "notes.txt").write_text("not a picture")
    (folder / "licence.lic").write_text("You may do as you like.")
    (folder / "inner").mkdir()
    shutil.copy(folder / "crop-1.lic", folder / "inner" / "ä b.lic")
    shutil.copy(folder / "crop-1.lic", outside / "secret.lic")
    (folder / "link.lic").symlink_to(outside / "secret.lic")
    os.mkfifo(folder / "pipe.lic")
    return folder


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("image/x-lic", "image/x-lic"),
        ("image/x-lic, image/avif", "image/x-lic"),
        ("image/avif, image/x-lic;q=0.5", "image/avif"),
        (CHROME, "image/avif"),
        ("image/webp,*/*", "image/webp"),
        ("image/webp;q=0.5,*/*;q=0.8", "image/jpeg"),
        ("IMAGE/WebP ; Q=0.3", "image/webp"),
        ("image/png", "image/png"),
        ("*/*", "image/jpeg"),
        ("", "image/jpeg"),
        ("image/*;q=0.1", "image/jpeg"),
        ("image/*, image/jpeg;q=0", "image/png"),
        ("image/avif;q=0, */*", "image/jpeg"),
        ("text/html", None),
        ("image/avif;q=nonsense", None),
        ("image/x-lic;q=0", None),
        (",;,q=1", None),
    ],
)
def test_the_best_type_that_a_client_accepts(accept: str, media: str | None) -> None:
    offer = chosen(accept, OFFERS)
    assert (offer and offer.media) == media


# --- called directly ------------------------------------------------------------------------------


def ask(app: LicFolder, path: str, accept: str = "", method: str = "GET", **headers: str) -> Any:
    """Status, headers and body that the application sends."""

    async def conversation() -> list[Any]:
        sent: list[Any] = []
        given = {"accept": accept, **{name.replace("_", "-"): value for name, value in headers.items()}}

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        fields = [(name.encode(), value.encode()) for name, value in given.items() if value]
        await app({"type": "http", "method": method, "path": path, "headers": fields}, receive, send)
        return sent

    start, body = asyncio.run(conversation())
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


@pytest.fixture
def app(folder: Path) -> LicFolder:
    return LicFolder(folder)


def test_a_client_that_names_the_type_gets_the_file_as_it_is(app: LicFolder, folder: Path) -> None:
    status, headers, body = ask(app, "/crop-2.lic", "image/x-lic")
    assert (status, headers["content-type"]) == (200, "image/x-lic")
    assert body == (folder / "crop-2.lic").read_bytes()
    assert ask(app, "/inner/ä b.lic", "image/x-lic")[2] == (folder / "crop-1.lic").read_bytes()


@pytest.mark.parametrize("format", ["AVIF", "WEBP", "JPEG", "PNG"])
def test_any_other_gets_the_same_picture_in_its_own_format(app: LicFolder, folder: Path, format: str) -> None:
    status, headers, body = ask(app, "/crop-1.lic", f"image/{format.lower()}")
    assert (status, headers["content-type"]) == (200, f"image/{format.lower()}")
    assert headers["content-length"] == str(len(body))
    picture = PIL.Image.open(io.BytesIO(body))
    decoded = PIL.Image.open(folder / "crop-1.lic")
    assert (picture.format, picture.mode, picture.size) == (format, "RGB", decoded.size)
    difference = np.asarray(picture, np.float64) - np.asarray(decoded, np.float64)
    assert np.sqrt(np.mean(difference**2)) < (0.01 if format == "PNG" else 8)


def test_alpha_is_never_lost(app: LicFolder) -> None:
    for accept, media in {CHROME: "image/avif", "image/webp": "image/webp", "*/*": "image/png"}.items():
        _, headers, body = ask(app, "/round.lic", accept)
        assert headers["content-type"] == media
        assert PIL.Image.open(io.BytesIO(body)).convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert ask(app, "/round.lic", "image/jpeg")[0] == 406


def test_what_a_format_cannot_hold_is_not_offered_in_it(app: LicFolder) -> None:
    assert ask(app, "/long.lic", "image/webp")[0] == 406
    assert ask(app, "/long.lic", "image/webp, image/jpeg;q=0.1")[1]["content-type"] == "image/jpeg"


def test_the_picture_is_turned_once_and_keeps_its_profile(app: LicFolder, folder: Path) -> None:
    picture = PIL.Image.open(io.BytesIO(ask(app, "/turned.lic", "image/png")[2]))
    expected = ImageOps.exif_transpose(PIL.Image.open(folder / "turned.lic"))
    assert picture.size == (64, 96)
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))
    assert picture.info["icc_profile"] == b"profile" and picture.getexif().get(0x0112, 1) == 1
    body = ask(app, "/turned.lic", "image/x-lic")[2]
    assert PIL.Image.open(io.BytesIO(body)).getexif()[0x0112] == 6


def test_tags_tell_types_apart_and_spare_the_body(app: LicFolder) -> None:
    tags = {offer.media: ask(app, "/crop-1.lic", offer.media)[1]["etag"] for offer in OFFERS}
    assert len(set(tags.values())) == len(OFFERS)
    assert [media for media, tag in tags.items() if not tag.startswith("W/")] == ["image/x-lic"]
    for media, tag in tags.items():
        for known in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
            status, headers, body = ask(app, "/crop-1.lic", media, if_none_match=known)
            assert (status, body, headers["etag"], headers["vary"]) == (304, b"", tag, "accept")
            assert "content-length" not in headers
    jpeg = tags["image/jpeg"]
    assert ask(app, "/crop-1.lic", "image/webp", if_none_match=jpeg)[0] == 200
    assert ask(app, "/crop-2.lic", "image/jpeg", if_none_match=jpeg)[0] == 200


def test_a_file_that_was_replaced_has_another_tag(app: LicFolder, folder: Path) -> None:
    before = ask(app, "/crop-1.lic", "image/x-lic")[1]["etag"]
    stamp, data = (folder / "crop-1.lic").stat(), (folder / "crop-1.lic").read_bytes()
    try:
        shutil.copy(folder / "crop-3.lic", folder / "crop-1.lic")
        os.utime(folder / "crop-1.lic", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert ask(app, "/crop-1.lic", "image/x-lic", if_none_match=before)[0] == 200
    finally:
        (folder / "crop-1.lic").write_bytes(data)


@pytest.mark.parametrize("accept", ["image/x-lic", "image/webp", "*/*", "text/html"])
def test_every_answer_that_depends_on_accept_says_so(app: LicFolder, accept: str) -> None:
    status, headers, _ = ask(app, "/crop-1.lic", accept)
    assert headers["vary"] == "accept" and headers["x-content-type-options"] == "nosniff"
    assert status == (406 if accept == "text/html" else 200)


def test_head_says_what_get_says_without_the_body(app: LicFolder) -> None:
    for path, accept in [("/crop-1.lic", "image/jpeg"), ("/crop-1.lic", "image/x-lic"), ("/none.lic", "")]:
        got, asked = ask(app, path, accept), ask(app, path, accept, method="HEAD")
        assert got[:2] == asked[:2] and asked[2] == b"" and got[2] != b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_refused(app: LicFolder, method: str) -> None:
    status, headers, _ = ask(app, "/crop-1.lic", method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/", "", "/none.lic", "/inner", "/notes.txt", "/../secret.lic", "/inner/../../secret.lic",
        "/link.lic", "//etc/passwd", "/\0.lic", "/crop-1.lic\0", "/%2e%2e/secret.lic", "/..\\secret.lic",
        "/pipe.lic", "/" + 5000 * "a" + ".lic", "/crop-1.lic/../../secret.lic", "/\ud800.lic",
    ],
)  # fmt: skip
def test_nothing_else_is_served(app: LicFolder, path: str) -> None:
    assert ask(app, path, "*/*")[0] == 404
    assert ask(app, path, "image/x-lic")[0] == 404


def test_a_path_outside_by_its_full_name_is_not_served(app: LicFolder, folder: Path) -> None:
    secret = folder.parent / "secret.lic"
    assert secret.is_file()
    for path in (str(secret), f"/{secret}", f"//{secret}"):
        assert ask(app, path, "image/x-lic")[0] == 404


@pytest.mark.parametrize("accept", ["image/x-lic", "image/jpeg"])
def test_a_damaged_file_is_an_error_that_tells_nothing_and_stops_nothing(
    app: LicFolder, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/damaged.lic", "/licence.lic"):
        status, headers, body = ask(app, path, accept)
        assert (status, headers["content-type"]) == (500, "text/plain; charset=utf-8")
        assert "etag" not in headers and b"CRC" not in body
    assert "CRC" in caplog.text and "/damaged.lic" in caplog.text
    assert ask(app, "/crop-1.lic", accept)[0] == 200


def test_a_picture_beyond_the_limit_is_not_decoded(folder: Path) -> None:
    app = LicFolder(folder, max_pixels=256 * 256 - 1)
    assert [ask(app, "/crop-1.lic", accept)[0] for accept in ("image/jpeg", "image/x-lic")] == [500, 500]
    assert ask(app, "/turned.lic", "image/jpeg")[0] == 200


def test_a_mounted_application_leaves_the_prefix_out(app: LicFolder) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/media/crop-1.lic",
        "root_path": "/media",
        "headers": [],
    }
    asyncio.run(app(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 200
    with pytest.raises(NotImplementedError, match="websocket"):
        asyncio.run(app({"type": "websocket"}, None, send))  # type: ignore[arg-type]


# --- how much at a time ---------------------------------------------------------------------------


class Slow(LicFolder):
    """Counts how many pictures are transcoded at a time, and waits for leave to finish."""

    def __init__(self, folder: Path, **options: int) -> None:
        super().__init__(folder, **options)
        self.lock, self.leave = threading.Lock(), threading.Event()
        self.running = self.most = 0

    def _transcode(self, data: bytes, offer: Offer) -> bytes:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.leave.wait(10)
        with self.lock:
            self.running -= 1
        return super()._transcode(data, offer)


async def statuses(app: Slow, count: int) -> list[int]:
    """What so many clients get who come at once, while one more asks for the file as it is."""
    answers: list[int] = []

    async def client(accept: str) -> None:
        async def send(message: Any) -> None:
            if "status" in message:
                answers.append(message["status"])

        headers = [(b"accept", accept.encode())]
        scope = {"type": "http", "method": "GET", "path": "/turned.lic", "headers": headers}
        await app(scope, None, send)  # type: ignore[arg-type]

    tasks = [asyncio.create_task(client("image/png")) for _ in range(count)]
    await asyncio.sleep(0.3)
    refused = answers.count(503)
    await asyncio.wait_for(client("image/x-lic"), 5)  # waits behind nobody
    assert answers.count(200) == 1 and app.running == app.most
    app.leave.set()
    await asyncio.gather(*tasks)
    assert answers.count(503) == refused  # who was let in is served
    return answers[refused + 1 :]


def test_no_more_than_jobs_are_transcoded_at_a_time_and_all_who_wait_are_served(folder: Path) -> None:
    app = Slow(folder, jobs=2, most_waiting=10)
    assert asyncio.run(statuses(app, 8)) == [200] * 8
    assert app.most == 2 and app.running == 0


def test_who_comes_when_too_many_wait_is_sent_away(folder: Path) -> None:
    app = Slow(folder, jobs=1, most_waiting=2)
    assert asyncio.run(statuses(app, 8)) == [200] * 3  # one at work, two waiting
    assert app.most == 1
    app = Slow(folder, jobs=1, most_waiting=0)
    assert asyncio.run(statuses(app, 3)) == [200]


def test_a_failure_frees_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = LicFolder(folder, jobs=1, most_waiting=0)

    def fail(data: bytes, offer: Offer) -> bytes:
        raise OSError("encoder error")

    monkeypatch.setattr(app, "_transcode", fail)
    assert [ask(app, "/turned.lic", "image/webp")[0] for _ in range(3)] == [500] * 3
    monkeypatch.undo()
    assert ask(app, "/turned.lic", "image/webp")[0] == 200


def test_without_weights_the_server_does_not_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LicFolder) -> None:
        raise licodec.WeightsError("no weights")

    monkeypatch.setattr(LicFolder, "_warm_up", fail)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(LicFolder(folder)({"type": "lifespan"}, receive, send))
    assert sent == [{"type": "lifespan.startup.failed", "message": "no weights"}]


def test_the_threads_that_others_get_in_this_process_stay_as_many(folder: Path) -> None:
    def of_a_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = of_a_new_thread()
    jobs = os.cpu_count() or 1
    app = LicFolder(folder, jobs=jobs)

    async def live() -> None:
        messages = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Any:
            return {"type": next(messages)}

        async def send(message: Any) -> None:
            assert message["type"].endswith(".complete"), message

        await app({"type": "lifespan"}, receive, send)

    asyncio.run(live())
    assert ask(LicFolder(folder, jobs=jobs), "/turned.lic", "image/webp")[0] == 200
    assert of_a_new_thread() == before


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[int]:
    """The port on 127.0.0.1 of a running server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(LicFolder(folder), lifespan="on", log_level="warning")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        deadline = time.monotonic() + 60
        while not running.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        yield listening.getsockname()[1]
        running.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def over_http(port: int, method: str, path: str, headers: dict[str, str]) -> tuple[list[str], bytes]:
    """Status line and headers as they come, and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        return [*lines, *(f"{name}: {value}" for name, value in response.getheaders())], response.read()
    finally:
        connection.close()


def test_the_page_shows_what_the_server_says(server: int) -> None:
    commands = shown("curl ")
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command.command)
        accept = [words[at + 1].partition(": ")[2] for at, word in enumerate(words) if word == "-H"]
        path = re.sub(r"http://127\.0\.0\.1:\d+", "", words[-1])
        method = "HEAD" if "-sI" in words else "GET"
        lines, body = over_http(server, method, path, {"Accept": accept[0] if accept else "*/*"})
        printed = [*lines, *body.decode().splitlines()] if "-s" not in words else body.decode().splitlines()

        def comparable(lines: Any) -> list[str]:
            kept = [line for line in masked(list(lines)) if not line.startswith("date: ")]
            return [re.sub(r'"[0-9a-f#]+', '"#', line) for line in kept]

        assert comparable(printed) == comparable(command.lines), command.command


def test_many_clients_at_once_and_bad_ones_among_them(server: int, folder: Path) -> None:
    wanted = 3 * [
        ("/crop-2.lic", "image/webp", 200),
        ("/crop-3.lic", "image/x-lic", 200),
        ("/damaged.lic", "*/*", 500),
        ("/round.lic", CHROME, 200),
        ("/../secret.lic", "*/*", 404),
        ("/%00.lic", "*/*", 404),
        ("/inner/%C3%A4%20b.lic", "image/jpeg", 200),
        ("/crop-1.lic", "text/html", 406),
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: over_http(server, "GET", one[0], {"Accept": one[1]}), wanted))
    assert [int(lines[0].split()[1]) for lines, _ in answers] == [status for *_, status in wanted]
    by_question: dict[Any, set[bytes]] = {}
    for question, (_, body) in zip(wanted, answers, strict=True):
        by_question.setdefault(question, set()).add(body)
    assert all(len(bodies) == 1 for bodies in by_question.values())
    assert by_question["/crop-3.lic", "image/x-lic", 200] == {(folder / "crop-3.lic").read_bytes()}


def test_offers_are_what_this_pillow_can_write() -> None:
    PIL.Image.init()
    assert {offer.format for offer in OFFERS} <= set(PIL.Image.SAVE)
    assert all(PIL.Image.MIME[offer.format] == offer.media for offer in OFFERS) and OFFERS[0] is AS_IT_IS
