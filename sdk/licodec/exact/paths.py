"""Running integer layers on hardware that only promises float arithmetic: paths, known answers, stepping
down.

A path is a way to compute the sums of a convolution. They are tried in this order; the first that gives the
known answers is kept, and a path that is caught leaving the integers later is left for the safe one:

    float32          float32 through the library's default kernels, NNPACK and autocast shut out
    float32-plain    the same without oneDNN
    float64-rounded  float64, every sum rounded: right under any algorithm, Winograd and FFT included
    int64            integer arithmetic, the reference

    net = ExactNet(layers, known_answers)         # checks bounds and answers
    with exact_section(net.path):
        index = net("anchor.0.1", x, rate)

Sources of what is shut out: Winograd and FFT kernels use fractions (NNPACK from batch 16 on, so images are
never batched here); autocast rounds results to bfloat16.
"""

from __future__ import annotations

import contextlib
import math
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lic_format.errors import ExactnessError
from licodec.exact.layers import ACTIVATION_MAX, StoredLayer, check_bounds, integer_knots

PATHS = ("float32", "float32-plain", "float64-rounded", "int64")
SAFE_PATH = "float64-rounded"
_DTYPES = {
    "float32": torch.float32,
    "float32-plain": torch.float32,
    "float64-rounded": torch.float64,
    "int64": torch.int64,
}
KNOWN_ANSWER_RATE = 137


# --- Sections -----------------------------------------------------------------------------------------------


class _Switch:
    """A process-wide backend switch held off while any thread is in a section that needs it off.

    The flags are global, so the first thread in puts it off and the last one out puts it back.
    """

    def __init__(self, get: Callable[[], bool], put: Callable[[bool], object]) -> None:
        self._get, self._put = get, put
        self._lock = threading.Lock()
        self._holders = 0
        self._before = False

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        with self._lock:
            if self._holders == 0:
                self._before = self._get()
                self._put(False)
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._put(self._before)


_nnpack = _Switch(lambda: _flag("_get_nnpack_enabled"), lambda on: _set_flag("_set_nnpack_enabled", on))
_onednn = _Switch(lambda: _flag("_get_mkldnn_enabled"), lambda on: _set_flag("_set_mkldnn_enabled", on))
_cudnn = _Switch(lambda: _flag("_get_cudnn_enabled"), lambda on: _set_flag("_set_cudnn_enabled", on))


def _flag(name: str) -> bool:
    get = getattr(torch._C, name, None)
    return bool(get()) if get is not None else False


def _set_flag(name: str, on: bool) -> None:
    put = getattr(torch._C, name, None)
    if put is not None:
        put(on)


@contextlib.contextmanager
def exact_section(path: str, device: str = "cpu") -> Iterator[None]:
    """Inference mode without autocast and without the kernels that leave the integers."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(_nnpack.off())
        if path == "float32-plain":
            stack.enter_context(_onednn.off())
        if device.startswith("cuda"):
            stack.enter_context(torch.autocast("cuda", enabled=False))
            stack.enter_context(_cudnn.off())
        yield


# --- Running layers -----------------------------------------------------------------------------------------


@dataclass
class _Prepared:
    """A layer's constants in the dtype of one path."""

    weight: Tensor
    scale: Tensor
    biases: dict[int, Tensor] = field(default_factory=dict)


