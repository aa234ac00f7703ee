"""Serve a folder of `.lic` files over HTTP. A client that names `image/x-lic` in its `Accept` gets a file as
it is; for any other the picture is transcoded to the best of AVIF, WebP, JPEG and PNG that it accepts.

python examples/asgi_server.py out/samples/lic --port 8000

The application is plain ASGI: any server runs it, any framework mounts it. Put a cache in front of it: ETag
and Vary say all that one needs to know.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import logging
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ImageOps, features

import lic_format
import licodec

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("lic_server")


# --- what can be sent -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """A type that pictures can be sent as; `plain` where every client can be expected to show it."""

    media: str
    format: str
    most_pixels_a_side: int
    alpha: bool = True
    plain: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def can_hold(self, head: lic_format.Head) -> bool:
        return max(head.width, head.height) <= self.most_pixels_a_side and (self.alpha or not head.alpha)


AS_IT_IS = Offer("image/x-lic", "LIC", most_pixels_a_side=lic_format.limits.MAX_SIDE)
OFFERS = [
    AS_IT_IS,
    Offer("image/avif", "AVIF", 65536, options={"quality": 70, "speed": 8}),
    Offer("image/webp", "WEBP", 16383, options={"quality": 85}),
    Offer("image/jpeg", "JPEG", 65500, alpha=False, plain=True, options={"quality": 88}),
    Offer("image/png", "PNG", 1 << 24, plain=True),
]
"""In the server's order of preference, which decides among what a client likes equally."""

if not features.check("avif"):
    OFFERS = [offer for offer in OFFERS if offer.format != "AVIF"]


def chosen(accept: str, offers: list[Offer]) -> Offer | None:
    """The offer that an `Accept` header likes best, None where it likes none (RFC 9110, section 12.5.1).

    `image/*` and `*/*` stand for plain types only: browsers say them of all pictures and show no `.lic`.
    """
    likes: dict[str, float] = {}
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            likes[media] = max(0.0, min(1.0, float(weight)))
        except ValueError:
            continue

    def liking(offer: Offer) -> float:
        ranges = [offer.media, "image/*", "*/*"] if offer.plain else [offer.media]
        return next((likes[media] for media in ranges if media in likes), 0.0)

    best = max(offers, key=liking, default=None)  # the first of equals
    return best if best and liking(best) > 0 else None


# --- the application ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A file of the folder, every checksum of which is right."""

    data: bytes
    head: lic_format.Head
    digest: str


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def refusal(status: int, reason: str, **headers: str) -> Answer:
    return Answer(status, {"content-type": "text/plain; charset=utf-8", **headers}, f"{reason}\n".encode())


