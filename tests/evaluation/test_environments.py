import math
from collections.abc import Callable

import pytest

from licodec.evaluation.environments import (
    ENVIRONMENTS,
    OTHER_PRECISION_DB,
    Row,
    compare,
    markdown,
)
from licodec.evaluation.pictures import Source

Make = Callable[..., Source]


def row(refused: tuple[str, ...] = (), there: float = 80.0, back: float = 80.0) -> Row:
    return Row("somewhere", 3, 2, refused, there, back, 60.0)


@pytest.mark.parametrize(
    ("found", "holds"),
    [(row(), True), (row(refused=("0-50: seal",)), False), (row(there=59.9), False), (row(back=59.9), False)],
)
def test_an_environment_holds_only_without_refusals_and_with_close_pixels_both_ways(
    found: Row, holds: bool
) -> None:
    assert found.holds is holds
    assert ("| yes |" in markdown([found])) is holds


@pytest.mark.parametrize(
    ("same_bytes", "there", "holds"), [(3, math.inf, True), (2, math.inf, False), (3, 99.0, False)]
)
def test_a_lossless_codec_holds_only_with_equal_files_and_pixels(
    same_bytes: int, there: float, holds: bool
) -> None:
    found = Row("somewhere", 3, same_bytes, (), there, math.inf, 60.0, lossless=True)
    assert found.holds is holds
    assert ("NO, expected equal files and pixels" in markdown([found])) is not holds


@pytest.mark.slow
def test_lossless_files_are_the_same_in_every_environment(make_source: Make) -> None:
    chosen = [e for e in ENVIRONMENTS if e.threads == 3 or not e.onednn or e.careless_caller or e.lists]
    rows = compare([make_source("a", 70, 130), make_source("b", 33, 90)], codec="pilc", environments=chosen)
    assert [(found.files, found.holds) for found in rows] == [(2, True)] * len(chosen)


def test_only_other_precisions_may_differ_visibly() -> None:
    lower = {environment.name for environment in ENVIRONMENTS if environment.closeness == OTHER_PRECISION_DB}
    assert lower == {"bfloat16", "fixed16", "fixed16, 1 thread", "fixed16, 3 threads, lists"}


@pytest.mark.slow
def test_files_travel_between_instruction_sets_in_both_directions(make_source: Make) -> None:
    sources = [make_source("a", 70, 130), make_source("b", 64, 64, seed=2), make_source("c", 33, 90, seed=3)]
    chosen = [
        e for e in ENVIRONMENTS if e.variables.get("ONEDNN_MAX_CPU_ISA") == "SSE41" or e.exact == "int64"
    ]
    rows = compare(sources, environments=chosen)
    assert [found.refused for found in rows] == [(), ()]
    assert all(found.holds and found.files == 9 for found in rows)


def test_an_environment_that_cannot_run_is_named_with_its_last_words(make_source: Make) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)environment 'reference.* did not run.*nonsense"):
        compare([make_source("a", 16, 16)], codec="nonsense", environments=[])
