"""What a format promises to those who open and save with Pillow: one probe a promise, the same for every
format.

    python -m tests.peers.probes png parser          # one probe in a process of its own, as JSON

A probe returns what it saw and whether that is good enough for `.lic`. `tools/peers.py` makes docs/peers.md
of all of them; the tests beside this file run them for `.lic`, for formats that keep a promise too, and for a
careless plugin that keeps none.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageFile
import PIL.ImageOps

from tests.peers.formats import FORMATS, Format

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "photo.png"
THREADS = 8
MAKER, ORIENTATION = 0x010F, 0x0112
SMALL_CROP = (256, 128)
"""Left, top: a part of the photograph with texture."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Scale:
    """How much a probe does: sizes of pictures, and how often."""

    small: Size = (96, 64)
    medium: Size = (1200, 900)
    large: Size = (4000, 3000)
    rounds: int = 3
    images: int = 12
    damages: int = 400
    repeats: int = 300


@dataclass(frozen=True)
class Finding:
    """What a probe saw, as the table shows it; `kept`: whether it is good enough, None where nothing was
    asked."""

    seen: str
    kept: bool | None


@dataclass(frozen=True)
class Raised:
    """An exception, as a value."""

    error: BaseException

    @property
    def name(self) -> str:
        """The class that a caller of Pillow would catch."""
        if isinstance(self.error, OSError):
            return "OSError"
        known = [each for each in type(self.error).__mro__ if each.__module__ == "builtins"]
        general = known[0] in (Exception, BaseException)
        return type(self.error).__name__ if general else known[0].__name__

    def says(self, word: str) -> bool:
        return word in str(self.error).lower()

    @property
    def blames_the_mode(self) -> bool:
        """Whether a reader of the message learns that it is the image's mode that can't be saved."""
        return self.says("mode") or self.says("supported")


def attempt(action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What an action returns, or what it raised: peers raise everything, panics of Rust included."""
    try:
        return action(*arguments, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return Raised(error)


def named(outcome: Any, otherwise: str = "ok") -> str:
    return outcome.name if isinstance(outcome, Raised) else otherwise


# --- pictures and files ---------------------------------------------------------------------------


@cache
def _photo(size: Size) -> PIL.Image.Image:
    with PIL.Image.open(PHOTO) as opened:
        whole = opened.convert("RGB")
    left, top = SMALL_CROP
    if left + size[0] <= whole.width and top + size[1] <= whole.height:
        return whole.crop((left, top, left + size[0], top + size[1]))
    return whole.resize(size)


def photo(size: Size) -> PIL.Image.Image:
    """A photograph, RGB, without metadata; small ones are a crop, large ones are enlarged."""
    return _photo(size).copy()


def saved(format: Format, image: PIL.Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format.name, **options)
    return buffer.getvalue()


def opened(data: bytes) -> PIL.ImageFile.ImageFile:
    return PIL.Image.open(io.BytesIO(data))


def pixels(data: bytes) -> bytes:
    return opened(data).tobytes()


def again(format: Format, image: PIL.Image.Image, **options: Any) -> PIL.ImageFile.ImageFile:
    """The image, saved and opened again."""
    return opened(saved(format, image, **options))


@contextmanager
def on_disk(format: Format, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{format.suffix}"
        path.write_bytes(data)
        yield path


def largest_difference(first: PIL.Image.Image, second: PIL.Image.Image) -> int:
    one, other = (np.asarray(each).astype(np.int64) for each in (first, second))
    return int(np.abs(one - other).max())


def made_exif(orientation: int | None = None) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[MAKER] = "Maker"
    if orientation is not None:
        exif[ORIENTATION] = orientation
    return exif


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to eight of them replaced."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        changed[at] ^= rng.randrange(1, 256)
    return bytes(changed)


# --- opening --------------------------------------------------------------------------------------

OPEN_MS, OPEN_BYTES = 1.0, 64 * 1024


class CountedBytes(io.BytesIO):
    """Counts what is read."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.taken += len(content)
        return content


def open_and_load(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.large))
    again(format, photo(scale.small)).load()  # whatever is loaded once in a process
    opening, loading = [], []
    with on_disk(format, data) as path:
        for turn in range(21):
            start = time.perf_counter()
            image = PIL.Image.open(path)
            opening.append((time.perf_counter() - start) * 1e3)
            if turn < 3:
                start = time.perf_counter()
                image.load()
                loading.append((time.perf_counter() - start) * 1e3)
            image.close()
    source = CountedBytes(data)
    PIL.Image.open(source)
    milliseconds = statistics.median(opening)
    return Finding(
        f"{milliseconds:.2f} ({math.ceil(source.taken / 1024)} KiB) / {statistics.median(loading):.0f}",
        milliseconds <= OPEN_MS and source.taken <= OPEN_BYTES,
    )


