"""What `register` puts into hosts, and that `unregister` takes it out; other formats notice neither."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.config
import PIL.Image
import pytest

import licodec
from licodec import options
from licodec.plugins.hosts import _AfterImport
from tests.sdk.fixtures import pixels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def registered_afterwards() -> Iterator[None]:
    yield
    licodec.unregister()
    licodec.register()


def run(code: str, *arguments: str) -> Any:
    """What a program prints last, as JSON."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- register, unregister -------------------------------------------------------------------------

REGISTRIES = """
import json, mimetypes, sys
def seen():
    import PIL.Image as pillow
    lists = (pillow.ID, pillow.OPEN, pillow.SAVE, pillow.SAVE_ALL)
    found = [sorted(map(str, one)) for one in (*lists, pillow.EXTENSION.items(), pillow.MIME.items())]
    found.append([type(finder).__name__ for finder in sys.meta_path])
    found.append([str(mimetypes.guess_type(name)) for name in ("x.lic", "x.LIC", "x.png", "lic")])
    if "imageio.config" in sys.modules:
        config = sys.modules["imageio.config"]
        found += [config.known_plugins, config.known_extensions]
        found.append([str(vars(one)) for one in config.extension_list])
    return [list(each) for each in found]
"""


@pytest.mark.parametrize("first", ["", "import imageio.v3", "import PIL.Image; PIL.Image.init()"])
def test_unregister_takes_everything_back(first: str) -> None:
    program = f"""{REGISTRIES}
{first}
before = seen()
import licodec
after = seen()
licodec.unregister()
licodec.unregister()
back = seen()
licodec.register()
print(json.dumps([before, after, back, seen()]))
"""
    before, after, back, again = run(program)
    assert back == before
    assert after != before
    assert again == after


@pytest.mark.parametrize("before", ["", "import mimetypes; mimetypes.init()"])
def test_the_type_is_known_and_the_systems_lists_are_read_when_somebody_asks(before: str) -> None:
    program = f"""
import json
{before}
import licodec, mimetypes
read = mimetypes.inited
found = [mimetypes.guess_type(name)[0] for name in ("x.lic", "x.png")]
print(json.dumps([read, *found, mimetypes.guess_extension("image/x-lic")]))
"""
    assert run(program) == [bool(before), "image/x-lic", "image/png", ".lic"]


def test_after_unregister_imageio_is_imported_as_if_we_were_not_there() -> None:
    program = f"""{REGISTRIES}
import licodec
licodec.unregister()
import imageio.v3
print(json.dumps(seen()))
"""
    assert "licodec" not in str(run(program))


def test_hosts_refuse_what_is_not_registered_and_images_that_are_open_still_load(
    lic: bytes, image: PIL.Image.Image
) -> None:
    opened = PIL.Image.open(io.BytesIO(lic))
    licodec.register(threads=1)
    licodec.unregister()
    with pytest.raises(PIL.UnidentifiedImageError):
        PIL.Image.open(io.BytesIO(lic))
    with pytest.raises(KeyError):
        image.save(io.BytesIO(), "LIC")
    assert "licodec" not in imageio.config.known_plugins
    assert options.setting("threads").value is None
    assert opened.tobytes() == image.tobytes()


def test_somebody_elses_entries_survive() -> None:
    extensions = imageio.config.known_extensions[".lic"]
    other = imageio.config.FileExtension(name="Licence", extension=".lic", priority=["pillow"])
    extensions.append(other)
    imageio.config.extension_list.append(other)
    PIL.Image.register_extension("PNG", ".lic")
    try:
        licodec.unregister()
        assert imageio.config.known_extensions[".lic"] == [other]
        assert other in imageio.config.extension_list
        assert PIL.Image.EXTENSION[".lic"] == "PNG"
    finally:
        PIL.Image.EXTENSION.pop(".lic", None)
        imageio.config.known_extensions.pop(".lic", None)
        imageio.config.extension_list.remove(other)


def test_one_finder_waits_for_imageio_however_often_it_is_asked_for() -> None:
    program = """
import json, sys, licodec
for _ in range(3): licodec.register()
print(json.dumps([type(finder).__name__ for finder in sys.meta_path]))
"""
    assert run(program).count(_AfterImport.__name__) == 1


def test_plugins_can_be_looked_up_and_entered_while_ours_is(monkeypatch: pytest.MonkeyPatch) -> None:
    known = imageio.config.known_plugins
    stop = threading.Event()
    faults: list[str] = []
    entered: list[str] = []

    def look_up() -> None:
        while not stop.is_set():
            if "pillow" not in known or "tifffile" not in known:
                faults.append("a plugin was missing")

    def enter() -> None:
        while not stop.is_set():
            name = f"other {len(entered)}"
            known[name] = known["pillow"]
            entered.append(name)
            stop.wait(0.0002)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for work in (look_up, look_up, enter)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3000):
            licodec.unregister()
            licodec.register_imageio()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
        lost = [name for name in entered if known.pop(name, None) is None]
    assert not faults
    assert not lost
    assert entered


