"""Triton kernels of pilc's tile mode 4: nets, lanes and the base lattice of many tiles at once.

What they compute is `lossless` and `entropy.lanes` bit for bit, and integers alone: every sum is taken modulo
2^32, and fits. `lossless_cuda` launches them, says what stands in which buffer and checks what was read. No
kernel reads or writes outside of its buffers, whatever bytes were uploaded.

One program of `predict` has a run of samples of one tile; all others have a tile each.
"""

from __future__ import annotations

import triton
import triton.language as tl

_NUMBERS = (
    *("count", "width", "height", "stride_y", "stride_x", "target", "area", "tile_samples", "row_length"),
    *("row_first", "blocks", "base_table", "stage_count", "lanes", "plane", "own", "around", "head_length"),
)
"""Arguments that differ between stages: none of their values is worth a kernel of its own."""


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=("chosen",))
def predict(
    planes: tl.tensor,
    values: tl.tensor,
    indices: tl.tensor,
    places: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    integers: tl.tensor,
    rows: tl.tensor,
    tables_of: tl.tensor,
    chosen: tl.tensor,
    count: tl.tensor,
    width: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    target: tl.tensor,
    area: tl.tensor,
    tile_samples: tl.tensor,
    row_length: tl.tensor,
    row_first: tl.tensor,
    blocks: tl.tensor,
    plane: tl.tensor,
    own: tl.tensor,
    around: tl.tensor,
    K: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    CODE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Prediction and table of each sample of a pass, or its symbol and table.

    The net's products are taken by int8: a number is 256 high + low, both -128..127, and so is a product of
    two numbers four products of int8. The linear prediction and the last layer are sums over a row.

    planes: int16 [tiles, planes, H, W] of G, R - G, B - G; `area` H W, `tile_samples` planes H W.
    values, indices: uint8 [tiles, row_length], written from `row_first` on: predictions, or symbols if CODE.
    places: int32 [5, K + 4]. Of each input, then of the nearest four: offset in the tile, rows and columns
        further, last row and column of its phase.
    first: int8 [2, A, K], low and high; second: int8 [2, B, A], for units less 16384.
    integers: int32, what is added in the first layer [A] and in the second [B], weights of correction and
        activity [2, B], then what is added to the linear prediction and to these two.
    rows: int32 [any, K], linear weights; tables_of: uint8 [any, 16384], tables by activity and quarter.
    chosen: int32 [tiles, 2], which of the rows and which of the tables a tile has.
    count, width: samples of the pass in a tile and in a row of them. stride_y, stride_x: from one to the next
        in a plane; target: offset of the first. plane: of the pass; own, around: inputs of its own and of
        each earlier plane.
    """
    program = tl.program_id(0)
    tile = (program // blocks).to(tl.int64)
    asked = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    n = tl.minimum(asked, count - 1)
    i = n // width
    j = n - i * width
    source = planes + tile * tile_samples
    here = target + i * stride_y + j * stride_x

    k = tl.arange(0, K)
    known = k < own + plane * around
    mean = tl.full([BLOCK], 2, tl.int32)
    for corner in tl.static_range(4):
        place = places + K + corner
        y = tl.minimum(tl.maximum(i + tl.load(place + (K + 4)), 0), tl.load(place + 3 * (K + 4)))
        x = tl.minimum(tl.maximum(j + tl.load(place + 2 * (K + 4)), 0), tl.load(place + 4 * (K + 4)))
        mean += tl.load(source + tl.load(place) + y * stride_y + x * stride_x).to(tl.int32)
    mean = mean >> 2

    offset = tl.load(places + k)
    down = tl.load(places + (K + 4) + k)
    right = tl.load(places + 2 * (K + 4) + k)
    bottom = tl.load(places + 3 * (K + 4) + k)
    edge = tl.load(places + 4 * (K + 4) + k)
    ys = tl.minimum(tl.maximum(i[:, None] + down[None, :], 0), bottom[None, :])
    xs = tl.minimum(tl.maximum(j[:, None] + right[None, :], 0), edge[None, :])
    at = offset[None, :] + ys * stride_y + xs * stride_x
    seen = tl.load(source + at, mask=known[None, :], other=0).to(tl.int32)
    green = tl.where(plane > 0, tl.load(source + here).to(tl.int32), 0)
    red = tl.load(source + (plane // 2) * area + here).to(tl.int32)
    midst = tl.where((k < own + around)[None, :], green[:, None], red[:, None])
    midst = tl.where((k < own)[None, :], mean[:, None], midst)
    seen = tl.where(known[None, :], seen - midst, 0)

    a = tl.arange(0, A)
    b = tl.arange(0, B)
    low = ((seen + 128) & 255) - 128
    high = (seen - low) >> 8
    low8 = low.to(tl.int8)
    high8 = high.to(tl.int8)
    weights = first + a[None, :] * K + k[:, None]
    weights_low = tl.load(weights)
    weights_high = tl.load(weights + A * K)
    u = tl.dot(high8, weights_high, out_dtype=tl.int32) << 8
    u = tl.dot(low8, weights_high, acc=u, out_dtype=tl.int32)
    u = tl.dot(high8, weights_low, acc=u, out_dtype=tl.int32) << 8
    u = tl.dot(low8, weights_low, acc=u, out_dtype=tl.int32)
    u = tl.minimum(tl.maximum(u + tl.load(integers + a)[None, :], 0), 32767) - 16384
    row = rows + tl.load(chosen + tile * 2) * K
    line = tl.sum(seen * tl.load(row + k)[None, :], axis=1)

    low = ((u + 128) & 255) - 128
    high = (u - low) >> 8
    low8 = low.to(tl.int8)
    high8 = high.to(tl.int8)
    weights = second + b[None, :] * A + a[:, None]
    weights_low = tl.load(weights)
    weights_high = tl.load(weights + B * A)
    v = tl.dot(high8, weights_high, out_dtype=tl.int32) << 8
    v = tl.dot(low8, weights_high, acc=v, out_dtype=tl.int32)
    v = tl.dot(high8, weights_low, acc=v, out_dtype=tl.int32) << 8
    v = tl.dot(low8, weights_low, acc=v, out_dtype=tl.int32)
    v = tl.minimum(tl.maximum((v + tl.load(integers + A + b)[None, :]) >> 6, 0), 32767)
    third = integers + A + B
    added = third + 2 * B
    correction = tl.sum(v * tl.load(third + b)[None, :], axis=1) + tl.load(added + 1)
    activity = tl.sum(v * tl.load(third + B + b)[None, :], axis=1) + tl.load(added + 2)

    # Quarters of a level: (linear / 512 + correction / 4096) 4, rounded.
    quarters = (line + tl.load(added) + (correction >> 3) + 64 + 2 * 128) >> 7
    activity = tl.minimum(tl.maximum(activity >> 6, 0), 4095)
    table_of = tables_of + tl.load(chosen + tile * 2 + 1) * 16384
    table = tl.load(table_of + activity * 4 + (quarters & 3))
    value = tl.minimum(tl.maximum((quarters >> 2) + mean + green, 0), 255)
    if CODE:
        value = tl.load(source + plane * area + here).to(tl.int32) + green - value
    out = tile * row_length + row_first + n
    tl.store(values + out, (value & 255).to(tl.uint8), mask=asked < count)
    tl.store(indices + out, table, mask=asked < count)


@triton.jit(do_not_specialize=_NUMBERS)
def decode_lanes(
    data: tl.tensor,
    sections: tl.tensor,
    lanes_of: tl.tensor,
    states: tl.tensor,
    taken: tl.tensor,
    slots: tl.tensor,
    codes: tl.tensor,
    values: tl.tensor,
    indices: tl.tensor,
    planes: tl.tensor,
    count: tl.tensor,
    width: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    target: tl.tensor,
    area: tl.tensor,
    tile_samples: tl.tensor,
    base_table: tl.tensor,
    plane: tl.tensor,
    BASE: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Symbols of a stage, and the samples that they make.

    data: uint8, bodies one after the other. sections: int64 [tiles, 4], where the words start in it and how
        many there are, and the same of escapes. lanes_of: int32 [tiles], 1..LANES.
    states: int32 [tiles, LANES], the lanes' as they are. taken: int32 [tiles, 3], words and escapes that were
        asked for, and whether one was escaped needlessly.
    slots: int32 [tables, 4096]; codes: int32 [tables, 256]; see `LaneTables`.
    values: uint8 [tiles, count]: predictions, or if BASE what becomes the symbols. indices: uint8 [tiles,
        count]; if BASE all are `base_table`. planes and what is after `count`: see `predict`.
    """
    tile = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    lanes = tl.load(lanes_of + tile)
    words = data + tl.load(sections + tile * 4)
    words_stored = tl.load(sections + tile * 4 + 1).to(tl.int32)
    escapes = data + tl.load(sections + tile * 4 + 2)
    escapes_stored = tl.load(sections + tile * 4 + 3).to(tl.int32)
    at = tl.load(taken + tile * 3)
    escape = tl.load(taken + tile * 3 + 1)
    source = planes + tile * tile_samples
    state = tl.load(states + tile * LANES + lane).to(tl.uint32, bitcast=True)
    needless = tl.zeros([LANES], tl.int32)
    for row in range(0, tl.cdiv(count, lanes)):
        n = row * lanes + lane
        here = (lane < lanes) & (n < count)
        place = tile * count + n
        if BASE:
            table = tl.zeros([LANES], tl.int32) + base_table
        else:
            table = tl.load(indices + place, mask=here, other=0).to(tl.int32)
        with_escape = (tl.load(codes + table * 256 + 128) >> 15) & 1
        slot = (state & 4095).to(tl.int32)
        entry = tl.load(slots + table * 4096 + slot).to(tl.uint32, bitcast=True)
        symbol = (entry >> 24).to(tl.int32)
        stepped = (((entry >> 12) & 4095) + 1) * (state >> 12) + (entry & 4095)
        low = here & (stepped >> 16 == 0)
        escaped = here & (symbol == 128) & (with_escape != 0)
        both = low.to(tl.int32) + (escaped.to(tl.int32) << 16)
        ranks = tl.cumsum(both, 0) - both
        total = tl.sum(both, 0)

        word = at + (ranks & 0xFFFF)
        there = low & (word < words_stored)
        pair = words + word.to(tl.int64) * 2
        drawn = tl.load(pair, mask=there, other=0).to(tl.uint32)
        drawn |= tl.load(pair + 1, mask=there, other=0).to(tl.uint32) << 8
        stepped = tl.where(low, (stepped << 16) | drawn, stepped)
        state = tl.where(here, stepped, state)

        byte = escape + (ranks >> 16)
        raw = tl.load(escapes + byte, mask=escaped & (byte < escapes_stored), other=128).to(tl.int32)
        coded = ((tl.load(codes + table * 256 + raw) >> 15) & 1) == 0
        needless = tl.where(escaped & coded, 1, needless)
        symbol = tl.where(escaped, raw, symbol)
        at += total & 0xFFFF
        escape += total >> 16

        if BASE:
            tl.store(values + place, symbol.to(tl.uint8), mask=here)
        else:
            i = n // width
            j = n - i * width
            to = target + i * stride_y + j * stride_x
            sample = (symbol + tl.load(values + place, mask=here, other=0).to(tl.int32)) & 255
            green = tl.load(source + to, mask=here, other=0).to(tl.int32)
            sample -= tl.where(plane > 0, green, 0)
            tl.store(source + plane * area + to, sample.to(tl.int16), mask=here)
    tl.store(states + tile * LANES + lane, state.to(tl.int32, bitcast=True))
    tl.store(taken + tile * 3, at)
    tl.store(taken + tile * 3 + 1, escape)
    found = tl.max(needless, 0)
    tl.store(taken + tile * 3 + 2, found | tl.load(taken + tile * 3 + 2))


@triton.jit(do_not_specialize=_NUMBERS)
def base(
    planes: tl.tensor,
    values: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    stride_y: tl.tensor,
    stride_x: tl.tensor,
    area: tl.tensor,
    tile_samples: tl.tensor,
    row_length: tl.tensor,
    row_first: tl.tensor,
    plane: tl.tensor,
    CODE: tl.constexpr,
    SIDE: tl.constexpr,
) -> None:
    """Samples of a base lattice of `height` x `width` <= SIDE from their differences, or the inverse (CODE).

    values: uint8 [tiles, row_length], from `row_first` on. planes and the rest: see `predict`.
    """
    tile = tl.program_id(0).to(tl.int64)
    y = tl.arange(0, SIDE)
    x = tl.arange(0, SIDE)
    inside = (y < height)[:, None] & (x < width)[None, :]
    at = y[:, None] * stride_y + x[None, :] * stride_x
    source = planes + tile * tile_samples
    place = values + tile * row_length + row_first + y[:, None] * width + x[None, :]
    green = tl.where(plane > 0, tl.load(source + at, mask=inside, other=0).to(tl.int32), 0)
    own = source + plane * area + at
    if CODE:
        samples = tl.load(own, mask=inside, other=0).to(tl.int32) + green
        from_left = (x > 0)[None, :] & inside
        before = tl.load(own - stride_x, mask=from_left, other=0).to(tl.int32)
        from_above = (x == 0)[None, :] & (y > 0)[:, None] & inside
        before += tl.load(own - stride_y, mask=from_above, other=0).to(tl.int32)
        green_before = tl.load(source + at - stride_x, mask=from_left, other=0).to(tl.int32)
        green_before += tl.load(source + at - stride_y, mask=from_above, other=0).to(tl.int32)
        before += tl.where(plane > 0, green_before, 0)
        tl.store(place, ((samples - before) & 255).to(tl.uint8), mask=inside)
    else:
        differences = tl.load(place, mask=inside, other=0).to(tl.int32)
        left = tl.sum(tl.where((x == 0)[None, :], differences, 0), axis=1)
        starts = tl.cumsum(left, 0)
        differences = tl.where((x == 0)[None, :], starts[:, None], differences)
        samples = tl.cumsum(differences, 1) & 255
        tl.store(own, (samples - green).to(tl.int16), mask=inside)


@triton.jit(do_not_specialize=_NUMBERS)
def encode_lanes(
    values: tl.tensor,
    indices: tl.tensor,
    stages: tl.tensor,
    stage_count: tl.tensor,
    codes: tl.tensor,
    states: tl.tensor,
    words: tl.tensor,
    escapes: tl.tensor,
    first: tl.tensor,
    lanes: tl.tensor,
    row_length: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """All stages of a tile, from the last symbol to the first.

    values, indices: uint8 [tiles, row_length], symbols and tables. stages: int32 [stage_count + 1], where
    each starts. codes: int32 [tables, 256], see `LaneTables`. states: int32 [tiles, LANES]. words, escapes:
    int16 and uint8 [tiles, row_length], filled from their ends. first: int32 [tiles, 2], where they start.
    """
    tile = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    state = tl.full([LANES], 65536, tl.uint32)
    word = row_length
    escape = row_length
    of_tile = tile * row_length
    for done in range(0, stage_count):
        start = tl.load(stages + stage_count - 1 - done)
        stop = tl.load(stages + stage_count - done)
        rows = tl.cdiv(stop - start, lanes)
        for behind in range(0, rows):
            n = start + (rows - 1 - behind) * lanes + lane
            here = (lane < lanes) & (n < stop)
            symbol = tl.load(values + of_tile + n, mask=here, other=0)
            table = tl.load(indices + of_tile + n, mask=here, other=0).to(tl.int32)
            code = tl.load(codes + table * 256 + symbol.to(tl.int32), mask=here, other=65536)
            frequency = (code >> 16).to(tl.uint32)
            full = here & ((state >> 20) >= frequency)
            escaped = here & (((code >> 15) & 1) != 0)
            both = full.to(tl.int32) + (escaped.to(tl.int32) << 16)
            ranks = tl.cumsum(both, 0) - both
            total = tl.sum(both, 0)
            word -= total & 0xFFFF
            escape -= total >> 16
            low = (state & 65535).to(tl.uint16).to(tl.int16, bitcast=True)
            tl.store(words + of_tile + word + (ranks & 0xFFFF), low, mask=full)
            tl.store(escapes + of_tile + escape + (ranks >> 16), symbol, mask=escaped)
            state = tl.where(full, state >> 16, state)
            quotient = state // frequency
            stepped = (quotient << 12) + (code & 4095).to(tl.uint32) + (state - quotient * frequency)
            state = tl.where(here, stepped, state)
    tl.store(states + tile * LANES + lane, state.to(tl.int32, bitcast=True), mask=lane < lanes)
    tl.store(first + tile * 2, word)
    tl.store(first + tile * 2 + 1, escape)


@triton.jit(do_not_specialize=_NUMBERS)
def pack(
    heads: tl.tensor,
    head_sizes: tl.tensor,
    escapes: tl.tensor,
    states: tl.tensor,
    words: tl.tensor,
    first: tl.tensor,
    starts: tl.tensor,
    out: tl.tensor,
    lanes: tl.tensor,
    row_length: tl.tensor,
    head_length: tl.tensor,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Bodies one after the other: head, escapes, states, words.

    heads: uint8 [tiles, head_length], adaptation, lanes and count of escapes, the first `head_sizes` [tiles]
    of them. escapes, states, words, first: as `encode_lanes` left them; states as uint8 [tiles, 4 LANES],
    words as uint8 [tiles, 2 row_length]. starts: int64 [tiles + 1], of the bodies in `out`.
    """
    tile = tl.program_id(0).to(tl.int64)
    start = tl.load(starts + tile)
    size = (tl.load(starts + tile + 1) - start).to(tl.int32)
    first_word = tl.load(first + tile * 2)
    first_escape = tl.load(first + tile * 2 + 1)
    before_escapes = tl.load(head_sizes + tile)
    before_states = before_escapes + row_length - first_escape
    before_words = before_states + 4 * lanes
    for top in range(0, size, BLOCK):
        n = top + tl.arange(0, BLOCK)
        inside = n < size
        in_head = n < before_escapes
        in_escapes = (n >= before_escapes) & (n < before_states)
        in_states = (n >= before_states) & (n < before_words)
        in_words = (n >= before_words) & inside
        byte = tl.load(heads + tile * head_length + n, mask=in_head, other=0)
        byte |= tl.load(
            escapes + tile * row_length + first_escape + (n - before_escapes), mask=in_escapes, other=0
        )
        byte |= tl.load(states + tile * 4 * LANES + (n - before_states), mask=in_states, other=0)
        byte |= tl.load(
            words + (tile * row_length + first_word) * 2 + (n - before_words), mask=in_words, other=0
        )
        tl.store(out + start + n, byte, mask=inside)
