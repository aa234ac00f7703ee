"""The promises of `licodec.api` that hold for every codec, shown with the stand-in codec of this folder."""

from __future__ import annotations

import io
import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import safetensors
import safetensors.torch
import torch

import lic_format
import licodec
from lic_format import FormatError, LicWarning, UnsupportedError, UsageError, WeightsError
from licodec import store
from licodec.codecs.contract import Model
from licodec.models import CACHE
from tests.sdk import stand_in as codec
from tests.sdk.fixtures import pixels
from tests.sdk.stand_in import write_weights

pytestmark = pytest.mark.usefixtures("stand_in")


def encode(image: Any, **options: Any) -> bytes:
    return licodec.encode(image, **{"codec": "stand-in", "quality": 100, "device": "cpu", **options})


def changed(data: bytes, **fields: Any) -> bytes:
    """The file with other values in its header."""
    file = lic_format.read(data, max_pixels=1 << 62)
    return lic_format.write(replace(file, head=replace(file.head, **fields)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (17, 23), (40, 56)])
def test_a_picture_comes_back_in_every_output(size: tuple[int, int], channels: int) -> None:
    planes = pixels(*size, channels)
    data = encode(planes)
    array = licodec.decode(data, output="numpy")
    np.testing.assert_array_equal(array, planes if channels == 3 else planes[:, :, 0])
    np.testing.assert_array_equal(np.asarray(licodec.decode(data)), array)
    assert licodec.decode(data).mode == ("RGB" if channels == 3 else "L")
    tensor = licodec.decode(data, output="torch")
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), planes)


def test_bytes_path_and_file_object_are_the_same_file(lic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.lic"
    path.write_bytes(lic)
    pictures = [
        licodec.decode(source, output="numpy")
        for source in (lic, bytearray(lic), memoryview(lic), path, str(path), io.BytesIO(lic))
    ]
    with path.open("rb") as file:
        pictures.append(licodec.decode(file, output="numpy"))
    for picture in pictures:
        np.testing.assert_array_equal(picture, pictures[0])
    np.testing.assert_array_equal(np.asarray(licodec.load(path)), pictures[0])


def test_the_same_call_gives_the_same_bytes(image: PIL.Image.Image) -> None:
    assert encode(image) == encode(np.asarray(image)) == encode(image)


def test_lists_give_the_bytes_and_pixels_of_single_calls(image: PIL.Image.Image) -> None:
    pictures = [image, pixels(9, 5), pixels(8, 8, 1)]
    encoder = licodec.Encoder("stand-in", quality=60, device="cpu")
    files = encoder(pictures)
    assert files == [encode(picture, quality=60) for picture in pictures]
    decoder = licodec.Decoder(device="cpu")
    for array, file in zip(decoder(files, output="numpy"), files, strict=True):
        np.testing.assert_array_equal(array, licodec.decode(file, output="numpy"))
    assert encoder([]) == []
    assert decoder(()) == []


def test_a_call_may_name_another_quality_than_the_encoder(image: PIL.Image.Image) -> None:
    encoder = licodec.Encoder("stand-in", quality=60)
    assert encoder(image, quality=100) == encode(image)
    assert encoder(image, quality=0) == encode(image, quality=0)
    assert encoder(image) == encode(image, quality=60)


def test_encoder_and_decoder_pickle_as_their_configuration(image: PIL.Image.Image) -> None:
    encoder = licodec.Encoder("stand-in", quality=60, device="cpu")
    message = pickle.dumps(encoder)
    assert len(message) < 400, "weights must not travel"
    assert pickle.loads(message)(image) == encoder(image)
    decoder = pickle.loads(pickle.dumps(licodec.Decoder(device="cpu")))
    assert decoder(encoder(image), output="numpy").shape == (40, 56, 3)


def test_an_encoder_is_not_restored_with_other_weights(stand_in: Path) -> None:
    message = pickle.dumps(licodec.Encoder("stand-in"))
    write_weights(stand_in, decode=2.0)
    with pytest.raises(WeightsError, match="same weights"):
        pickle.loads(message)


def test_threads_share_one_model_and_get_the_bytes_of_one_thread(image: PIL.Image.Image) -> None:
    expected = encode(image)
    licodec.clear_cache()
    results: list[bytes] = []

    def work() -> None:
        for _ in range(5):
            data = encode(image)
            results.append(data if licodec.decode(data, output="numpy").shape == (40, 56, 3) else b"")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 40
    assert len(CACHE) == 1


def test_threads_that_ask_for_one_model_at_once_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    build, built = codec.build, []

    def slow(*given: Any, **options: Any) -> Any:
        built.append(given)
        time.sleep(0.1)
        return build(*given, **options)

    monkeypatch.setattr(codec, "build", slow)
    licodec.clear_cache()
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(encode, [pixels()] * 4))) == 1
    assert len(built) == 1