# --- other formats --------------------------------------------------------------------------------

OPENS = """
import json, sys, hashlib, io, warnings
from pathlib import Path
if sys.argv[2] == "with": import licodec
from PIL import Image, ImageFile
import imageio.v3 as iio
warnings.simplefilter("ignore")
def told(work):
    try: return work()
    except Exception as error: return f"{type(error).__name__}: {error}".split(" object at ")[0]
def digest(data): return hashlib.sha256(data).hexdigest()
def opened(path):
    with Image.open(path) as image:
        first = image.format, image.mode, image.size, getattr(image, "n_frames", 1)
        return first, sorted(map(str, image.info)), digest(image.tobytes())
def parsed(path):
    parser = ImageFile.Parser()
    data = path.read_bytes()
    for start in range(0, len(data), 4096): parser.feed(data[start:start + 4096])
    image = parser.close()
    return image.format, digest(image.tobytes())
def verified(path):
    with Image.open(path) as image: image.verify()
def read(path): return digest(iio.imread(path).tobytes())
def asked(path):
    found = iio.improps(path)
    return str(found.shape), str(found.dtype), sorted(map(str, iio.immeta(path)))
def from_bytes(path): return digest(iio.imread(path.read_bytes()).tobytes())
names = sorted(path.name for path in Path(sys.argv[1]).iterdir())
calls = (opened, parsed, verified, read, asked, from_bytes)
print(json.dumps({name: [told(lambda: call(Path(sys.argv[1], name))) for call in calls] for name in names}))
"""


@pytest.mark.filterwarnings("ignore:.* image format is deprecated:DeprecationWarning")
def test_other_formats_open_as_if_we_were_not_there(tmp_path: Path) -> None:
    formats = corpus(tmp_path)
    assert len(formats) > 15
    without = run(OPENS, str(tmp_path), "without")
    assert run(OPENS, str(tmp_path), "with") == without
    assert sum(isinstance(opened, list) for opened, *_ in without.values()) > len(formats)


def corpus(folder: Path) -> list[str]:
    """A file in every format that Pillow writes, whole and cut, and bytes of no format at all."""
    PIL.Image.init()
    formats = []
    for name in sorted(PIL.Image.SAVE):
        if name in ("LIC", "PDF"):
            continue
        for mode in ("RGB", "L", "P", "1", "RGBA"):
            buffer = io.BytesIO()
            try:
                PIL.Image.fromarray(pixels(33, 47)).convert(mode).save(buffer, name)
            except (OSError, ValueError, KeyError, TypeError):
                continue
            (folder / f"{name}-{mode}").write_bytes(buffer.getvalue())
            formats.append(name)
            break
        else:
            continue
        extension = next((known for known, owner in PIL.Image.EXTENSION.items() if owner == name), "")
        (folder / f"{name}{extension}").write_bytes(buffer.getvalue())
        (folder / f"{name}-cut").write_bytes(buffer.getvalue()[: 2 * len(buffer.getvalue()) // 3])
        if name in ("PNG", "JPEG"):
            (folder / f"{name}.lic").write_bytes(buffer.getvalue())
    rng = random.Random(11)
    for number in range(8):
        (folder / f"random-{number}").write_bytes(rng.randbytes(rng.choice((0, 1, 8, 16, 300))))
    (folder / "almost").write_bytes(b"\x89LIC\n\x1a\r\n" + bytes(64))
    (folder / "text.lic").write_text("You may do as you like.")
    return formats


def test_writing_what_has_no_name_goes_as_if_we_were_not_there() -> None:
    program = """
import io, json, sys, warnings
if sys.argv[1] == "with": import licodec
import imageio.v3 as iio, imageio.v2 as v2, numpy as np
warnings.simplefilter("ignore")
array = np.zeros((4, 5, 3), np.uint8)
def told(work):
    try: return str(work())
    except Exception as error: return f"{type(error).__name__}: {error}".split(" at 0x")[0]
calls = (
    lambda: iio.imwrite("<bytes>", array),
    lambda: iio.imwrite(io.BytesIO(), array),
    lambda: v2.imwrite(io.BytesIO(), array),
    lambda: v2.imwrite("<bytes>", array),
    lambda: v2.mimwrite(io.BytesIO(), [array, array]),
    lambda: v2.volwrite(io.BytesIO(), np.zeros((2, 3, 4))),
    lambda: len(iio.imwrite("<bytes>", array, extension=".png")),
)
print(json.dumps([told(call) for call in calls]))
"""
    assert run(program, "with") == run(program, "without")
