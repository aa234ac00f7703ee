"""Pillow's naming convention: `import licodec.LicImagePlugin` registers `.lic`, like Pillow's own."""

from licodec.plugins.pillow import LicImageFile, register_pillow

__all__ = ["LicImageFile", "register_pillow"]

register_pillow()