# --- modes ----------------------------------------------------------------------------------------


def grey(format: Format, scale: Scale) -> Finding:
    mode = again(format, photo(scale.small).convert("L")).mode
    return Finding(mode, mode == "L")


def grey_with_alpha(format: Format, scale: Scale) -> Finding:
    seen = []
    for alpha in (PIL.Image.linear_gradient("L").resize(scale.small), 255):
        given = photo(scale.small).convert("L")
        given.putalpha(alpha)
        found = attempt(again, format, given, **format.best)
        if isinstance(found, Raised):
            return Finding(found.name, False)
        if found.has_transparency_data and largest_difference(found.getchannel("A"), given.getchannel("A")):
            return Finding(f"{found.mode}, other alpha", False)
        seen.append(found.mode)
    gradient, opaque = seen
    return Finding(gradient if gradient == opaque else f"{gradient} ({opaque} if opaque)", seen == ["LA"] * 2)


def deep_grey(format: Format, scale: Scale) -> Finding:
    width, height = scale.small
    ramp = np.linspace(0, 65535, width * height).round().astype(np.uint16).reshape(height, width)
    given = PIL.Image.fromarray(ramp)
    return _exact_or_refused(format, given, white=255)


def floats(format: Format, scale: Scale) -> Finding:
    width, height = scale.small
    ramp = np.linspace(0, 1, width * height, dtype=np.float32).reshape(height, width)
    return _exact_or_refused(format, PIL.Image.fromarray(ramp), white=1)


def _exact_or_refused(format: Format, given: PIL.Image.Image, white: int) -> Finding:
    found = attempt(lambda: np.asarray(again(format, given, **format.best)).astype(np.float64))
    if isinstance(found, Raised):
        return Finding(found.name, found.blames_the_mode)
    samples = np.asarray(given).astype(np.float64)
    found = found if found.ndim == 2 else found[:, :, 0]
    if np.array_equal(found, samples):
        return Finding("exact", True)
    if found.max() <= 255 < samples.max():
        return Finding(f"8 bits, {np.mean(found == white):.1%} white".replace("%", " %"), False)
    if np.unique(found).size < 256:
        return Finding(f"{np.unique(found).size} levels left", False)
    return Finding(f"off by {np.abs(found - samples).max():g}", False)


WRONG_COLOURS = 32


def cmyk(format: Format, scale: Scale) -> Finding:
    given = photo(scale.small).convert("CMYK")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = attempt(saved, format, given, **format.best)
    if isinstance(data, Raised):
        return Finding(data.name, data.blames_the_mode)
    found = opened(data)
    if largest_difference(found.convert("RGB"), given.convert("RGB")) > WRONG_COLOURS:
        return Finding("wrong colours", False)
    if found.mode == "CMYK":
        return Finding("kept", True)
    said = any("CMYK" in str(each.message) for each in caught)
    return Finding("converted, warns" if said else "converted", said)


def palette_with_transparency(format: Format, scale: Scale) -> Finding:
    given = photo(scale.small).quantize(16)
    given.info["transparency"] = 3
    return _alpha_shown(format, given)


def colour_key(format: Format, scale: Scale) -> Finding:
    given = photo(scale.small)
    given.paste((1, 2, 3), (16, 16, 48, 48))
    given.info["transparency"] = (1, 2, 3)
    return _alpha_shown(format, given)


def _alpha_shown(format: Format, given: PIL.Image.Image) -> Finding:
    shown = given.convert("RGBA").getchannel("A")
    found = attempt(again, format, given, **format.best)
    if isinstance(found, Raised):
        return Finding(found.name, False)
    alpha = found.convert("RGBA").getchannel("A")
    if not largest_difference(alpha, shown):
        return Finding(found.mode, True)
    return Finding("alpha lost" if alpha.getextrema() == (255, 255) else "other alpha", False)


