import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from licodec.evaluation.bench import (
    BenchOptions,
    BenchResult,
    Classical,
    CodecResult,
    Subject,
    bench,
    run,
)
from licodec.evaluation.checks import checks
from licodec.evaluation.metrics import Pixels
from licodec.evaluation.pictures import Source

Make = Callable[..., Source]


class Stub:
    """A codec whose every figure is known: JPEG bytes, one stage, an estimate, and a log of its calls."""

    name, title, kind = "stub", "Stub", "learned"

    def __init__(self, settings: tuple[float, ...] = (20.0, 50.0, 80.0), backwards: bool = False) -> None:
        self.settings = settings
        self.calls: list[tuple[str, float]] = []
        self._backwards = backwards

    def encode(self, pixels: Pixels, setting: float, stages: dict[str, float]) -> bytes:
        self.calls.append(("encode", setting))
        sink = io.BytesIO()
        quality = int(100 - setting if self._backwards else setting)
        Image.fromarray(pixels).save(sink, "JPEG", quality=quality)
        stages |= {
            "network": 5.0,
            "entropy": 1.0 + setting,
            "estimated_bits": 8.0 * len(sink.getvalue()) - 400,
        }
        return sink.getvalue()

    def decode(self, data: bytes, stages: dict[str, float]) -> Pixels:
        self.calls.append(("decode", 0))
        stages["network"] = 3.0
        return np.asarray(Image.open(io.BytesIO(data)))


def quick(subjects: list[Subject], sources: list[Source], *, ms_ssim: bool = False) -> BenchResult:
    return run(subjects, sources, BenchOptions("somewhere/set.zip", quick=True, ms_ssim=ms_ssim))


def test_the_curve_is_the_mean_over_pictures_of_whole_files(make_source: Make) -> None:
    stub, sources = Stub(), [make_source("a", seed=1), make_source("b", 128, 320, seed=2)]
    (codec,) = quick([stub], sources).codecs
    sizes = [len(stub.encode(source.pixels(), 50.0, {})) for source in sources]
    expected = (8 * sizes[0] / (192 * 256) + 8 * sizes[1] / (128 * 320)) / 2
    assert codec.curve.bpp[1] == pytest.approx(expected)
    assert codec.curve.settings == (20.0, 50.0, 80.0)
    assert codec.pictures == ("a", "b")


def test_ms_ssim_is_missing_from_the_curve_when_one_picture_is_too_small_for_it(make_source: Make) -> None:
    (codec,) = quick([Stub()], [make_source("a"), make_source("small", 100, 100)], ms_ssim=True).codecs
    assert codec.at(20.0)[0].ms_ssim is not None
    assert codec.curve.msssim is None


def test_the_first_call_for_every_picture_size_is_left_out_of_the_times(make_source: Make) -> None:
    stub = Stub()
    quick([stub], [make_source("a"), make_source("b"), make_source("c", 256, 192)])
    warm_up = 2
    assert sum(kind == "encode" for kind, _ in stub.calls) == 3 * 3 + warm_up


def test_times_are_taken_over_at_least_eight_calls_a_setting(make_source: Make) -> None:
    result = run(
        [Stub()], [make_source("a"), make_source("b"), make_source("c")], BenchOptions("x", ms_ssim=False)
    )
    (codec,) = result.codecs
    assert len(codec.times("encode", 50.0)) == 9
    assert all(ms > 0 for ms in codec.times("decode"))


def test_stage_times_are_medians_of_the_stages_that_a_codec_tells(make_source: Make) -> None:
    (codec,) = quick([Stub()], [make_source("a")]).codecs
    assert codec.stage_times("encode") == {"network": 5.0, "entropy": 51.0}
    assert codec.stage_times("decode") == {"network": 3.0}


def test_progress_reaches_the_number_of_calls(make_source: Make) -> None:
    seen: list[tuple[str, int, int]] = []
    run(
        [Stub()],
        [make_source("a")],
        BenchOptions("x", quick=True, ms_ssim=False),
        lambda *step: seen.append(step),
    )
    assert seen == [("stub", 1, 3), ("stub", 2, 3), ("stub", 3, 3)]


def test_the_environment_says_what_times_depend_on(make_source: Make) -> None:
    found = quick([Stub()], [make_source("a")]).environment
    assert {"processor", "threads", "torch", "pillow", "device"} <= set(found)


def found_by(stub: Stub, sources: list[Source]) -> dict[str, dict[str, object]]:
    (codec,) = quick([stub], sources).codecs
    return checks(codec)


def test_checks_hold_for_a_codec_that_rises_with_quality(make_source: Make) -> None:
    found = found_by(Stub(), [make_source("a")])
    assert [check["holds"] for check in found.values()] == [True, True, True]


def test_checks_tell_where_size_and_psnr_fall(make_source: Make) -> None:
    found = found_by(Stub(backwards=True), [make_source("a")])
    assert not found["mean_over_quality"]["holds"]
    violations = found["per_picture_in_steps_of_5"]["violations"]
    assert isinstance(violations, list) and len(violations) == 4
    assert violations[0].startswith("a 20 -> 50") and "bytes" in violations[0] and "dB" in violations[1]


def test_single_pictures_are_not_held_to_steps_finer_than_five(make_source: Make) -> None:
    class Flat(Stub):
        def encode(self, pixels: Pixels, setting: float, stages: dict[str, float]) -> bytes:
            return super().encode(pixels, setting // 10 * 10, stages)

    found = found_by(Flat((40.0, 42.0, 50.0)), [make_source("a")])
    assert not found["mean_over_quality"]["holds"]
    assert found["per_picture_in_steps_of_5"]["holds"]


@pytest.mark.parametrize(("surplus_bytes", "holds"), [(0, True), (100, True), (-100, True), (140, False)])
def test_bits_must_match_the_estimate_within_the_stated_share_and_bytes(
    make_source: Make, surplus_bytes: int, holds: bool
) -> None:
    class Estimating(Stub):
        def encode(self, pixels: Pixels, setting: float, stages: dict[str, float]) -> bytes:
            data = super().encode(pixels, setting, stages)
            stages["estimated_bits"] = 8.0 * (len(data) - surplus_bytes)
            return data

    found = found_by(Estimating(), [make_source("a")])["bits_against_estimate"]
    assert found["holds"] is holds
    assert found["mean_surplus_bytes"] == pytest.approx(surplus_bytes)


def test_peers_run_beside_learned_codecs(make_source: Make) -> None:
    result = quick([Stub(), Classical("webp", (10, 60))], [make_source("a")])
    assert [codec.kind for codec in result.codecs] == ["learned", "classical"]
    assert isinstance(result.codecs[1], CodecResult) and result.codecs[1].curve.psnr[1] > 30


def test_each_effort_is_measured_as_a_codec_of_its_own(make_source: Make, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_source("a", 64, 80).read())
    options = BenchOptions(tmp_path, ("fhic",), (30.0, 60.0), efforts=(1, 2), quick=True, ms_ssim=False)
    usual, more = bench(options).codecs
    assert (usual.name, more.name) == ("fhic, effort 1", "fhic, effort 2")
    assert usual.title == "fhic s-1, effort 1"
    assert any(a.bytes != b.bytes for a, b in zip(usual.trials, more.trials, strict=True))
