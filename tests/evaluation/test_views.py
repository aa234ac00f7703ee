"""The pages of `licodec compare` and `licodec bench --html`, as a parser of HTML reads them."""

from __future__ import annotations

import base64
import dataclasses
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageCms

from licodec.evaluation.bench import BenchOptions, BenchResult, Classical, run
from licodec.evaluation.compare import Comparison, Original, Rendition
from licodec.evaluation.page import Cell, Html, fill, page, table
from licodec.evaluation.pictures import Source
from licodec.evaluation.views import bench_page, comparison_page

from .conftest import png, synthetic

HOSTILE = [
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>.png',
    "a' autofocus onfocus='alert(1).png",
    "$name ${body} $$ {{1}}.png",
    "</title></style><svg onload=alert(1)>",
    "]]>-->&lt;.png",
]


class Parsed(HTMLParser):
    """Every element with its attributes, and the text of those that this test asks for."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def outside(self) -> list[str]:
        """Addresses that are not in the page, and attributes that run."""
        return [
            f"{tag} {name}={value}"
            for tag, attributes in self.elements
            for name, value in attributes.items()
            if name.startswith("on")
            or (name in ("src", "href", "action", "data") and not str(value).startswith("data:"))
        ]


def rendition(name: str, size: int, fits: bool = True, seed: int = 2) -> Rendition:
    return Rendition(
        name,
        f"Title of {name}",
        42.0,
        synthetic(12, 20, seed),
        size,
        8 * size / 240,
        30.0,
        None,
        1.0,
        2.0,
        fits,
    )


@pytest.fixture
def found() -> Comparison:
    renditions = (rendition("fhic", 100), rendition("webp", 99, seed=3), rendition("avif", 300, fits=False))
    return Comparison(
        Original(synthetic(12, 20), ("grey, taken as RGB",)),
        (0, 0, 20, 12),
        renditions,
        left_out={"jxl": "needs <b>pillow-jxl-plugin</b>"},
    )


@pytest.fixture(scope="module")
def result() -> BenchResult:
    sources = [Source("a", lambda: png(synthetic(64, 80))), Source("b", lambda: png(synthetic(60, 70, 2)))]
    measured = run(
        [Classical("jpeg", (10, 30, 60, 90)), Classical("webp", (5, 30, 60, 90))],
        sources,
        BenchOptions("dir/set", ms_ssim=False, quick=True),
    )
    first, second = measured.codecs
    return dataclasses.replace(measured, codecs=(dataclasses.replace(first, kind="learned"), second))


@pytest.fixture(scope="module")
def bench(result: BenchResult) -> bytes:
    return bench_page(result)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picture_of_any_name_is_text_on_the_page(found: Comparison, name: str) -> None:
    plain = Parsed(comparison_page(found, "photo.png", "where"))
    hostile = Parsed(comparison_page(found, name, f"<i>{name}"))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.texts["h1"] == name and hostile.texts["title"].startswith(name)
    assert hostile.texts["footer"] == f"<i>{name}"
    assert hostile.outside() == []


def test_a_bench_of_pictures_of_any_name_is_text_on_the_page(result: BenchResult, bench: bytes) -> None:
    name = " ".join(HOSTILE)
    codecs = tuple(
        dataclasses.replace(
            codec,
            trials=tuple(dataclasses.replace(each, picture=name + each.picture) for each in codec.trials),
        )
        for codec in result.codecs
    )
    shapes = {name + picture: shape for picture, shape in result.shapes.items()}
    hostile = Parsed(bench_page(dataclasses.replace(result, codecs=codecs, shapes=shapes, images=name)))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in Parsed(bench).elements]
    assert hostile.texts["h1"] == f"{name}, 2 pictures" and hostile.outside() == []


def test_a_name_in_another_encoding_makes_a_page_that_is_utf8(found: Comparison) -> None:
    parsed = Parsed(comparison_page(found, "caf\udce9.png", ""))
    assert parsed.texts["h1"] == "caf?.png"


def test_pages_hold_all_that_they_need(found: Comparison, bench: bytes) -> None:
    for data in (comparison_page(found, "photo.png", "where"), bench):
        parsed = Parsed(data)
        assert parsed.outside() == []
        assert len(parsed.all("script")) == len(parsed.all("style")) == 1
        policy = str(next(meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta))
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
        assert b"url(" not in data and b"@import" not in data


def test_the_pictures_are_in_the_page_sample_by_sample_with_their_profile(found: Comparison) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    original = dataclasses.replace(found.original, profile=profile)
    parsed = Parsed(comparison_page(dataclasses.replace(found, original=original), "x", ""))
    shown = [picture for picture in parsed.all("img")]
    assert [picture["alt"] for picture in shown] == [
        "Original",
        "Title of fhic",
        "Title of webp",
        "Title of avif",
    ]
    expected = [found.pixels, *(one.pixels for one in found.renditions)]
    for picture, pixels in zip(shown, expected, strict=True):
        data = base64.b64decode(str(picture["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), pixels)
            assert image.info["icc_profile"] == profile


def test_the_page_says_what_was_done_and_what_could_not_be(found: Comparison) -> None:
    text = comparison_page(found, "photo.png", "on this machine").decode()
    assert "Grey, taken as RGB." in text and "on this machine" in text
    assert "Title of avif: its smallest file has 200 bytes more than ours." in text
    assert "JPEG XL e7 is left out: needs &lt;b&gt;pillow-jxl-plugin&lt;/b&gt;." in text
    assert text.count("\N{EN DASH}</td>") == 3  # MS-SSIM, where there is none


def test_equal_pictures_have_no_figure_in_decibels(found: Comparison) -> None:
    exact = dataclasses.replace(found.ours, psnr=float("inf"))
    page_of = comparison_page(dataclasses.replace(found, renditions=(exact,)), "x", "")
    assert b">equal</td>" in page_of and b"inf" not in page_of.split(b"<tbody>")[1].split(b"</tbody>")[0]


def test_the_bench_page_has_deltas_of_every_picture_and_every_point(
    result: BenchResult, bench: bytes
) -> None:
    text = bench.decode()
    assert "BD-rate of JPEG 4:2:0 optimize, picture by picture" in text
    for picture in ("a", "b"):
        assert text.count(f'<th scope="row" class="word">{picture}</th>') == 1 + 2 * 4
    for trial in result.codecs[0].trials:
        assert f'<td class="">{trial.bytes:,}</td>' in text
    assert "data:image/svg+xml;base64," in text


def test_a_bench_of_one_codec_has_a_page(result: BenchResult) -> None:
    for codec in result.codecs:
        text = bench_page(dataclasses.replace(result, codecs=(codec,))).decode()
        assert "picture by picture" not in text and codec.title in text


def test_values_are_escaped_unless_they_are_html() -> None:
    assert fill('<p title="$a">$b</p>', a='"<&>', b=Html("<b>x</b>")) == (
        '<p title="&quot;&lt;&amp;&gt;"><b>x</b></p>'
    )
    with pytest.raises(KeyError, match="missing"):
        fill("$missing")
    assert "&lt;i&gt;" in table(["<i>"], [[Cell("<i>", 1.5, '"x')]], caption="<i>") and "<i>" not in table(
        ["<i>"], [["<i>"]], caption="<i>"
    )
    assert b"<title>&lt;/title&gt;" in page("</title>", Html(""), script="")
