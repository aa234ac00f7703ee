"""A second decoder of the tile modes without networks, written from SPEC.md alone: one sample at a time."""

from __future__ import annotations

import lzma
import zlib

Samples = list[list[list[int]]]


def unpack(packing: int, packed: bytes, size: int) -> bytes:
    if packing == 0:
        data = packed
    elif packing == 1:
        data = zlib.decompress(packed, -15)
    else:
        chain = [{"id": lzma.FILTER_LZMA2, "dict_size": max(4096, size)}]
        data = lzma.decompress(packed, lzma.FORMAT_RAW, filters=chain)
    assert len(data) == size
    return data


def unfilter(data: bytes, which: int, order: int, shape: tuple[int, int, int], octets: int) -> Samples:
    height, width, channels = shape
    rows = data[:height] if which == 4 else bytes([which]) * height
    data = data[height:] if which == 4 else data
    out: Samples = []
    for y in range(height):
        out.append([[0] * channels for _ in range(width)])
        for x in range(width):
            for c in range(channels):
                d = 0
                for b in range(octets):
                    plane = c * octets + b
                    pixel = y * width + x
                    at = pixel * channels * octets + plane if order == 0 else plane * height * width + pixel
                    d = d * 256 + data[at]
                left = out[y][x - 1][c] if x else 0
                above = out[y - 1][x][c] if y else 0
                corner = out[y - 1][x - 1][c] if x and y else 0
                taken = (0, left, above, left + above - corner)[rows[y]]
                out[y][x][c] = (d + taken) % 256**octets
    return out


def decode(mode: int, body: bytes, shape: tuple[int, int, int], octets: int) -> Samples:
    """The samples of a tile of so many bytes a sample."""
    height, width, channels = shape
    size = height * width * channels * octets
    if mode == 0:
        return unfilter(body, 0, 0, shape, octets)
    if mode == 1:
        return [[unfilter(body, 0, 0, (1, 1, channels), octets)[0][0]] * width] * height
    if mode == 2:
        count, packing = body[0] + 1, body[1]
        length, start = body[2] & 127, 3
        if body[2] > 127:
            length, start = length + 128 * body[3], 4
        data = unpack(packing, body[start : start + length], count * channels * octets)
        palette = unfilter(data, 2, 1, (count, 1, channels), octets)
        bits, which, packing = body[start + length : start + length + 3]
        columns = (width * bits + 7) // 8
        filters = height if which == 4 else 0
        data = unpack(packing, body[start + length + 3 :], filters + height * columns)
        rows = unfilter(data, which, 0, (height, columns, 1), 1)
        out = []
        for row in rows:
            digits = "".join(f"{value:08b}" for (value,) in row)
            out.append([palette[int(digits[x * bits : x * bits + bits], 2)][0] for x in range(width)])
        return out
    colour, order, which, packing = body[:4]
    filters = height if which == 4 else 0
    tile = unfilter(unpack(packing, body[4:], filters + size), which, order, shape, octets)
    if colour == 1:
        for row in tile:
            for pixel in row:
                pixel[0] = (pixel[0] + pixel[1]) % 256**octets
                pixel[2] = (pixel[2] + pixel[1]) % 256**octets
    return tile
