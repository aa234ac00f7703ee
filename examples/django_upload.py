"""Take pictures in a Django form, `.lic` files among them, and know their size without decoding one.

python examples/django_upload.py out/samples/lic/*.lic    # what the form says of files
python examples/django_upload.py --serve 8000             # curl -F picture=@photo.lic http://127.0.0.1:8000/

A whole site in one file. In yours, `import licodec` belongs into `AppConfig.ready`; the field and the view
stay as they are. No torch is loaded: the header has the size, and checksums tell whether the rest is sound.
"""

from __future__ import annotations

import argparse
import contextlib
import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import django
from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST
from PIL import Image, ImageFile

import licodec

licodec.register()  # what `AppConfig.ready` does in a larger site

MOST_BYTES = 20_000_000
MOST_PIXELS = 50_000_000
HEADER = 1 << 20
"""A size that is not known after so many bytes is not waited for."""
NOT_YET = (zlib.error, struct.error, RuntimeError)
"""How some of Pillow's formats say that a header is not all there; the others, `.lic` too, say nothing."""

if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1", "localhost"], USE_TZ=True)
    django.setup()


def probe(chunks: Iterable[bytes]) -> tuple[int, int] | None:
    """Width and height as soon as the chunks tell them; None where they don't.

    Raises Image.DecompressionBombError for more pixels than Pillow takes.
    """
    parser, fed = ImageFile.Parser(), 0  # in no `with` statement, the end of which would decode the picture
    for chunk in chunks:
        with contextlib.suppress(*NOT_YET):
            parser.feed(chunk)
        if parser.image is not None:
            return parser.image.size
        fed += len(chunk)
        if fed >= HEADER:
            break
    return None


class PictureField(forms.ImageField):
    """Django's field for images with limits that hold before anything is read or decoded. Django's own
    `to_python` then calls `verify`, which for `.lic` compares every checksum."""

    def to_python(self, data: Any) -> Any:
        if data in self.empty_values:
            return super().to_python(data)
        if data.size > MOST_BYTES:
            raise ValidationError(f"{data.size:,} bytes; the most are {MOST_BYTES:,}", code="too_many_bytes")
        try:
            size = probe(data.chunks(1 << 16))
        except Image.DecompressionBombError as error:
            raise ValidationError(str(error), code="too_many_pixels") from error
        if size is not None and size[0] * size[1] > MOST_PIXELS:
            raise ValidationError(
                f"{size[0]} x {size[1]} pixels; the most are {MOST_PIXELS:,}", code="too_many_pixels"
            )
        data.seek(0)
        return super().to_python(data)


class UploadForm(forms.Form):
    picture = PictureField()


def upload(request: HttpRequest) -> HttpResponse:
    form = UploadForm(request.POST, request.FILES)
    if not form.is_valid():
        return JsonResponse(form.errors, status=400)
    file = form.cleaned_data["picture"]
    width, height = file.image.size
    return JsonResponse({"type": file.content_type, "width": width, "height": height, "bytes": file.size})


urlpatterns = [path("", require_POST(upload))]
application = get_wsgi_application()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Say what a Django form says of picture files.")
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--serve", type=int, metavar="PORT", help="take uploads on 127.0.0.1 instead")
    given = parser.parse_args(arguments)
    if given.serve is not None:
        make_server("127.0.0.1", given.serve, application).serve_forever()
    missing = [str(file) for file in given.files if not file.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    refused = False
    for file in given.files:
        form = UploadForm({}, {"picture": SimpleUploadedFile(file.name, file.read_bytes())})
        if form.is_valid():
            width, height = form.cleaned_data["picture"].image.size
            print(f"{file.name}: {width} x {height}")
        else:
            refused = True
            print(f"{file.name}: {' '.join(form.errors['picture'])}")
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