class ExactNet:
    """Integer layers by name, run on the first path that proves itself.

    Args:
        layers: stored integers of every layer; bounds are checked here.
        known_answers: CRC-32 of each layer's sums on `known_input`, from the weights file; None computes
        without
            checking (when the answers are being made).
        paths: which paths may be used, in order.
        device: where the sums run; table indices always come back to the CPU.

    Raises:
        WeightsError: a layer breaks its bounds. ExactnessError: no path gives the known answers.
    """

    def __init__(
        self,
        layers: Sequence[StoredLayer],
        known_answers: Mapping[str, int] | None,
        paths: Sequence[str] = PATHS,
        device: str = "cpu",
    ) -> None:
        for layer in layers:
            check_bounds(layer)
        self.layers = {layer.spec.name: layer for layer in layers}
        self.device = device
        self._prepared: dict[tuple[str, str], _Prepared] = {}
        self._shapes: set[tuple[str, str, tuple[int, ...]]] = set()
        self._lock = threading.Lock()
        self.path = paths[0] if known_answers is None else self._first_right(known_answers, paths)

    def _first_right(self, answers: Mapping[str, int], paths: Sequence[str]) -> str:
        missing = sorted(set(self.layers) - set(answers))
        if missing:
            raise ExactnessError(
                f"the weights hold no known answers for the integer layers {', '.join(missing)}"
            )
        wrong = []
        for path in paths:
            failed = next((n for n in self.layers if self.known_answer(n, path) != answers[n]), None)
            if failed is None:
                return path
            wrong.append(f"{path} (layer {failed})")
        raise ExactnessError(
            f"this machine gives wrong sums on every path tried: {', '.join(wrong)}; "
            "files of this codec can't be coded here"
        )

    def known_answer(self, name: str, path: str) -> int:
        """CRC-32 over the sums of one layer, little-endian int32, on three inputs: mixed, all largest, all
        smallest.

        -1 where a sum is not an integer of 32 bits.
        """
        layer, crc = self.layers[name], 0
        with exact_section(path, self.device):
            for x in known_inputs(layer):
                sums = self._sums(layer, x.to(self.device), KNOWN_ANSWER_RATE, path).cpu()
                if sums.dtype != torch.int64 and not bool(
                    ((sums == sums.round()) & (sums.abs() < 2**31)).all()
                ):
                    return -1
                crc = zlib.crc32(sums.to(torch.int32).contiguous().numpy().astype("<i4").tobytes(), crc)
        return crc

    def __call__(self, name: str, x: Tensor, rate: int, path: str | None = None) -> Tensor:
        """One layer: x holds integers [1, in, h, w], any dtype; returns integers [1, out, h, w] in the path's
        dtype.

        Call inside `exact_section(path)`.
        """
        layer, path = self.layers[name], path or self.path
        sums = self._sums(layer, x, rate, path)
        shape = (name, path, tuple(x.shape))
        if sums.dtype != torch.int64 and shape not in self._shapes:
            if torch.equal(sums, sums.round()):
                self._shapes.add(shape)
            else:
                # A kernel chosen for this shape leaves the integers: from here on only the safe path is used.
                self.path = path = SAFE_PATH
                sums = self._sums(layer, x, rate, path)
        return self._requantise(layer, sums, path)

    def _prepare(self, layer: StoredLayer, path: str) -> _Prepared:
        key = (layer.spec.name, path)
        prepared = self._prepared.get(key)
        if prepared is None:
            # ldexp is exact by definition; a vectorised pow need not be.
            pairs = zip(layer.multiplier.tolist(), layer.shift.tolist(), strict=True)
            scale = torch.tensor([math.ldexp(m, -s) for m, s in pairs], dtype=torch.float64)
            weight = layer.weight.to(self.device, _DTYPES[path])
            if layer.spec.kernel > 1 and path != "int64":
                weight = weight.contiguous(memory_format=torch.channels_last)
            prepared = _Prepared(weight, scale.view(1, -1, 1, 1).to(self.device))
            self._prepared.setdefault(key, prepared)
        return prepared

    def _sums(self, layer: StoredLayer, x: Tensor, rate: int, path: str) -> Tensor:
        prepared, dtype = self._prepare(layer, path), _DTYPES[path]
        bias = prepared.biases.get(rate)
        if bias is None:
            bias = integer_knots(layer.bias, rate).to(self.device, dtype)
            prepared.biases[rate] = bias
        sums = F.conv2d(x.to(dtype), prepared.weight, bias, padding=layer.spec.kernel // 2)
        return sums.round() if path == SAFE_PATH else sums

    def _requantise(self, layer: StoredLayer, sums: Tensor, path: str) -> Tensor:
        """clamp(floor(sum * m / 2^s + 1/2)): in float64 every step is exact, since |sum * m| < 2^39."""
        if path == "int64":
            m = layer.multiplier.to(sums.device, torch.int64).view(1, -1, 1, 1)
            s = layer.shift.to(sums.device, torch.int64).view(1, -1, 1, 1)
            return ((sums * m + ((1 << s) >> 1)) >> s).clamp_(0, layer.high)
        y = sums.double().mul_(self._prepare(layer, path).scale).add_(0.5).floor_().clamp_(0, layer.high)
        return y.to(_DTYPES[path])


# --- Known answers ------------------------------------------------------------------------------------------


def known_inputs(layer: StoredLayer) -> list[Tensor]:
    """Inputs [1, in, h, w] over a layer's whole legal range: a 24 x 16 map from a fixed generator, and the
    extremes."""
    low = -ACTIVATION_MAX if signed_input(layer) else 0
    mixed = low + lcg(layer.spec.inp * 24 * 16) % (ACTIVATION_MAX - low + 1)
    largest = np.full((layer.spec.inp, 6, 6), ACTIVATION_MAX)
    maps = [mixed.reshape(layer.spec.inp, 24, 16), largest, np.full_like(largest, low)]
    return [torch.from_numpy(m.astype(np.float32)).unsqueeze(0) for m in maps]


def signed_input(layer: StoredLayer) -> bool:
    """Only a net's first layer sees signed integers (hyper-latents); everything later is 0..127."""
    return layer.spec.signed


def lcg(count: int, seed: int = 2026) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """High 31 bits of x -> 6364136223846793005 x + 1442695040888963407 mod 2^64, int64 [count]; the same
    everywhere."""
    a, c = np.uint64(6364136223846793005), np.uint64(1442695040888963407)
    with np.errstate(over="ignore"):
        state = np.array([seed], np.uint64) * a + c
        while state.size < count:  # doubling: a jump of n steps is itself such a map
            state = np.concatenate([state, state * a + c])
            a, c = a * a, c * (a + np.uint64(1))
    return (state[:count] >> np.uint64(33)).astype(np.int64)
