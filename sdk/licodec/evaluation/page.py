"""Self-contained pages: one file of HTML with its styles, its script and its pictures.

    page("Title", body=fill("<p>$text</p>", text="<b>"), script="")     # ...<p>&lt;b&gt;</p>...

Templates, styles and scripts are the files in `web/`. What is filled in is escaped, unless it is `Html`. A
policy in the page's head lets a browser load nothing, and run nothing but the script that came with it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

from PIL import Image

from licodec.version import __version__

from .metrics import Pixels


class Html(str):
    """Text that is HTML already."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it shows, what it is sorted by where that is another number, its class."""

    text: str
    value: float | None = None
    look: str = ""


def fill(template: str, **values: object) -> Html:
    """A template with `$name` replaced by the values: as they are where they are `Html`, escaped where not.

    Raises KeyError for a name without a value.
    """
    return Html(Template(template).substitute({name: _escaped(value) for name, value in values.items()}))


def part(name: str) -> str:
    """The text of a file in `web/`."""
    return resources.files(__package__).joinpath("web", name).read_text("utf-8")


def page(title: str, body: Html, *, script: str) -> bytes:
    """A whole page in UTF-8. `script` is JavaScript, run when the body is there.

    What UTF-8 has no form for, such as half of a file name of another encoding, becomes a question mark.
    """
    style = part("style.css")
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_source(style)}; script-src {_source(script)}"
    )
    whole = fill(
        part("page.html"),
        title=title,
        policy=policy,
        version=__version__,
        style=Html(style),
        script=Html(script),
        body=body,
    )
    return whole.encode("utf-8", "replace")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, caption: str, sortable: bool = False
) -> Html:
    """A table that scrolls by itself where the page is too narrow. The first cell of a row is its heading.

    Columns of words begin at the left, those of numbers end at the right.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    words = [all(row[column].text[:1].isalpha() for row in cells) for column in range(len(head))]
    inner = '<button type="button">$text</button>' if sortable else "$text"
    heads = [
        fill(f'<th scope="col" class="$look">{inner}</th>', text=text, look="word" if word else "")
        for text, word in zip(head, words, strict=True)
    ]
    return fill(
        part("table.html"),
        caption=caption,
        look="sortable" if sortable else "",
        head=Html("".join(heads)),
        rows=Html("\n".join(_row(row, words) for row in cells)),
    )


def _row(cells: Sequence[Cell], words: Sequence[bool]) -> str:
    written = []
    for position, (cell, word) in enumerate(zip(cells, words, strict=True)):
        heading = '<th scope="row" class="$look"$value>$text</th>'
        value = Html("" if cell.value is None else f' data-value="{cell.value!r}"')
        look = cell.look or ("word" if word else "")
        template = '<td class="$look"$value>$text</td>' if position else heading
        written.append(fill(template, look=look, value=value, text=cell.text))
    return f"<tr>{''.join(written)}</tr>"


def data_uri(data: bytes, kind: str) -> str:
    """A file of media type `kind` as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture_uri(pixels: Pixels, profile: bytes | None = None) -> str:
    """A picture, uint8 H x W x 3, as an address that holds all its samples and their ICC profile."""
    sink = io.BytesIO()
    extra = {} if profile is None else {"icc_profile": profile}
    Image.fromarray(pixels).save(sink, "WEBP", lossless=True, quality=50, method=2, exact=True, **extra)
    return data_uri(sink.getvalue(), "image/webp")


def _escaped(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(str(value))


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