# --- metadata -------------------------------------------------------------------------------------


def _carried() -> dict[str, bytes]:
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB"))
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">text</x:xmpmeta>'
    return {"icc_profile": profile.tobytes(), "exif": made_exif().tobytes(), "xmp": packet}


def _has_maker(image: PIL.Image.Image) -> bool:
    return image.getexif().get(MAKER) == "Maker"


def metadata_kept(format: Format, scale: Scale) -> Finding:
    carried = _carried()
    first = again(format, photo(scale.small), **carried)
    second = attempt(again, format, first)
    if isinstance(second, Raised):
        return Finding(second.name, False)
    kept = {
        "icc": second.info.get("icc_profile") == carried["icc_profile"],
        "exif": _has_maker(second),
        "xmp": second.info.get("xmp") == carried["xmp"],
    }
    seen = "all" if all(kept.values()) else ", ".join(kind for kind, yes in kept.items() if yes) or "none"
    return Finding(seen, seen == "all")


def exif_removed(format: Format, scale: Scale) -> Finding:
    given = photo(scale.small)
    given.info["exif"] = made_exif().tobytes()
    seen = []
    for nothing in (None, b""):
        found = attempt(again, format, given.copy(), exif=nothing)
        seen.append(found.name if isinstance(found, Raised) else "not removed" if _has_maker(found) else "ok")
    return Finding(" / ".join(seen), seen == ["ok", "ok"])


def exif_object(format: Format, scale: Scale) -> Finding:
    found = attempt(again, format, photo(scale.small), exif=made_exif())
    seen = found.name if isinstance(found, Raised) else "ok" if _has_maker(found) else "lost"
    return Finding(seen, seen == "ok")


def _corner(image: PIL.Image.Image) -> tuple[int, Size]:
    """Which quarter of the image is the brightest, and its size."""
    return int(np.argmax(np.asarray(image.convert("L").resize((2, 2), PIL.Image.Resampling.BOX)))), image.size


def orientation(format: Format, scale: Scale) -> Finding:
    given = PIL.Image.new("RGB", (48, 32))
    given.paste((255, 255, 255), (0, 0, 16, 16))
    exif = made_exif(orientation=6).tobytes()
    found = again(format, given, exif=exif)
    upright = _corner(given.transpose(PIL.Image.Transpose.ROTATE_270))
    tag = found.getexif().get(ORIENTATION, 1)
    right = _corner(PIL.ImageOps.exif_transpose(found)) == upright
    stored = "in the tag" if _corner(found) == _corner(given) else "pixels turned"
    return Finding(f"{stored}, tag {tag}" if right else "lost" if tag == 1 else "turned twice", right)


def resolution(format: Format, scale: Scale) -> Finding:
    found = again(format, photo(scale.small), dpi=(300, 150)).info.get("dpi", (0, 0))
    kept = max(abs(found[0] - 300), abs(found[1] - 150)) < 0.05
    return Finding("yes" if kept else "no", kept)


# --- threads --------------------------------------------------------------------------------------


def threads_on_one_image(format: Format, scale: Scale) -> Finding:
    return _in_threads(format, scale, shared=True)


def threads_on_own_images(format: Format, scale: Scale) -> Finding:
    return _in_threads(format, scale, shared=False)


def _in_threads(format: Format, scale: Scale, shared: bool) -> Finding:
    data = saved(format, photo(scale.medium))
    expected = opened(data).tobytes()
    counts: Counter[str] = Counter()
    start = threading.Barrier(THREADS)

    def load(image: PIL.Image.Image) -> str:
        start.wait()
        pixels = attempt(image.tobytes)
        return "error" if isinstance(pixels, Raised) else "ok" if pixels == expected else "wrong"

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range((scale.rounds if shared else 1) * scale.images):
            one = opened(data)
            counts.update(pool.map(load, [one if shared else opened(data) for _ in range(THREADS)]))
    return Finding(f"{counts['ok']}/{counts['wrong']}/{counts['error']}", set(counts) == {"ok"})


# --- as objects and files -------------------------------------------------------------------------


def pickled(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.small))
    found = attempt(lambda: pickle.loads(pickle.dumps(opened(data))).tobytes())
    if isinstance(found, Raised):
        return Finding(found.name, False)
    same = found == opened(data).tobytes()
    return Finding("ok" if same else "other pixels", same)


