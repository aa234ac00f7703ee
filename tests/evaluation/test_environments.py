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


def test_only_other_precisions_may_differ_visibly() -> None:
    lower = {environment.name for environment in ENVIRONMENTS if environment.closeness == OTHER_PRECISION_DB}
    assert lower == {"bfloat16"}


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
