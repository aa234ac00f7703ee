"""Threads of one call that help each other."""

from __future__ import annotations

import threading
import time

import pytest

from licodec.threads import Team, spread


def covered(parts: list[slice]) -> list[int]:
    return sorted(number for part in parts for number in range(part.start, part.stop))


def test_pieces_come_back_in_their_order() -> None:
    def work(piece: int) -> int:
        time.sleep(0.002 * (5 - piece))
        return piece * piece

    with Team(3) as team:
        assert list(team.map(work, range(6))) == [0, 1, 4, 9, 16, 25]


def test_outside_a_team_work_is_one_part() -> None:
    parts: list[slice] = []
    spread(parts.append, 10, 1)
    assert parts == [slice(0, 10)]


def test_who_has_nothing_to_do_takes_a_part() -> None:
    """A lone piece is done by both threads, at the same time: each waits for the other in the middle."""
    meeting, seen = threading.Barrier(2, timeout=20), set()
    parts: list[slice] = []

    def part_of(part: slice) -> None:
        meeting.wait()
        seen.add(threading.get_ident())
        parts.append(part)

    with Team(2) as team:
        list(team.map(lambda _: spread(part_of, 101, 10), [None]))
    assert len(seen) == len(parts) == 2
    assert covered(parts) == list(range(101))


@pytest.mark.parametrize("length", [0, 1, 9, 19])
def test_little_work_is_not_shared(length: int) -> None:
    parts: list[slice] = []
    with Team(2) as team:
        list(team.map(lambda _: spread(parts.append, length, 10), [None]))
    assert parts == [slice(0, length)]


def test_pieces_that_wait_go_first() -> None:
    """While there is a piece for each thread nobody is asked for help."""
    begun, parts = threading.Barrier(2, timeout=20), [list[slice](), list[slice]()]

    def work(piece: int) -> None:
        begun.wait()
        spread(parts[piece].append, 100, 1)
        begun.wait()

    with Team(2) as team:
        list(team.map(work, range(2)))
    assert parts == [[slice(0, 100)], [slice(0, 100)]]


def test_what_goes_wrong_in_a_part_is_raised() -> None:
    def part_of(part: slice) -> None:
        if part.start:
            raise ValueError(f"no {part}")

    with Team(2) as team, pytest.raises(ValueError, match="no slice"):
        list(team.map(lambda _: spread(part_of, 100, 10), [None]))


def test_many_pieces_and_parts_end() -> None:
    total = []

    def work(piece: int) -> None:
        for _ in range(20):
            spread(lambda part: total.append(part.stop - part.start), 64, 4)

    with Team(4) as team:
        list(team.map(work, range(30)))
    assert sum(total) == 30 * 20 * 64
