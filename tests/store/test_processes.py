"""Weights from the Hub as programs meet them: through the SDK and Pillow, in processes of their own, with the
environment variables of the client."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import licodec
from licodec import store
from tests.sdk.fixtures import pixels
from tests.sdk.stand_in import write_weights
from tests.store.conftest import PROXIES, Place
from tests.store.hub_server import slow

FETCH = """
import time
from lic_format import WeightsError
from licodec import store
from licodec.store.hub import obtain
(entry,) = store.answering("stand-in", "t-1")
start = time.monotonic()
try:
    print(obtain(entry)[0])
except WeightsError as error:
    print("refused:", error)
print(time.monotonic() - start)
"""


def environment(place: Place, **more: str) -> dict[str, str]:
    """What a process is given: nothing of this one's client."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and name not in PROXIES
    }
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "LICODEC_WEIGHTS": str(place.folder),
        "HF_ENDPOINT": place.hub.url,
        "HF_HOME": str(place.cache.parent),
        "HF_HUB_DISABLE_XET": "1",
        **more,
    }


def fetching(place: Place, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH], env=environment(place, **more), stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> tuple[str, float]:
    """The path or the error, and how long it took."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    first, seconds = out.splitlines()
    return first, float(seconds)


def test_opening_asks_nobody_and_loading_fetches(place: Place, tmp_path: Path) -> None:
    data = licodec.encode(pixels(), codec="stand-in", weights=tmp_path / "source")
    licodec.clear_cache()
    expected = licodec.decode(data, output="numpy", weights=tmp_path / "source")
    licodec.clear_cache()
    image = PIL.Image.open(io.BytesIO(data))
    PIL.Image.open(io.BytesIO(data)).verify()
    licodec.inspect(data)
    assert place.hub.requests == []

    image.download = "never"  # type: ignore[attr-defined]
    with pytest.raises(OSError, match='download is "never"'):
        image.load()
    with pytest.raises(licodec.WeightsError, match='download is "never"'):
        licodec.decode(data, download="never")
    assert place.hub.requests == []

    image.download = None  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(image), expected)
    place.hub.requests.clear()
    licodec.clear_cache()
    assert np.array_equal(licodec.decode(data, output="numpy", download="never"), expected)
    assert place.hub.requests == []


def test_a_file_of_unknown_weights_asks_nobody(place: Place, tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other", decode=5.0)
    data = licodec.encode(pixels(), codec="stand-in", weights=other)
    licodec.clear_cache()
    with pytest.raises(licodec.WeightsError, match="knows no weights of this digest"):
        licodec.decode(data)
    assert place.hub.requests == []


def test_two_processes_that_fetch_at_once_both_get_it(place: Place) -> None:
    place.hub.faults.append(slow(1.0))
    both = [fetching(place), fetching(place)]
    paths = {told(process)[0] for process in both}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == place.data
    assert len(place.hub.asked("GET")) <= 2
    assert [blob.read_bytes() for blob in place.blobs()] == [place.data]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_that_is_killed_in_the_middle_leaves_nothing_that_counts(place: Place) -> None:
    fault = slow(20.0)
    place.hub.faults.append(fault)
    process = fetching(place)
    deadline = time.monotonic() + 30
    while not place.hub.asked("GET") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert place.hub.asked("GET") and all(blob.name.endswith(".incomplete") for blob in place.blobs())
    place.hub.faults.remove(fault)
    path, _ = told(fetching(place))
    assert Path(path).read_bytes() == place.data


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set."),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_a_process_without_a_network_is_told_so_within_two_seconds(
    variables: dict[str, str], says: str, place: Place
) -> None:
    message, seconds = told(fetching(place, **variables))
    assert message.startswith("refused: weights stand-in/t-1 are not on this machine") and says in message
    assert seconds < 2
    assert place.hub.requests == []


def test_what_the_cache_holds_is_found_offline(place: Place) -> None:
    path, _ = told(fetching(place))
    assert told(fetching(place, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"))[0] == path


def test_without_the_client_the_error_says_what_to_install(place: Place) -> None:
    blocked = "import sys; sys.modules['huggingface_hub'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + FETCH], env=environment(place), capture_output=True, text=True
    )
    assert "pip install 'licodec[hub]'" in done.stdout


def test_weights_on_this_machine_need_no_client(place: Place, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from licodec import store; print(store.load('stand-in', 't-1').path)"
    )
    variables = environment(place, LICODEC_WEIGHTS=str(tmp_path / "source"))
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "source" / "stand-in" / "t-1" / "model.safetensors")
    assert store.known()
