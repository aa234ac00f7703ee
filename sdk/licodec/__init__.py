"""licodec: images in the `.lic` format, coded by learned codecs.

    import licodec
    from PIL import Image

    Image.open("photo.png").save("photo.lic", quality=75)   # the import registered the format with Pillow
    data = licodec.encode(Image.open("photo.png"), quality=75)
    image = licodec.decode(data)

Names are loaded when they are first used: `import licodec` loads Pillow, but neither torch nor NumPy.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from licodec.plugins.hosts import register_imageio, unregister_imageio
from licodec.plugins.pillow import register_pillow, unregister_pillow

if TYPE_CHECKING:
    from typing import Unpack

    from lic_format.errors import (
        ExactnessError,
        FormatError,
        LicError,
        LicWarning,
        UnsupportedError,
        UsageError,
        WeightsError,
    )
    from licodec.api import (
        CodecInfo,
        Decoder,
        Encoder,
        Info,
        clear_cache,
        decode,
        encode,
        inspect,
        list_codecs,
        load,
        save,
    )
    from licodec.options import Defaults
    from licodec.version import __version__

__all__ = [
    "CodecInfo",
    "Decoder",
    "Encoder",
    "ExactnessError",
    "FormatError",
    "Info",
    "LicError",
    "LicWarning",
    "UnsupportedError",
    "UsageError",
    "WeightsError",
    "__version__",
    "clear_cache",
    "decode",
    "encode",
    "inspect",
    "list_codecs",
    "load",
    "register",
    "register_imageio",
    "register_pillow",
    "save",
    "unregister",
]

_ERRORS = {
    "ExactnessError",
    "FormatError",
    "LicError",
    "LicWarning",
    "UnsupportedError",
    "UsageError",
    "WeightsError",
}


def register(worker: object = None, /, **defaults: Unpack[Defaults]) -> None:
    """Make the hosts that are installed read and write `.lic`: Pillow and imageio.

    Importing licodec has done so already. Call it where an import alone would be removed as unused, and in
    worker processes started by "spawn" or "forkserver" (as `worker_init_fn`, as a pool's initializer): they
    inherit nothing. Calling it again changes nothing but the defaults that are named.

    Args:
        worker: nothing that matters; a data loader gives its `worker_init_fn` the worker's number.
        device, threads, download: of every call in this process that names none, through a host or not; None
            takes the default back. `register_pillow` and `register_imageio` take them for one host, which
            goes before.

    Raises:
        UsageError: a wrong value, by name.
    """
    if defaults:
        from licodec import options

        options.set_defaults("everything", defaults)
    register_pillow()
    register_imageio()


def unregister() -> None:
    """Take back what `register` and its sisters did, defaults too. For tests; images that are open keep
    working.
    """
    unregister_pillow()
    unregister_imageio()
    if options := sys.modules.get("licodec.options"):
        options.forget_defaults()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'licodec' has no attribute {name!r}")
    source = (
        "lic_format.errors"
        if name in _ERRORS
        else "licodec.version"
        if name == "__version__"
        else "licodec.api"
    )
    value = getattr(importlib.import_module(source), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