class LicFolder:
    """An ASGI application over one folder.

    Args:
        folder: what is served; nothing outside it is, through no `..` and no link.
        jobs: how many pictures are transcoded at a time.
        most_waiting: how many more may wait for that; whoever comes then is sent away with 503.
        max_pixels: larger pictures are not decoded.
    """

    def __init__(
        self, folder: Path, *, jobs: int = 2, most_waiting: int = 64, max_pixels: int = 1 << 26
    ) -> None:
        self._folder = folder.resolve(strict=True)
        self._jobs = jobs
        self._max_pixels = max_pixels
        self._most_waiting = most_waiting
        self._waiting = 0
        self._free = asyncio.Semaphore(jobs)
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="transcode")
        # The jobs share the cores. `torch.set_num_threads` would count for the rest of the process too.
        self._decoder = licodec.Decoder(threads=max(1, (os.cpu_count() or 1) // jobs))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._respond(scope, send)
        else:
            raise NotImplementedError(f"this application speaks http, not {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._warm_up)
        except licodec.LicError as error:  # no weights: better no server than one that fails every client
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._pool.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    def _warm_up(self) -> None:
        """Load torch and weights before the first client waits for them."""
        self._decoder.warm_up()

    async def _respond(self, scope: Message, send: Send) -> None:
        answer = await self._answer(scope)
        headers = {"x-content-type-options": "nosniff", **answer.headers}
        if answer.status != 304:
            headers["content-length"] = str(len(answer.body))
        await send({
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    async def _answer(self, scope: Message) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return refusal(405, "use GET or HEAD", allow="GET, HEAD")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            stored = await asyncio.to_thread(self._read, path)
        except licodec.LicError as error:
            log.error("%s: %s", path, error)
            return refusal(500, "the file on the server is damaged, too large or too new")
        except (OSError, ValueError):  # ValueError: a path that no system has, such as one with a zero byte
            return refusal(404, "there is no such picture")
        given = headers_of(scope)
        offers = [offer for offer in OFFERS if offer.can_hold(stored.head)]
        offer = chosen(given.get("accept", ""), offers)
        if offer is None:
            types = ", ".join(each.media for each in offers)
            return refusal(406, f"this picture can be had as {types}", vary="accept")
        # Weak for what is made here: another machine or version may make other bytes of the same picture.
        as_it_is = offer is AS_IT_IS
        etag = f'"{stored.digest}"' if as_it_is else f'W/"{stored.digest}-{offer.format.lower()}"'
        headers = {"etag": etag, "vary": "accept", "cache-control": "no-cache"}
        if is_known(etag, given.get("if-none-match", "")):
            return Answer(304, headers)
        headers["content-type"] = offer.media
        if as_it_is:
            return Answer(200, headers, stored.data)
        return await self._transcoded(stored.data, offer, headers, path)

    def _read(self, path: str) -> Stored:
        """A `.lic` file of the folder. Raises LicError where it is of no use, else OSError or ValueError."""
        file = (self._folder / path.lstrip("/")).resolve()  # follows links
        if not (file.is_relative_to(self._folder) and file.suffix == ".lic" and file.is_file()):
            raise FileNotFoundError(path)
        data = file.read_bytes()
        head = lic_format.read(data, max_pixels=self._max_pixels).head
        return Stored(data, head, hashlib.sha256(data).hexdigest()[:32])

    async def _transcoded(self, data: bytes, offer: Offer, headers: dict[str, str], path: str) -> Answer:
        if self._free.locked() and self._waiting >= self._most_waiting:
            return refusal(503, "too many pictures are waiting to be transcoded", **{"retry-after": "2"})
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self._pool, self._transcode, data, offer)
            return Answer(200, headers, await work)
        except (licodec.LicError, OSError, ValueError, MemoryError) as error:
            log.error("%s as %s: %s", path, offer.media, error or type(error).__name__)
            return refusal(500, f"the picture can't be made into {offer.media}")
        finally:
            self._free.release()

    def _transcode(self, data: bytes, offer: Offer) -> bytes:
        """The picture, turned as its orientation says, with its colour profile and nothing else of its
        metadata."""
        picture = ImageOps.exif_transpose(self._decoder(data, max_pixels=self._max_pixels))
        profile = picture.info.get("icc_profile")
        picture.info = {}
        sink = io.BytesIO()
        picture.save(sink, offer.format, icc_profile=profile, **offer.options)
        return sink.getvalue()


def headers_of(scope: Message) -> dict[str, str]:
    """Headers by name; those sent several times are joined, as lists are."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def is_known(etag: str, if_none_match: str) -> bool:
    """Whether an `If-None-Match` names a tag, by the weak comparison that it asks for."""
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return known == ["*"] or etag.removeprefix("W/") in known


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serve a folder of .lic files, transcoded by Accept.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--jobs", type=int, default=2, help="pictures transcoded at a time")
    given = parser.parse_args(arguments)
    if not given.folder.is_dir():
        print(f"{given.folder} is no folder; name one with .lic files", file=sys.stderr)
        return 2

    import uvicorn

    uvicorn.run(LicFolder(given.folder, jobs=given.jobs), host=given.host, port=given.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
