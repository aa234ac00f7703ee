"""Entering `.lic` into the registries of hosts, without importing a host that nobody uses.

imageio takes a second to import and has no way to announce a plugin from outside. Its registry is filled at
once where imageio is loaded, else right after somebody imports it.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib.util
import operator
import sys
import threading
import warnings
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

from lic_format.errors import LicWarning
from licodec.plugins.pillow import EXTENSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Unpack

    from licodec.options import Defaults

NAME, _UNNAMED = "licodec", "licodec-unnamed"
_REGISTRY, _LAST = "imageio.config", "PluginConfig"
"""The module, and the name that it defines last: while it is missing somebody is importing it."""
_SUFFIXES = (EXTENSION, EXTENSION.upper())  # imageio asks for extension=".LIC" as it is


def register_imageio(worker: object = None, /, **defaults: Unpack[Defaults]) -> None:
    """Make imageio read and write `.lic` in this process, now or as soon as it is imported; calling it again
    changes nothing but the defaults that are named.

    Args:
        worker: see `licodec.register`.
        device, threads, download: for what imageio reads and writes, where a call does not say otherwise.
    """
    if defaults:
        from licodec import options

        options.set_defaults("imageio", defaults)
    config = sys.modules.get(_REGISTRY)
    if config is not None and hasattr(config, _LAST):
        _enter(config)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def unregister_imageio() -> None:
    """Take the format out of imageio's registry again, and what waits for that out of the imports."""
    # A new list: who is looking for a module in the old one misses no finder.
    sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, _AfterImport)]
    config = sys.modules.get(_REGISTRY)
    if config is None or not hasattr(config, _LAST):
        return
    with _lock:
        for suffix in _SUFFIXES:
            others = [one for one in config.known_extensions.get(suffix, ()) if NAME not in one.priority]
            if others:
                config.known_extensions[suffix][:] = others
            else:
                config.known_extensions.pop(suffix, None)
        config.extension_list[:] = [one for one in config.extension_list if NAME not in one.priority]
        for name in (NAME, _UNNAMED):
            config.known_plugins.pop(name, None)


_lock = threading.Lock()


def _enter(config: Any) -> None:
    """Enter us twice. imageio asks all plugins in turn about what has no name. For reading we come first and
    answer at a glance; what is written there is ours only where somebody named us, which is last.
    """
    plugins = config.known_plugins
    with _lock:
        if NAME in plugins:
            return
        named, unnamed = (
            {name: config.PluginConfig(name, class_name, "licodec.plugins.imageio")}
            for name, class_name in ((NAME, "LicPlugin"), (_UNNAMED, "UnnamedLicPlugin"))
        )
        # Other threads may be looking plugins up or entering theirs, and hold on to this very dict. No Python
        # runs between these calls, so none of them finds it empty.
        others: dict[str, Any] = {}
        steps = (
            functools.partial(others.update, plugins),
            plugins.clear,
            functools.partial(plugins.update, unnamed),
            functools.partial(plugins.update, others),
            functools.partial(plugins.update, named),
        )
        collections.deque(map(operator.call, steps), maxlen=0)
        extension = config.FileExtension(name="Learned-codec image", extension=EXTENSION, priority=[NAME])
        for suffix in _SUFFIXES:
            config.known_extensions.setdefault(suffix, []).insert(0, extension)
        config.extension_list.append(extension)


class _AfterImport(MetaPathFinder):
    """Finds nothing itself; sees to it that `_enter` runs once imageio's registry was imported.

    It stays in `sys.meta_path`: whoever takes a finder out makes an import in another thread miss one.
    """

    done = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self.done or fullname != _REGISTRY:
            return None
        self.done = True  # the other finders are asked in between
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            self.done = False
        else:
            spec.loader = _Entering(spec.loader, self)
        return spec


class _Entering(Loader):
    """A loader that enters us when its module has run."""

    def __init__(self, loader: Loader, finder: _AfterImport) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        except BaseException:
            self._finder.done = False  # it may be imported again
            raise
        try:
            _enter(module)
        except Exception as error:  # a registry of another shape must not keep imageio from loading
            with contextlib.suppress(LicWarning):
                warnings.warn(f"imageio does not know {EXTENSION} files: {error!r}", LicWarning, stacklevel=2)
