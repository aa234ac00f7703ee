import pytest

from licodec.evaluation.metrics import Pixels, psnr
from licodec.evaluation.peers import PEERS, Peer
from licodec.evaluation.rate_distortion import anchor

CURVES = {
    "jpeg": "jpeg-420",
    "jpeg444": "jpeg-444",
    "jpeg2000": "jpeg2000",
    "webp": "webp-m6",
    "avif": "avif-default",
    "avif444": "avif-444-psnr",
    "jxl": "jxl-e7",
}


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    found = PEERS[request.param]
    if need := found.missing():
        pytest.skip(f"needs {need}")
    return found


def test_size_and_psnr_rise_over_the_settings(peer: Peer, pixels: Pixels) -> None:
    settings = peer.settings[::3]
    files = [peer.encode(pixels, setting) for setting in settings]
    quality = [psnr(pixels, peer.decode(file)) for file in files]
    assert sorted(map(len, files)) == list(map(len, files)) and len(set(map(len, files))) == len(files)
    assert quality == sorted(quality) and quality[-1] - quality[0] > 5


def test_the_settings_are_those_of_the_measured_curve(peer: Peer) -> None:
    assert anchor(CURVES[peer.name]).settings == peer.settings


def test_nearest_size_finds_the_largest_file_that_fits(peer: Peer, pixels: Pixels) -> None:
    budget = len(peer.encode(pixels, peer.settings[2])) + 50
    setting, file = peer.nearest_size(pixels, budget)
    assert len(file) <= budget
    following = peer.search.index(setting) + 1
    assert len(peer.encode(pixels, peer.search[following])) > len(file)
    assert file == peer.encode(pixels, setting)


def test_a_budget_below_the_smallest_file_gives_the_smallest_file(peer: Peer, pixels: Pixels) -> None:
    setting, file = peer.nearest_size(pixels, 1)
    assert setting == peer.search[0] and len(file) > 1


def test_avif_444_is_not_the_default_avif(pixels: Pixels) -> None:
    if PEERS["avif"].missing():
        pytest.skip("no AVIF")
    assert PEERS["avif"].encode(pixels, 60) != PEERS["avif444"].encode(pixels, 60)
