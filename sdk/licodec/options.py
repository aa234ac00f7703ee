"""Every option of encoding and decoding, declared once.

The SDK's signatures, Pillow's `save` and the command line read this table: an option has the same name,
range, default and error message everywhere. To add one, add an `Option` here and hand its value to the codec
in `api`.

    >>> check("quality", 75)
    75.0
    >>> check("quality", 101)
    Traceback (most recent call last):
    ...
    lic_format.errors.UsageValueError: quality: expected a number from 0 to 100, got 101
"""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from lic_format.errors import UsageError, UsageTypeError, UsageValueError
from lic_format.header import Order
from licodec import metadata as kinds
from licodec.metadata import INHERIT

if TYPE_CHECKING:
    import PIL.Image

Host = Literal["sdk", "cli", "pillow"]
Scope = Literal["everything", "pillow", "imageio"]
Output = Literal["pil", "numpy", "torch"]

RATE_INDICES = 256
DEFAULT_QUALITY = 75.0


class TargetOptions(TypedDict, total=False):
    """The options of encoding that say how large or how good a file is to be, beside its quality."""

    target_size: int | None
    target_bpp: float | None
    target_psnr: float | None
    strict: bool
    lossless: bool | None


class MetadataOptions(TypedDict, total=False):
    """The metadata options of encoding, as keywords. One that is not given has the default of the table."""

    icc_profile: bytes | None
    exif: PIL.Image.Exif | bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    strip: bool


class EncodeOptions(TargetOptions, MetadataOptions, total=False):
    """What encoding takes beside what its signatures name."""

    digest: bool
    order: str | None
    tune: str | None
    effort: int | None
    tile_modes: str | None


class Defaults(TypedDict, total=False):
    """The options whose defaults `licodec.register` can set, and environment variables."""

    device: str | None
    threads: int | None
    download: str | None


@dataclass(frozen=True)
class Option:
    """One option.

    `check(name, value)` returns the value in its normal form or raises a `UsageError`; `expects` is the range
    in words, the same words in errors, `--help` and docs. `default` is in normal form; None means "not
    given". `setting` tells what an option with an `environment` variable then is: `otherwise` in the end.
    """

    name: str
    expects: str
    default: Any
    check: Callable[[str, Any], Any]
    doc: str
    encode: bool = True
    decode: bool = False
    hosts: frozenset[Host] = frozenset({"sdk", "cli", "pillow"})
    environment: str | None = None
    otherwise: Any = None
    readings: tuple[Callable[[str], Any], ...] = (int, float)

    def read(self, text: str) -> Any:
        """The value that a text stands for: as it is, or its first reading that `check` accepts."""
        try:
            return self.check(self.name, text)
        except UsageError:
            for reading in self.readings:
                with contextlib.suppress(UsageError, ValueError):
                    return self.check(self.name, reading(text))
            raise


def _wrong_value(name: str, expects: str, value: object) -> UsageValueError:
    return UsageValueError(f"{name}: expected {expects}, got {_shown(value)}", argument=name)


def _wrong_type(name: str, expects: str, value: object) -> UsageTypeError:
    return UsageTypeError(f"{name}: expected {expects}, got {_shown(value)}", argument=name)


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview) and len(value) > 16:
        return f"{len(value)} bytes"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _real(low: float, high: float) -> Callable[[str, Any], float | None]:
    def check(name: str, value: Any) -> float | None:
        expects = f"a number from {low:g} to {high:g}, or None"
        if value is None:
            return None
        # bool is a Real, and True as quality 1 is never what was meant; NumPy's scalars are Reals, its bool
        # is not.
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise _wrong_value(name, expects, value)
        number = float(value)
        if math.isnan(number) or not low <= number <= high:
            raise _wrong_value(name, expects, value)
        return number

    return check


def _whole(low: int, high: int | None = None) -> Callable[[str, Any], int | None]:
    reach = f"of at least {low}" if high is None else f"from {low} to {high}"
    expects = f"a whole number {reach}, or None"

    def check(name: str, value: Any) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _wrong_type(name, expects, value)
        if int(value) < low or (high is not None and int(value) > high):
            raise _wrong_value(name, expects, value)
        return int(value)

    return check