def test_the_cache_is_bounded_in_bytes_and_can_be_cleared(
    stand_in: Path, image: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(image)
    (one,) = CACHE._models.values()
    assert one.bytes == 4 * sum(t.numel() for t in store.load("stand-in", "t-1").tensors.values())
    monkeypatch.setattr(CACHE, "_most_bytes", 4 * one.bytes + 1)
    files = []
    for number in range(6):
        write_weights(stand_in, decode=float(number))
        files.append(encode(image))
    assert len({licodec.inspect(file).decode_digest for file in files}) == 6
    assert len(CACHE) == 4
    monkeypatch.setattr(CACHE, "_most_bytes", 1)
    write_weights(stand_in, decode=99.0)
    files.append(encode(image))
    assert len(CACHE) == 1  # the last one stays whatever it takes
    licodec.clear_cache()
    assert len(CACHE) == 0
    assert licodec.decode(files[-1]).size == image.size
    assert len(CACHE) == 1


def test_weights_that_differ_in_their_encoder_alone_are_told_apart(tmp_path: Path) -> None:
    grey = np.full((8, 8, 3), 128, np.uint8)
    plain = encode(grey, weights=write_weights(tmp_path / "plain"))
    other = encode(grey, weights=write_weights(tmp_path / "other", encoder=0.5))
    assert licodec.inspect(plain).decode_digest == licodec.inspect(other).decode_digest
    assert licodec.decode(plain, output="numpy").mean() == 128
    assert licodec.decode(other, output="numpy").mean() == 64
    assert len(CACHE) == 2
    assert encode(grey, weights=write_weights(tmp_path / "plain", encoder=0.5)) == other


def test_a_model_that_is_there_does_not_wait_for_one_that_is_loaded(
    lic: bytes, stand_in: Path, image: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(stand_in.parent / "slow", decode=2.0)
    began, go_on = threading.Event(), threading.Event()
    load = store.load

    def hanging(*names: Any, path: Any = None, **given: Any) -> store.Weights:
        began.set()
        assert go_on.wait(30)
        return load(*names, path=path, **given)

    monkeypatch.setattr(store, "load", hanging)
    results: list[bytes] = []
    slow = [
        threading.Thread(target=lambda: results.append(encode(image, weights=stand_in.parent / "slow")))
        for _ in range(2)
    ]
    for thread in slow:
        thread.start()
    assert began.wait(30)
    assert licodec.decode(lic).size == image.size  # whose weights are here
    assert results == []
    go_on.set()
    for thread in slow:
        thread.join()
    assert len(set(results)) == 1 and len(results) == 2 and len(CACHE) == 2


def test_warming_up_loads_what_the_first_call_needs(
    lic: bytes, stand_in: Path, image: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    licodec.clear_cache()
    encoder, decoder = licodec.Encoder("stand-in", quality=100), licodec.Decoder()
    encoder.warm_up()
    decoder.warm_up("stand-in")
    licodec.clear_cache()
    monkeypatch.setattr(store, "load", None)
    assert encoder(image) == lic
    assert decoder(lic).size == image.size
    with pytest.raises(UsageError, match="codec"):
        decoder.warm_up("nonesuch")


def test_a_load_that_fails_is_tried_again(stand_in: Path, image: PIL.Image.Image) -> None:
    path = write_weights(stand_in)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    for _ in range(2):
        with pytest.raises(WeightsError, match="not a safetensors file"):
            encode(image)
    path.write_bytes(data)
    assert encode(image)
    assert not CACHE._loading


def test_weights_that_a_caller_names_are_not_replaced_by_those_that_are_loaded(
    lic: bytes, stand_in: Path, tmp_path: Path
) -> None:
    other = write_weights(tmp_path / "other", decode=2.0)
    assert licodec.decode(lic).size == (56, 40)
    with pytest.raises(WeightsError, match="are wanted, but"):
        licodec.decode(lic, weights=other)


@pytest.mark.parametrize(
    ("name", "says"), [("decode.more", "has no use for 1 of its tensors, as 'decode.more'")]
)
def test_a_tensor_that_no_codec_asks_for_is_refused(
    name: str, says: str, stand_in: Path, image: PIL.Image.Image
) -> None:
    path = write_weights(stand_in)
    with safetensors.safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), file.get_tensors()
    path.write_bytes(safetensors.torch.save({**tensors, name: torch.zeros(3)}, metadata))
    with pytest.raises(WeightsError, match=says) as caught:
        encode(image)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("form", ["torch", "array"])
def test_a_tensor_counts_as_used_in_whatever_form_it_was_taken(
    form: str, monkeypatch: pytest.MonkeyPatch, image: PIL.Image.Image
) -> None:
    """To see what it is does not count."""
    right = codec.build

    def build(weights: store.Weights, device: str) -> Model:
        tensors = weights.tensors
        seen = [name for name in tensors if tensors.shape(name) and tensors.dtype(name)]
        some = replace(weights, tensors=store.Tensors(tensors.stored))
        for name in seen[: len(seen) - left]:
            _ = tensors[name] if form == "torch" else tensors.array(name)
        return right(some, device)

    monkeypatch.setattr(codec, "build", build)
    left = 1
    with pytest.raises(WeightsError, match="has no use for 1 of its tensors"):
        encode(image)
    left = 0
    assert encode(image)


def test_weights_that_are_swapped_in_place_change_nothing_that_was_loaded(
    lic: bytes, stand_in: Path, image: PIL.Image.Image
) -> None:
    """`cp` onto a weights file cuts it off and fills it anew, under whoever has it open."""
    encoder, decoder = licodec.Encoder("stand-in", quality=100), licodec.Decoder()
    expected = decoder(lic, output="numpy")
    path = stand_in / "stand-in" / "t-1" / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert encoder(image) == lic
    np.testing.assert_array_equal(decoder(lic, output="numpy"), expected)
    np.testing.assert_array_equal(licodec.decode(lic, output="numpy"), expected)
    with pytest.raises(WeightsError):
        encode(image)
    path.write_bytes(b"")
    np.testing.assert_array_equal(decoder(lic, output="numpy"), expected)


def test_a_decoder_keeps_its_weights_when_the_cache_forgets_them(lic: bytes, stand_in: Path) -> None:
    decoder = licodec.Decoder(device="cpu")
    decoder(lic)
    licodec.clear_cache()
    (stand_in / "stand-in" / "t-1" / "model.safetensors").unlink()
    assert decoder(lic).size == (56, 40)
    with pytest.raises(WeightsError):
        licodec.decode(lic)


def test_stages_add_up_to_no_more_than_the_whole_call(image: PIL.Image.Image) -> None:
    for call in (
        lambda stages: encode(image, stages=stages),
        lambda stages: licodec.decode(encode(image), stages=stages),
    ):
        stages: dict[str, float] = {}
        start = time.perf_counter()
        call(stages)
        whole = (time.perf_counter() - start) * 1e3
        assert set(stages) >= {"pixels", "network", "container"}
        assert all(value >= 0 for value in stages.values())
        assert sum(stages.values()) <= whole


def test_the_callers_torch_state_stays_as_it_was(image: PIL.Image.Image) -> None:
    threads, grad, dtype = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    random = torch.random.get_rng_state()
    licodec.decode(encode(image))
    assert (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()) == (
        threads,
        grad,
        dtype,
    )
    assert torch.equal(torch.random.get_rng_state(), random)


def test_an_orientation_survives_the_file(image: PIL.Image.Image) -> None:
    image.getexif()[0x0112] = 6
    data = encode(image)
    assert licodec.inspect(data).orientation == 6
    back = licodec.decode(data)
    assert back.size == image.size
    assert back.getexif()[0x0112] == 6


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", ["x", -1, 101, float("nan"), True])
def test_a_wrong_quality_is_refused_before_anything_else_happens(quality: Any, tmp_path: Path) -> None:
    target = tmp_path / "x.lic"
    target.write_bytes(b"old")
    for call in (
        lambda: licodec.encode(pixels(), codec="stand-in", quality=quality),
        lambda: licodec.save(pixels(), target, codec="stand-in", quality=quality),
        lambda: licodec.Encoder("stand-in", quality=quality),
    ):
        with pytest.raises(ValueError, match="quality") as caught:
            call()
        assert isinstance(caught.value, UsageError)
    assert target.read_bytes() == b"old"
    assert len(CACHE) == 0


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="stand-in") as caught:
        licodec.encode(pixels(), codec="nonesuch")
    assert isinstance(caught.value, ValueError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused_by_name(lic: bytes) -> None:
    for call in (
        lambda: encode(pixels(), device="cuda"),
        lambda: licodec.decode(lic, device="cuda:0"),
        lambda: licodec.Decoder(device="cuda"),
    ):
        with pytest.raises(UsageError, match="device: cuda"):
            call()


@pytest.mark.parametrize("data", [None, 3, 1.5, object(), io.StringIO("text"), np.zeros(4, np.uint8)])
def test_what_is_no_source_is_refused_by_name(data: Any) -> None:
    with pytest.raises(TypeError, match="data: expected bytes, a path or a binary file object") as caught:
        licodec.decode(data)
    assert isinstance(caught.value, UsageError)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    for call in (licodec.decode, licodec.load, licodec.inspect):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "none.lic")


def test_a_picture_above_the_limit_is_refused_before_weights_are_touched(lic: bytes) -> None:
    licodec.clear_cache()
    with pytest.raises(UnsupportedError, match="limit"):
        licodec.decode(lic, max_pixels=40 * 56 - 1)
    assert len(CACHE) == 0
    assert licodec.decode(lic, max_pixels=40 * 56).size == (56, 40)


def test_the_limit_comes_from_the_environment(lic: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICODEC_MAX_PIXELS", "2000")
    with pytest.raises(UnsupportedError, match="limit"):
        licodec.decode(lic)
    assert licodec.decode(lic, max_pixels=1 << 20).size == (56, 40)


def test_a_tiny_file_can_not_ask_for_a_huge_picture(lic: bytes) -> None:
    licodec.clear_cache()
    bomb = changed(lic, width=1 << 14, height=1 << 13)
    small = lic_format.read(bomb)
    bomb = lic_format.write(replace(small, units=(lic_format.Unit(2, b"", b"12345678"),)))
    start = time.process_time()
    with pytest.raises(UnsupportedError, match="a byte"):
        licodec.decode(bomb)
    assert time.process_time() - start < 0.010
    with pytest.raises(FormatError, match="cheapest"):
        licodec.decode(bomb, max_pixels_per_byte=1 << 30)
    assert len(CACHE) == 0


def test_an_unknown_codec_in_a_file_is_shown_but_not_decoded(lic: bytes) -> None:
    other = changed(lic, codec="newer", side_info=b"\x07abc")
    info = licodec.inspect(other)
    assert (info.codec, info.side_info, info.width) == ("newer", None, 56)
    with pytest.raises(UnsupportedError, match="'newer'"):
        licodec.decode(other)


@pytest.mark.parametrize("fields", [{"depth": lic_format.Depth.BITS_16}])
def test_pictures_of_later_versions_are_refused_by_their_mode(lic: bytes, fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="RGB;16"):
        licodec.decode(changed(lic, **fields))


def test_other_weights_of_the_same_name_are_refused_with_both_digests(lic: bytes, stand_in: Path) -> None:
    wanted = licodec.inspect(lic).decode_digest
    licodec.clear_cache()
    write_weights(stand_in, decode=2.0)
    with pytest.raises(WeightsError, match=wanted):
        licodec.decode(lic)


def test_another_synthesis_decodes_and_warns(lic: bytes, stand_in: Path) -> None:
    licodec.clear_cache()
    write_weights(stand_in, synthesis=2.0)
    with pytest.warns(LicWarning, match="synthesis") as caught:
        for _ in range(3):
            assert licodec.decode(lic).size == (56, 40)
    assert len(caught) == 1


def test_every_truncation_and_every_single_bit_flip_is_detected() -> None:
    data = encode(pixels(3, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LicWarning)
        for length in range(len(data)):
            with pytest.raises(FormatError):
                licodec.decode(data[:length])
        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises((FormatError, UnsupportedError)):
                licodec.decode(damaged)
    with pytest.raises(FormatError, match="follow"):
        licodec.decode(data + b"\0")


# --- inspect and codecs ---------------------------------------------------------------------------


def test_inspect_tells_what_the_header_says(lic: bytes) -> None:
    info = licodec.inspect(lic)
    assert (info.width, info.height, info.mode, info.depth) == (56, 40, "RGB", 8)
    assert (info.codec, info.tag, info.quality, info.rate) == ("stand-in", "t-1", 100.0, 255)
    assert (info.lossless, info.alpha, info.orientation, info.version) == (False, False, 1, 1)
    assert info.side_info == {"layout": 1}
    assert len(info.decode_digest) == 32
    assert info.as_dict()["width"] == 56


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_alpha_goes_all_the_way(channels: int, mode: str, stand_in: Path) -> None:
    samples = pixels(channels=channels)
    data = encode(samples)
    info = licodec.inspect(data)
    assert (info.mode, info.alpha) == (mode, True)
    assert 500 < info.alpha_bytes < 40 * 56
    np.testing.assert_array_equal(licodec.decode(data, output="numpy"), samples)
    np.testing.assert_array_equal(licodec.decode(data, output="torch").permute(1, 2, 0), samples)
    assert licodec.decode(data).mode == mode


def test_colours_that_nobody_sees_leave_no_trace(stand_in: Path) -> None:
    samples = pixels(channels=4)
    samples[10:30, :, 3] = 0
    other = samples.copy()
    other[10:30, :, :3] ^= 255
    assert encode(samples) == encode(other)


def test_a_damaged_alpha_plane_is_a_format_error(stand_in: Path) -> None:
    file = lic_format.read(encode(pixels(channels=4)))
    chunks = (lic_format.Chunk("ALPH", b"\x01\x00nonsense"),)
    data = lic_format.write(replace(file, metadata=chunks))
    with pytest.raises(FormatError, match="chunk ALPH"):
        licodec.decode(data)
    assert licodec.inspect(data).alpha_bytes == 10


def test_inspect_needs_only_the_header_and_puts_the_file_back(lic: bytes) -> None:
    start = lic.index(b"DATA") + 4
    assert licodec.inspect(lic[:start]).width == 56
    file = io.BytesIO(b"prefix" + lic)
    file.seek(6)
    assert licodec.inspect(file).width == 56
    assert file.tell() == 6
    assert licodec.decode(file).size == (56, 40)


def test_list_codecs_names_the_default_first() -> None:
    codecs = licodec.list_codecs()
    assert codecs[0].token == "fhic"
    assert codecs[-1] == licodec.CodecInfo("stand-in", "stand-in for tests", "t-1")


# --- save -----------------------------------------------------------------------------------------


def test_save_and_load_are_encode_and_decode_on_disk(image: PIL.Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "x.lic"
    licodec.save(image, path, codec="stand-in", quality=100, device="cpu")
    assert path.read_bytes() == encode(image)
    assert list(tmp_path.glob("**/*.tmp")) == []
    np.testing.assert_array_equal(np.asarray(licodec.load(path)), np.asarray(image))


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, stand_in: Path) -> None:
    path = tmp_path / "x.lic"
    path.write_bytes(b"old")
    with pytest.raises(UsageError):
        licodec.save(PIL.Image.new("F", (3, 3)), path, codec="stand-in")
    assert path.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["weights", "x.lic"]


@pytest.mark.parametrize("path", [None, 3, io.BytesIO()])
def test_save_refuses_what_is_no_path(path: Any) -> None:
    with pytest.raises(UsageError, match="path: expected a path"):
        licodec.save(pixels(), path, codec="stand-in")