class WriteOnly:
    """A target that can do nothing but take bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)


def write_only_sink(format: Format, scale: Scale) -> Finding:
    sink: Any = WriteOnly()
    outcome = attempt(photo(scale.small).save, sink, format.name)
    if isinstance(outcome, Raised):
        return Finding(outcome.name, False)
    same = b"".join(sink.parts) == saved(format, photo(scale.small))
    return Finding("ok" if same else "other bytes", same)


def failed_save_on_a_file(format: Format, scale: Scale) -> Finding:
    old = b"what was there before"
    with on_disk(format, old) as path:
        outcome = attempt(photo(scale.small).save, path, format.name, **format.wrong)
        if not isinstance(outcome, Raised):
            return Finding("did not fail", False)
        intact = path.read_bytes() == old
        seen = "intact" if intact else f"{path.stat().st_size} bytes left"
        if format.save_safely is not None:
            name, save = format.save_safely
            path.write_bytes(old)
            outcome = attempt(save, photo(scale.small), path, **format.wrong)
            intact = isinstance(outcome, Raised) and path.read_bytes() == old
            seen += f"; {'intact' if intact else 'not intact'} by {name}"
    return Finding(seen, intact)


def failed_save_on_a_new_file(format: Format, scale: Scale) -> Finding:
    with on_disk(format, b"") as path:
        path.unlink()
        outcome = attempt(photo(scale.small).save, path, format.name, **format.wrong)
        if not isinstance(outcome, Raised):
            return Finding("did not fail", False)
        left = path.exists()
    return Finding("left behind" if left else "removed", not left)


def after_with(format: Format, scale: Scale) -> Finding:
    with on_disk(format, saved(format, photo(scale.small))) as path:
        with PIL.Image.open(path) as image:
            pass
        outcome = attempt(image.load)
    if isinstance(outcome, Raised):
        return Finding(outcome.name, isinstance(outcome.error, ValueError) and outcome.says("closed"))
    return Finding("works", True)


LEAK = 20 * 2**20


def memory(format: Format, scale: Scale) -> Finding:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return Finding("-", None)
    image = photo(scale.small)

    def resident() -> int:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def turns(count: int) -> None:
        for _ in range(count):
            with PIL.Image.open(path) as found:
                found.load()
            image.save(path, format.name)

    with on_disk(format, saved(format, image)) as path:
        turns(scale.repeats // 6)
        before = resident()
        turns(scale.repeats)
        grown = resident() - before
    return Finding(f"{max(grown, 0) / 2**20:.1f}", grown < LEAK)


# --- data that is not all there, or wrong ---------------------------------------------------------

CHUNKS = (1, 7, 100, 4096)


def _pixels_fed(data: bytes, size: int) -> bytes:
    parser = PIL.ImageFile.Parser()
    for start in range(0, len(data), size):
        parser.feed(data[start : start + size])
    return parser.close().tobytes()


def parser_in_pieces(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.small))
    expected = opened(data).tobytes()
    seen = []
    for size in CHUNKS:
        found = attempt(_pixels_fed, data, size)
        seen.append(
            found.name if isinstance(found, Raised) else "ok" if found == expected else "other pixels"
        )
    return Finding(seen[0] if len(set(seen)) == 1 else " / ".join(seen), set(seen) == {"ok"})


def parser_cut_off(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.small))
    outcome = attempt(_pixels_fed, data[: 2 * len(data) // 3], 100)
    return Finding(named(outcome, "no error"), named(outcome) == "OSError")


def cut_in_half(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.medium))
    image = attempt(opened, data[: len(data) // 2])
    if isinstance(image, Raised):
        return Finding(f"{image.name} / -", image.name == "OSError")
    outcome = attempt(image.load)
    return Finding(f"ok / {named(outcome, 'no error')}", named(outcome) == "OSError")


BLOCK, SAME = 16, 2.0


def cut_in_half_and_allowed(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.medium))
    whole = np.asarray(opened(data))
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        found = attempt(lambda: np.asarray(opened(data[: len(data) // 2])))
    finally:
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    if isinstance(found, Raised):
        return Finding(found.name, found.name == "OSError")
    if found.shape != whole.shape:
        return Finding("another picture", False)
    share = float(np.mean(_same_blocks(whole, found)))
    return Finding(f"{share:.0%} of it".replace("%", " %") if share else "none of it, no error", share > 0.01)


def _same_blocks(whole: Any, found: Any) -> Any:
    """Which blocks of textured parts came back; flat ones say nothing, a filling may look like them."""
    height, width = (side // BLOCK * BLOCK for side in whole.shape[:2])

    def blocks(samples: Any) -> Any:
        cut = samples[:height, :width].astype(np.float32).mean(axis=2)
        return cut.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(1, 2)

    first, second = blocks(whole), blocks(found)
    textured = first.std(axis=(2, 3)) > SAME
    return np.abs(first - second).mean(axis=(2, 3))[textured] < SAME


SLOW = 1.0


def damages(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.small))
    opened(data).load()
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    for _ in range(scale.damages):
        broken = damaged(data, rng)
        start = time.process_time()
        counts[named(attempt(pixels, broken), "no error")] += 1
        if time.process_time() - start > SLOW:
            counts["over 1 s"] += 1
    harmless = ("OSError", "no error", "DecompressionBombError")
    strange = [f"{count} {name}" for name, count in counts.most_common() if name not in harmless]
    return Finding(", ".join(strange) or "0", not strange)


def _verify(data: bytes) -> None:
    opened(data).verify()


def verified(format: Format, scale: Scale) -> Finding:
    data = saved(format, photo(scale.small))
    opened(data).verify()
    rng = random.Random(2)
    found = 0
    for _ in range(20):
        broken = bytearray(data)
        broken[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        found += isinstance(attempt(_verify, bytes(broken)), Raised)
    return Finding(str(found), found == 20)


# --- options --------------------------------------------------------------------------------------

QUALITIES = (75.5, np.int64(50), 101, "high")


def qualities(format: Format, scale: Scale) -> Finding:
    image = photo(scale.small)
    outcomes = [attempt(saved, format, image, quality=value) for value in QUALITIES]
    if all(outcome == saved(format, image) for outcome in outcomes):
        return Finding("ignored", False)
    seen = [named(outcome) for outcome in outcomes]
    refused = {"ValueError", "TypeError"}
    return Finding(" / ".join(seen), seen[:2] == ["ok", "ok"] and refused.issuperset(seen[2:]))


def lossless(format: Format, scale: Scale) -> Finding:
    if format.lossless is None:
        return Finding("-", None)
    image = photo(scale.small)
    found = attempt(lambda: again(format, image, **format.lossless or {}).convert("RGB"))
    if isinstance(found, Raised):
        refused = isinstance(found.error, ValueError) and found.says("lossless")
        return Finding(f"{found.name}, by name" if refused else found.name, refused)
    off = largest_difference(found, image)
    return Finding(f"off by {off}" if off else "exact", not off)


def several_frames(format: Format, scale: Scale) -> Finding:
    first, second = photo(scale.small), PIL.ImageOps.mirror(photo(scale.small))
    found = attempt(again, format, first, save_all=True, append_images=[second])
    if isinstance(found, Raised):
        return Finding(found.name, True)
    frames = getattr(found, "n_frames", 1)
    return Finding(str(frames), frames == 2)


def no_pixels(format: Format, scale: Scale) -> Finding:
    outcome = attempt(saved, format, PIL.Image.new("RGB", (0, 5)))
    return Finding(named(outcome, "saved"), named(outcome) == "ValueError")


def unknown_option(format: Format, scale: Scale) -> Finding:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = attempt(saved, format, photo(scale.small), qualty=50)
    if isinstance(outcome, Raised):
        return Finding(outcome.name, outcome.says("qualty"))
    said = any("qualty" in str(each.message) for each in caught)
    return Finding("warns" if said else "silent", said)


# --- the rows of the table ------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the table: what is looked at, and what counts as a failure. `timing`: its figures need a
    quiet machine. `long`: its tests are slow ones at full scale."""

    title: str
    probe: Callable[[Format, Scale], Finding]
    failure: str
    timing: bool = False
    long: bool = False