def _rectangle_or_none(name: str, value: Any) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    numbers_given = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(numbers_given, Sequence) or isinstance(numbers_given, str | bytes | bytearray):
        raise _wrong_type(name, _RECTANGLE, value)
    if len(numbers_given) != 4:
        raise _wrong_value(name, _RECTANGLE, value)
    if any(isinstance(each, bool) or not isinstance(each, numbers.Integral) for each in numbers_given):
        raise _wrong_type(name, _RECTANGLE, value)
    x0, y0, x1, y1 = map(int, numbers_given)
    return x0, y0, x1, y1


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _one_of(*values: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        expects = f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _wrong_type(name, expects, value)
        if value not in values:
            raise _wrong_value(name, expects, value)
        return int(value)

    return check


def _pattern(expects: str, pattern: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong_type(name, expects, value)
        if not re.fullmatch(pattern, value):
            raise _wrong_value(name, expects, value)
        return value

    return check


def _pattern_or_none(expects: str, pattern: str) -> Callable[[str, Any], str | None]:
    check = _pattern(expects, pattern)
    return lambda name, value: None if value is None else check(name, value)


def _path_or_none(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise _wrong_type(name, "a path, or None", value)
    path = os.fspath(value)
    if not isinstance(path, str) or not path:
        raise _wrong_value(name, "a path, or None", value)
    return path


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(name, "True or False", value)
    return value


def _flag_or_none(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise _wrong_type(name, _FLAG_OR_NONE, value)
    return bool(value)


def _inheritable(expects: str, normal: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        try:
            return value if value is INHERIT else normal(value)
        except TypeError as error:
            raise _wrong_type(name, expects, value) from error
        except ValueError as error:
            raise _wrong_value(name, expects, value) from error

    return check


def _number(name: str, low: float, high: float, doc: str) -> Option:
    """A number that need not be given."""
    return Option(
        name=name,
        expects=f"a number from {low:g} to {high:g}, or None",
        default=None,
        check=_real(low, high),
        doc=doc,
    )


def _stored(name: str, expects: str, normal: Callable[[Any], Any], what: str) -> Option:
    """A kind of metadata, for which None is a value."""
    return Option(
        name=name,
        expects=expects,
        default=INHERIT,
        check=_inheritable(expects, normal),
        hosts=frozenset({"sdk", "pillow"}),
        doc=f"{what} to store instead of the image's; None stores none.",
    )


_CONTENT = "at most 16 MiB as bytes, or None"
_EXIF = f"a PIL.Image.Exif or a TIFF structure, with or without the prefix Exif\\0\\0, of {_CONTENT}"
_DPI = "two numbers from 0.02 to 1e8 (pixels an inch, across and down), or None"
_TOKEN = "a codec's name (`licodec codecs` lists them)"
_FLAG_OR_NONE = "True or False, or None"
_RECTANGLE = "four whole numbers (x0, y0, x1, y1), or None"
_DEVICE = "auto, cpu, cuda or cuda:N, or None"
_MOST_THREADS = 1024
_MOST_EFFORT = 9
_TILE_MODES = "names of tile modes, separated by commas: lattice, lattice0, threeway; or None"
_DOWNLOAD = "auto or never, or None"
ORDERS = {order.name.lower().replace("_", "-"): order for order in Order}
_ORDER = f"{', '.join(list(ORDERS)[:-1])} or {list(ORDERS)[-1]}, or None"
_TUNE = "psnr or ms-ssim, or None"

OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        Option(
            name="codec",
            expects=_TOKEN,
            default="fhic",
            check=_pattern(_TOKEN, r"[a-z0-9-]{1,16}"),
            doc="The codec to encode with. A file names its own codec.",
        ),
        _number(
            "quality",
            0.0,
            100.0,
            "Higher is larger and closer to the picture. 100 is the codec's best, not lossless. 75 where "
            "no target is given either.",
        ),
        Option(
            name="target_size",
            expects="a whole number of at least 1, or None",
            default=None,
            check=_whole(1),
            doc="The most bytes that the file may have, all included; the best quality that fits is found.",
        ),
        _number("target_bpp", 0.0001, 64.0, "The same in bits a pixel."),
        _number(
            "target_psnr",
            1.0,
            100.0,
            "The least PSNR in dB over the 8-bit samples; the smallest file that has it is found.",
        ),
        Option(
            name="strict",
            expects="True or False",
            default=True,
            check=_flag,
            hosts=frozenset({"sdk", "pillow"}),
            doc="Whether a target that a picture can't meet is an error; else the nearest file is taken.",
        ),
        Option(
            name="lossless",
            expects=_FLAG_OR_NONE,
            default=False,
            check=_flag_or_none,
            doc="Keep every sample, with a lossless codec: pilc where the one named is lossy. No quality and "
            "no target then.",
        ),
        Option(
            name="digest",
            expects="True or False",
            default=False,
            check=_flag,
            doc="Store a BLAKE2b-128 of all samples, which decoding verifies; with a lossless codec only.",
        ),
        Option(
            name="order",
            expects=_ORDER,
            default=None,
            check=_pattern_or_none(_ORDER, "|".join(ORDERS)),
            doc="With fhic: in which order latents are coded. serial takes some five times as long "
            "as checkerboard, both ways, and its weights are a tag of their own. None is checkerboard.",
        ),
        Option(
            name="tune",
            expects=_TUNE,
            default=None,
            check=_pattern_or_none(_TUNE, "psnr|ms-ssim"),
            doc="With fhic: what files are made good by. ms-ssim takes weights of a tag of their own, which "
            "are trained for that measure of likeness. None is psnr.",
        ),
        Option(
            name="effort",
            expects=f"a whole number from 1 to {_MOST_EFFORT}, or None",
            default=None,
            check=_whole(1, _MOST_EFFORT),
            doc="How long to look for a better file, which decodes as fast. Lossy: 1 looks once, more "
            "improves latents for longer, from 6 on in PyTorch; 3 where nothing is said, or 1 where loops "
            "for it are not to be had. Lossless: 1 to 3 without networks, fast; 4 to 8 with them, 5 where "
            "nothing is said; 9 everything, coded and compared.",
        ),
        Option(
            name="tile_modes",
            expects=_TILE_MODES,
            default=None,
            check=_pattern_or_none(_TILE_MODES, r"(lattice0?|threeway)(,(lattice0?|threeway))*"),
            doc="With pilc: how parts of photographs may be coded, of lattice, lattice0 and threeway, "
            "separated by commas; None is what the effort takes. Drawn parts have ways of their own.",
        ),
        Option(
            name="weights",
            expects="a path, or None",
            default=None,
            check=_path_or_none,
            decode=True,
            doc="A weights file, or a folder of CODEC/TAG/model.safetensors, to use before all others.",
        ),
        Option(
            name="device",
            expects=_DEVICE,
            default=None,
            check=_pattern_or_none(_DEVICE, r"auto|cpu|cuda(:\d{1,3})?"),
            decode=True,
            environment="LICODEC_DEVICE",
            otherwise="auto",
            doc="Where the float networks run. auto is CUDA where it is available, else the CPU. None is "
            "LICODEC_DEVICE from the environment, or auto.",
        ),
        Option(
            name="threads",
            expects=f"a whole number from 1 to {_MOST_THREADS}, or None",
            default=None,
            check=_whole(1, _MOST_THREADS),
            decode=True,
            environment="LICODEC_THREADS",
            doc="On how many threads float networks and lossless coding run. None is "
            "LICODEC_THREADS from the environment, or what torch is set to, or for tiles all processors.",
        ),
        Option(
            name="download",
            expects=_DOWNLOAD,
            default=None,
            check=_pattern_or_none(_DOWNLOAD, r"auto|never"),
            decode=True,
            environment="LICODEC_DOWNLOAD",
            otherwise="auto",
            doc="Whether known weights that are not on this machine are fetched from the Hub. None is "
            "LICODEC_DOWNLOAD from the environment, or auto.",
        ),
        Option(
            name="decoder",
            expects="fast or best",
            default="fast",
            check=_pattern("fast or best", r"fast|best"),
            encode=False,
            decode=True,
            hosts=frozenset({"sdk", "cli"}),
            doc="best is a wider synthesis for the same file: closer pixels in more time, with weights that "
            "are no part of the package. Lossless pictures, and reduced ones, are the same with either.",
        ),
        Option(
            name="output",
            expects="pil, numpy or torch",
            default="pil",
            check=_pattern("pil, numpy or torch", r"pil|numpy|torch"),
            encode=False,
            decode=True,
            hosts=frozenset({"sdk"}),
            doc="The kind of picture to return.",
        ),
        Option(
            name="max_pixels",
            expects="a whole number of at least 1, or None",
            default=None,
            check=_whole(1),
            encode=False,
            decode=True,
            hosts=frozenset({"sdk", "cli"}),
            doc="Refuse larger pictures. None is LICODEC_MAX_PIXELS from the environment, or 2^28.",
        ),
        Option(
            name="max_pixels_per_byte",
            expects="a whole number of at least 1, or None",
            default=None,
            check=_whole(1),
            encode=False,
            decode=True,
            hosts=frozenset({"sdk", "cli"}),
            doc="Refuse files that ask for more pixels per byte of payload. None is 65536.",
        ),
        Option(
            name="reduce",
            expects="1, 4, 8 or 16",
            default=1,
            check=_one_of(1, 4, 8, 16),
            encode=False,
            decode=True,
            hosts=frozenset({"sdk", "cli"}),
            doc="Decode to that part of the size, sides rounded up, in less time.",
        ),
        Option(
            name="region",
            expects=_RECTANGLE,
            default=None,
            check=_rectangle_or_none,
            readings=(_numbers,),
            encode=False,
            decode=True,
            hosts=frozenset({"sdk", "cli"}),
            doc="Decode a rectangle: columns x0 to x1 - 1 of rows y0 to y1 - 1 as they are stored, before "
            "orientation.",
        ),
        _stored("icc_profile", _CONTENT, kinds.normal_content, "The ICC profile"),
        _stored("exif", _EXIF, kinds.normal_exif, "EXIF, the orientation with it,"),
        _stored("xmp", _CONTENT, kinds.normal_content, "The XMP packet (UTF-8)"),
        _stored("dpi", _DPI, kinds.normal_resolution, "The resolution"),
        Option(
            name="strip",
            expects="True or False",
            default=False,
            check=_flag,
            doc="Drop the metadata that the image carries; how it is turned stays.",
        ),
    )
}


def check(name: str, value: Any) -> Any:
    """The normal form of `value` for the option `name`; a `UsageError` that names the option otherwise."""
    return OPTIONS[name].check(name, value)


def metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    """All metadata options in normal form, those not given with their defaults; passes over target options.

    Raises a `UsageError` for a wrong value, and for a name that is neither.
    """
    names = tuple(MetadataOptions.__annotations__)
    for name in given:
        if name not in EncodeOptions.__annotations__:
            meant = nearest(name, "sdk", "encode")
            hint = f"; did you mean {meant}?" if meant else ""
            raise UsageTypeError(f"{name}: there is no such option{hint}", argument=name)
    return {name: check(name, given[name]) if name in given else default(name) for name in names}


def default(name: str) -> Any:
    """The default of an option, in normal form."""
    return OPTIONS[name].default


@dataclass(frozen=True)
class Setting:
    """What an option is in the end, and who says so: the option's name, or an environment variable's."""

    value: Any
    source: str


_registered: dict[Scope, dict[str, Any]] = {}


def set_defaults(scope: Scope, given: Mapping[str, Any]) -> None:
    """Make values the defaults of what is not given from now on; None takes a default back.

    Raises a `UsageError` for a wrong value, and for an option whose default can't be set.
    """
    for name in given:
        if name not in Defaults.__annotations__:
            known = ", ".join(Defaults.__annotations__)
            raise UsageTypeError(f"{name}: no default of this name can be set, expected {known}", name)
    checked = {name: check(name, value) for name, value in given.items()}
    kept = {**_registered.get(scope, {}), **checked}
    _registered[scope] = {name: value for name, value in kept.items() if value is not None}


def forget_defaults() -> None:
    """Take back what `set_defaults` has set."""
    _registered.clear()


def with_defaults(scope: Scope, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` and the defaults that were set for a host, for options that it leaves open."""
    found = _registered.get(scope, {})
    return {**given, **{name: value for name, value in found.items() if given.get(name) is None}}


def setting(name: str, given: Any = None) -> Setting:
    """What an option is: as given, else the default that was set for everything, else what its environment
    variable says, else what is built in. Raises a `UsageError` that names who was wrong.
    """
    value = check(name, given)
    if value is None:
        value = _registered.get("everything", {}).get(name)
    if value is not None:
        return Setting(value, name)
    option = OPTIONS[name]
    if option.environment and (text := os.environ.get(option.environment)):
        try:
            return Setting(option.read(text), option.environment)
        except UsageError as error:
            raise _wrong_value(option.environment, option.expects, text) from error
    return Setting(option.otherwise, name)


def understood_by(host: Host, direction: Literal["encode", "decode"]) -> tuple[Option, ...]:
    """The options that `host` takes when it encodes or decodes, in the order of the table."""
    return tuple(
        option
        for option in OPTIONS.values()
        if host in option.hosts and (option.encode if direction == "encode" else option.decode)
    )


def nearest(name: str, host: Host, direction: Literal["encode", "decode"]) -> str | None:
    """The option that a mistyped name probably meant, or None."""
    known = [option.name for option in understood_by(host, direction)]
    found = difflib.get_close_matches(name, known, n=1)
    return found[0] if found else None


def rate_index(quality: float) -> int:
    """The rate index 0..255 of a quality 0..100: linear, halves rounded up.

    Training spaces the indices evenly in the logarithm of lambda, so equal steps of quality are equal factors
    of it.
    """
    return math.floor(quality * (RATE_INDICES - 1) / 100.0 + 0.5)


def quality_of(rate: int) -> float:
    """The quality of a rate index, whole where a whole one means it, else to one decimal:
    `rate_index(quality_of(r)) == r` for r in 0..255."""
    quality = rate * 100.0 / (RATE_INDICES - 1)
    whole = float(round(quality))
    return whole if rate_index(whole) == rate else round(quality, 1)
