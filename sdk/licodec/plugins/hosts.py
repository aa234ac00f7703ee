"""Entering `.lic` into the registries of hosts, without importing a host that nobody uses.

imageio takes a second to import and has no way to announce a plugin from outside. Its registry is filled at
once where imageio is loaded, else right after somebody imports it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

from lic_format.errors import LicWarning
from licodec.plugins.pillow import EXTENSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME = "licodec"
_REGISTRY = "imageio.config"


def register_imageio() -> None:
    """Make imageio read and write `.lic` in this process, now or as soon as it is imported; calling it again
    changes nothing."""
    config = sys.modules.get(_REGISTRY)
    if config is not None and hasattr(config, "known_plugins"):
        _enter(config)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _enter(config: Any) -> None:
    """First in the list: imageio asks all plugins about bytes without a name; ours answers at a glance."""
    plugins = config.known_plugins
    if NAME in plugins:
        return
    ours = {NAME: config.PluginConfig(NAME, "LicPlugin", "licodec.plugins.imageio")}
    extension = config.FileExtension(name="Learned-codec image", extension=EXTENSION, priority=[NAME])
    others = dict(plugins)
    plugins.clear()
    plugins.update(ours | others)
    for suffix in (EXTENSION, EXTENSION.upper()):  # imageio asks for extension=".LIC" as it is
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