ROWS: dict[str, Row] = {
    "open": Row(
        "open (read) / load of 12 megapixels, ms",
        open_and_load,
        f"opening takes more than {OPEN_MS:g} ms or reads more than {OPEN_BYTES // 1024} KiB; "
        "how long a load may take is not asked",
        timing=True,
        long=True,
    ),
    "l": Row("L saved and reopened", grey, "another mode comes back"),
    "la": Row("LA", grey_with_alpha, "another mode or another alpha comes back, or it is refused"),
    "i16": Row(
        "I;16",
        deep_grey,
        "other samples come back; refusing is none if the error says that it is the mode",
    ),
    "f": Row("F, 0 to 1", floats, "the same"),
    "cmyk": Row(
        "CMYK",
        cmyk,
        "other colours, a conversion without a warning, or a refusal that does not say that it is the mode",
    ),
    "p": Row(
        "P with transparency",
        palette_with_transparency,
        'the alpha that comes back is not that of `convert("RGBA")`, or it is refused',
    ),
    "rgb-key": Row("RGB with a transparent colour", colour_key, "the same"),
    "metadata": Row("open and save keep icc, exif, xmp", metadata_kept, "one of them is gone"),
    "exif-none": Row('`exif=None` / `b""`', exif_removed, "an error, or EXIF is still there"),
    "exif-object": Row("`exif=Image.Exif()`", exif_object, "an error, or EXIF is not there"),
    "orientation": Row(
        "orientation 6 in EXIF",
        orientation,
        "`ImageOps.exif_transpose` does not show the picture turned exactly once",
    ),
    "dpi": Row("dpi kept", resolution, "the resolution is another"),
    "threads": Row(
        f"{THREADS} threads, one unloaded image: right/wrong/error",
        threads_on_one_image,
        "a crash, an error or a wrong pixel in any of the loads",
        long=True,
    ),
    "threads-own": Row(f"{THREADS} threads, own images", threads_on_own_images, "the same", long=True),
    "pickle": Row("pickle of an unloaded image", pickled, "an error, or other pixels"),
    "sink": Row("target that can only write", write_only_sink, "an error, or other bytes"),
    "failed-save": Row(
        "failed save on an existing file",
        failed_save_on_a_file,
        "no way of saving leaves the old file as it was (Pillow empties it before a plugin is asked)",
    ),
    "failed-save-new": Row("failed save on a new file", failed_save_on_a_new_file, "a file is left behind"),
    "parser": Row(
        f"`ImageFile.Parser`, pieces of {', '.join(map(str, CHUNKS))}",
        parser_in_pieces,
        "an error, or other pixels, for any size",
    ),
    "parser-cut": Row("`ImageFile.Parser`, cut off", parser_cut_off, "no error, or one that is no OSError"),
    "truncated": Row("half a file: open / load", cut_in_half, "no error, or one that is no OSError"),
    "truncated-allowed": Row(
        "the same with LOAD_TRUNCATED_IMAGES",
        cut_in_half_and_allowed,
        "a picture that shows nothing of what is there, or an error that is no OSError",
    ),
    "damages": Row(
        "400 random damages: errors beside OSError",
        damages,
        "any (DecompressionBombError beside), or more than a second for one file",
        long=True,
    ),
    "verify": Row("`verify()` finds damages, of 20", verified, "less than 20"),
    "after-with": Row(
        "load after `with`",
        after_with,
        "an error that is no ValueError or does not say that the file is closed",
    ),
    "memory": Row(
        "300 opens, loads and saves: memory grown by MiB",
        memory,
        f"{LEAK // 2**20} or more",
        long=True,
    ),
    "quality": Row(
        'quality 75.5 / `np.int64(50)` / 101 / `"high"`',
        qualities,
        "one of the first two is refused or ignored, or one of the last two is not a ValueError or TypeError",
    ),
    "lossless": Row(
        "lossless, at its best setting",
        lossless,
        "other pixels; a ValueError that names the option is none",
    ),
    "save-all": Row("`save_all` of 2", several_frames, "fewer come back, and no error"),
    "empty": Row("0 x 5 pixels", no_pixels, "no error, or one that is no ValueError"),
    "unknown": Row("unknown option `qualty`", unknown_option, "silence"),
}


def main(arguments: list[str]) -> None:
    format, row = FORMATS[arguments[0]], ROWS[arguments[1]]
    format.prepare()
    warnings.simplefilter("ignore")
    print(json.dumps(asdict(row.probe(format, Scale()))))


if __name__ == "__main__":
    main(sys.argv[1:])
