"""Entering `.lic` into the registries of hosts, without importing a host that nobody uses.

imageio takes a second to import and has no way to announce a plugin from outside. Its registry is filled at
once where imageio is loaded, else right after somebody imports it.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

from lic_format.errors import LicWarning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME = "licodec"
EXTENSION = ".lic"
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
    """Finds nothing; sees to it that `_enter` runs once imageio's registry was imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_enter(module: ModuleType) -> None:
                run(module)
                try:
                    _enter(module)
                except Exception as error:  # a registry of another shape must not keep imageio from loading
                    warnings.warn(
                        f"imageio does not know {EXTENSION} files: {error!r}", LicWarning, stacklevel=2
                    )

            spec.loader.exec_module = run_and_enter  # type: ignore[method-assign]
        return spec
