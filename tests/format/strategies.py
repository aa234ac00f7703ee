"""Hypothesis strategies made from the declared tables: a field that is added is a field that is tested."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lic_format import HEAD, Chunk, Flag, Head, LicFile, Unit, join_ans_body, pack_metadata, pack_resolution
from lic_format.fields import Bytes, EnumU8, Field, FlagsU8, Token, VarBytes, _Integer

TOKEN_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"


def values_of(field: Field) -> st.SearchStrategy[Any]:
    """Every value that a field may hold; long byte strings are represented by short ones and the longest."""
    if isinstance(field, _Integer):
        return st.integers(field.lo, field.hi) | st.sampled_from((field.lo, field.hi))
    if isinstance(field, EnumU8):
        return st.sampled_from(list(field.members.values()))
    if isinstance(field, FlagsU8):
        return st.sets(st.sampled_from(list(field.flags))).map(lambda bits: field.flags(sum(bits)))
    if isinstance(field, Bytes):
        return st.binary(min_size=field.max_size, max_size=field.max_size)
    if isinstance(field, VarBytes):
        return st.binary(max_size=min(field.longest, 200)) | st.just(bytes(min(field.longest, 1 << 16)))
    if isinstance(field, Token):
        return st.text(TOKEN_ALPHABET, min_size=field.length.lo, max_size=field.length.hi)
    raise NotImplementedError(f"no strategy for {type(field).__name__}: add one")


def _weightless(values: dict[str, Any]) -> dict[str, Any]:
    """HEAD's one rule between fields: no tag, no digests."""
    if not values["tag"]:
        values |= {"decode_digest": bytes(16), "synthesis_digest": bytes(8)}
    return values


head_values = st.fixed_dictionaries({name: values_of(field) for name, field, _ in HEAD.rows}).map(_weightless)

words = st.lists(st.binary(min_size=4, max_size=4), min_size=1, max_size=8).map(b"".join)
sealed_bodies = st.builds(
    lambda escapes, front, last: join_ans_body(escapes, front + last.to_bytes(4, "little")),
    st.binary(max_size=200),
    words,
    st.integers(1, (1 << 32) - 1),
)
units = st.builds(Unit, st.just(0), st.binary(max_size=20), sealed_bodies) | st.builds(
    Unit, st.sampled_from((1, 2)), st.binary(max_size=300), st.binary(max_size=300)
)

content = st.binary(min_size=1, max_size=300) | st.binary(min_size=1, max_size=3).map(lambda part: part * 200)
known_chunks = {
    "iccp": content.map(lambda body: pack_metadata("iccp", body)),
    "exif": content.map(lambda body: pack_metadata("exif", body)),
    "xmpd": content.map(lambda body: pack_metadata("xmpd", body)),
    "dpix": st.builds(pack_resolution, st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1)),
    "prev": st.binary(min_size=2, max_size=50).map(lambda body: Chunk("prev", body)),
    "ALPH": st.binary(min_size=1, max_size=50).map(lambda body: Chunk("ALPH", body)),
}
unknown_chunks = st.builds(Chunk, st.from_regex(r"\A[a-z][A-Za-z]{3}\Z"), st.binary(max_size=50)).filter(
    lambda chunk: chunk.type not in known_chunks
)


@st.composite
def files(draw: st.DrawFn) -> LicFile:
    """Whole files; the metadata stand in any order, as a caller may give them."""
    present = draw(st.sets(st.sampled_from(sorted(known_chunks))))
    metadata = [draw(known_chunks[name]) for name in sorted(present)] + draw(
        st.lists(unknown_chunks, max_size=3)
    )
    metadata = draw(st.permutations(metadata))
    values = draw(head_values)
    # Small pictures: the pixel limit is another test's affair.
    values |= {"width": values["width"] % 9999 + 1, "height": values["height"] % 9999 + 1}
    values["flags"] = values["flags"] & ~Flag.ALPHA | (Flag.ALPHA if "ALPH" in present else Flag(0))
    return LicFile(Head(**values), tuple(metadata), tuple(draw(st.lists(units, min_size=1, max_size=4))))
