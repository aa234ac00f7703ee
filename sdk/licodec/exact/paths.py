"""Running integer layers on hardware that mostly promises float arithmetic: paths, known answers, stepping
down.

A path is a way to compute the sums of a convolution. They are tried in this order; the first that gives the
known answers is kept, and a path that is caught leaving the integers later is left for the safe one:

    int8             products of 8-bit matrices with 32-bit sums, only where the processor has instructions
                     for them that cannot saturate on the way (AVX512-VNNI); about three times as fast
    float32          float32 through the library's default kernels, NNPACK and autocast shut out
    float32-plain    the same without oneDNN
    float64-rounded  float64, every sum rounded: right under any algorithm, Winograd and FFT included
    int64            integer arithmetic, the reference

    net = ExactNet(layers, known_answers)         # checks bounds and answers
    with exact_section(net.path):
        index = net("scale.0.0.1", x, rate)

Sources of what is shut out: Winograd and FFT kernels use fractions (NNPACK from batch 16 on, so images are
never batched here); autocast rounds results to bfloat16.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lic_format.errors import ExactnessError
from licodec.exact.known_answers import KNOWN_ANSWER_RATE, answer, known_map
from licodec.exact.layers import StoredLayer, check_bounds, integer_knots
from licodec.exact.tensor_neighbours import TensorNeighbours, by_position

PATHS = ("int8", "float32", "float32-plain", "float64-rounded", "int64")
FAST_PATHS = PATHS[:3]
"""They compute products first and add biases in the units of what comes out."""
SAFE_PATH = "float64-rounded"
_DTYPES = {
    "int8": torch.int8,
    "float32": torch.float32,
    "float32-plain": torch.float32,
    "float64-rounded": torch.float64,
    "int64": torch.int64,
}


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


class _Inside(threading.local):
    """The section that this thread is in."""

    section: tuple[str, str] | None = None


_inside = _Inside()


@contextlib.contextmanager
def exact_section(path: str, device: str = "cpu") -> Iterator[None]:
    """Inference mode without autocast and without the kernels that leave the integers. Inside another section
    of the same kind there is nothing left to do, unless autocast or gradients were switched on in between."""
    before = _inside.section
    if (
        before == (path, device)
        and torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_autocast_enabled(torch.device(device).type)
    ):
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(_nnpack.off())
        if path == "float32-plain":
            stack.enter_context(_onednn.off())
        if device.startswith("cuda"):
            stack.enter_context(torch.autocast("cuda", enabled=False))
            stack.enter_context(_cudnn.off())
        _inside.section = path, device
        try:
            yield
        finally:
            _inside.section = before


# --- Running layers -----------------------------------------------------------------------------------------


@dataclass
class _Prepared:
    """A layer's constants in the dtype of one path."""

    weight: Tensor
    """A matrix [k k in, out] where the path multiplies matrices, else [out, in, k, k]. Of floats the matrix
    lies by columns, as layers are stored: products take it as it is."""
    scale: Tensor
    offsets: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Selected:
    """A layer's weights for some neighbours: those of the known ones [k k in, out], and all by position."""

    weight: Tensor
    spread: Tensor


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
            if not layer.checked:
                check_bounds(layer)
        self.layers = {layer.spec.name: layer for layer in layers}
        self.device = device
        self._prepared: dict[tuple[str, str], _Prepared] = {}
        self._selected: dict[tuple[str, str, bytes], _Selected] = {}
        self._biases: dict[tuple[str, int], Tensor] = {}
        self._shapes: set[tuple[str, str, tuple[int, ...]]] = set()
        self._lock = threading.Lock()
        self.path = (
            next(filter(usable, paths)) if known_answers is None else self._first_right(known_answers, paths)
        )

    def _first_right(self, answers: Mapping[str, int], paths: Sequence[str]) -> str:
        missing = sorted(set(self.layers) - set(answers))
        if missing:
            raise ExactnessError(
                f"the weights hold no known answers for the integer layers {', '.join(missing)}"
            )
        wrong = []
        for path in filter(usable, paths):
            with exact_section(path, self.device):
                failed = next((n for n in self.layers if self.known_answer(n, path) != answers[n]), None)
            known_map.cache_clear()  # megabytes that the pictures to come can use
            if failed is None:
                return path
            wrong.append(f"{path} (layer {failed})")
        raise ExactnessError(
            f"this machine gives wrong sums on every path tried: {', '.join(wrong) or 'none'}; "
            "files of this codec can't be coded here"
        )

    def known_answer(self, name: str, path: str) -> int:
        """CRC-32 over the sums of one layer, little-endian int32, on three inputs: mixed, all largest, all
        smallest.

        -1 where a sum is not an integer of 32 bits.
        """
        layer = self.layers[name]
        rows = known_map(layer.spec.inp, layer.spec.signed, layer.spec.kernel)
        x = torch.from_numpy(rows).to(self.device).permute(2, 0, 1).unsqueeze(0)
        with exact_section(path, self.device):
            sums = self._sums(layer, x, KNOWN_ANSWER_RATE, path)[0].permute(1, 2, 0)  # as they lie in memory
            whole = sums.to(torch.int32)
            if not torch.equal(whole.to(sums.dtype), sums):
                return -1
        return answer(whole.cpu().numpy(), layer.spec.kernel)

    def __call__(self, name: str, x: Tensor, rate: int, path: str | None = None) -> Tensor:
        """One layer: x holds integers [1, in, h, w], any dtype; returns integers [1, out, h, w].

        Call inside `exact_section(path)`.
        """
        layer, path = self.layers[name], path or self.path
        if path in FAST_PATHS:
            products = self._products(layer, x, path)
            if self._integers(products, name, path, tuple(x.shape)):
                offset = self._offset(layer, rate, path)
                return self._requantise_products(layer, products, offset, path).permute(0, 3, 1, 2)
            # A kernel chosen for this shape leaves the integers: from here on only the safe path is used.
            self.path = path = SAFE_PATH
        return self._requantise(layer, self._sums(layer, x, rate, path), path)

    def around(
        self,
        name: str,
        known: Sequence[Tensor],
        unknown: Tensor,
        near: TensorNeighbours,
        rate: int,
        path: str | None = None,
    ) -> Tensor:
        """One layer at the positions of `near` only: integers, rows [1, n, out].

        Args:
            known: what is known around them, integers, rows [1, n_i, in], part by part.
            unknown: integers [1, 1, in] that stand where nothing is known.
        """
        layer, path = self.layers[name], path or self.path
        seen = near.gather(known)
        selected = self._select(layer, near, path)
        biases = near.biases(selected.spread, self._bias(layer, rate), unknown.flatten().double())
        if path in FAST_PATHS:
            products = _product(seen, selected.weight)
            if self._integers(products, name, path, tuple(seen.shape)):
                offset = (biases * self._prepare(layer, path).scale + 0.5).index_select(0, near.kind)
                return self._requantise_products(layer, products, offset, path).unsqueeze(0)
            self.path = path = SAFE_PATH
            selected = self._select(layer, near, path)
        sums = seen.to(selected.weight.dtype) @ selected.weight
        sums += biases.index_select(0, near.kind).to(sums.dtype)
        sums = sums.round() if path == SAFE_PATH else sums
        return self._requantise(layer, sums.t()[None, :, None], path).squeeze(2).mT

    def pointwise(
        self, name: str, rows: Tensor, rate: int, path: str | None = None, outputs: int | None = None
    ) -> Tensor:
        """One 1x1 layer of rows [1, n, in]: rows [1, n, out], integers; or only its first `outputs`, which do
        not depend on the others."""
        layer, path = self.layers[name], path or self.path
        if path in FAST_PATHS:
            weight = self._prepare(layer, path).weight[:, :outputs]
            products = _product(rows[0].contiguous(), weight)
            if self._integers(products, name, path, (*rows.shape, weight.shape[1])):
                offset = self._offset(layer, rate, path)[:outputs]
                return self._requantise_products(layer, products, offset, path).unsqueeze(0)
            self.path = path = SAFE_PATH
        return self(name, rows.mT.unsqueeze(2), rate, path).squeeze(2).mT[..., :outputs]

    def _select(self, layer: StoredLayer, near: TensorNeighbours, path: str) -> _Selected:
        key = (layer.spec.name, path, near.pattern)
        selected = self._selected.get(key)
        if selected is None:
            weight = layer.weight.to(self.device)
            chosen = near.select(weight)
            selected = _Selected(
                chosen.t().to(_DTYPES[path]).contiguous(),
                by_position(weight).double().contiguous(),
            )
            self._selected.setdefault(key, selected)
        return selected

    def _integers(self, products: Tensor, name: str, path: str, size: tuple[int, ...]) -> bool:
        """Whether products are integers, looked at once for each size of input."""
        shape = (name, path, size)
        if not products.is_floating_point() or shape in self._shapes:
            return True
        right = torch.equal(products, products.round())
        if right:
            self._shapes.add(shape)
        return right

    def _prepare(self, layer: StoredLayer, path: str) -> _Prepared:
        key = (layer.spec.name, path)
        prepared = self._prepared.get(key)
        if prepared is None:
            # ldexp is exact by definition; a vectorised pow need not be.
            scale = np.ldexp(layer.multiplier.cpu().double().numpy(), -layer.shift.cpu().numpy())
            weight, as_matrix = layer.weight.to(self.device), layer.spec.kernel == 1 or layer.spec.gathered
            if path == "int8" or (path in FAST_PATHS and as_matrix):
                weight = weight.permute(0, 2, 3, 1).flatten(1).to(_DTYPES[path]).t()  # (dy, dx, in) x out
                weight = weight.contiguous() if path == "int8" else weight
            else:
                as_stored = torch.preserve_format if path == "int64" else torch.channels_last
                weight = weight.to(_DTYPES[path], memory_format=as_stored)
            prepared = _Prepared(weight, torch.from_numpy(scale).to(self.device))
            self._prepared.setdefault(key, prepared)
        return prepared

    def _sums(self, layer: StoredLayer, x: Tensor, rate: int, path: str) -> Tensor:
        dtype = _DTYPES[path]
        bias = self._bias(layer, rate).to(torch.int32 if path == "int8" else dtype)
        if path in FAST_PATHS:
            return self._products(layer, x, path).add_(bias).permute(0, 3, 1, 2)
        weight = self._prepare(layer, path).weight
        sums = F.conv2d(x.to(dtype), weight, bias, padding=layer.spec.kernel // 2)
        return sums.round() if path == SAFE_PATH else sums

    def _products(self, layer: StoredLayer, x: Tensor, path: str) -> Tensor:
        """Sums without bias [1, h, w, out] of integers [1, in, h, w]."""
        weight, kernel = self._prepare(layer, path).weight, layer.spec.kernel
        x = x.to(weight.dtype)
        if weight.ndim == 4:
            return F.conv2d(x, weight, padding=kernel // 2).permute(0, 2, 3, 1)
        return _product(_windows(x, kernel), weight).view(1, *x.shape[2:], -1)

    def _offset(self, layer: StoredLayer, rate: int, path: str) -> Tensor:
        """The bias in units of what comes out, and the half that rounds, float64 [out]."""
        prepared = self._prepare(layer, path)
        offset = prepared.offsets.get(rate)
        if offset is None:
            offset = prepared.offsets[rate] = self._bias(layer, rate) * prepared.scale + 0.5
        return offset

    def _bias(self, layer: StoredLayer, rate: int) -> Tensor:
        """Float64 [out]."""
        key = (layer.spec.name, rate)
        bias = self._biases.get(key)
        if bias is None:
            bias = self._biases[key] = integer_knots(layer.bias, rate).to(self.device, torch.float64)
        return bias

    def _requantise_products(self, layer: StoredLayer, products: Tensor, offset: Tensor, path: str) -> Tensor:
        """`_requantise` of sums without their bias, [.., out], in the fewest operations: the bias and the
        half go in together, which is as exact in float64, and what is not negative is floored by its
        conversion."""
        scale = self._prepare(layer, path).scale[: products.shape[-1]]
        y = torch.addcmul(offset, products, scale)
        return y.clamp_(0, layer.high + 0.5).to(torch.int8)

    def _requantise(self, layer: StoredLayer, sums: Tensor, path: str) -> Tensor:
        """clamp(floor(sum * m / 2^s + 1/2)): in float64 every step is exact, since |sum * m| < 2^39."""
        if path == "int64":
            m = layer.multiplier.to(sums.device, torch.int64).view(1, -1, 1, 1)
            s = layer.shift.to(sums.device, torch.int64).view(1, -1, 1, 1)
            return ((sums * m + ((1 << s) >> 1)) >> s).clamp_(0, layer.high)
        half = torch.full((), 0.5, dtype=torch.float64, device=sums.device)
        y = torch.addcmul(half, sums.double(), self._prepare(layer, path).scale.view(1, -1, 1, 1))
        return y.floor_().clamp_(0, layer.high).to(_DTYPES[path])


def usable(path: str) -> bool:
    """Whether a path may be tried on this machine at all. Without these instructions 8-bit products are added
    in 16 bits first, which known answers might miss."""
    if path != "int8":
        return True
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", None)
    return hasattr(torch, "_int_mm") and has_vnni is not None and bool(has_vnni())


def _windows(x: Tensor, kernel: int) -> Tensor:
    """What a convolution sees around each position of a map [1, C, h, w], zeros beyond the border:
    [h w, kernel * kernel * C], in (dy, dx, C) order."""
    _, channels, h, w = x.shape
    rows = x.permute(0, 2, 3, 1)
    if kernel > 1:
        edge = kernel // 2
        padded = F.pad(rows, (0, 0, edge, edge, edge, edge)).contiguous()
        _, down, right, _ = padded.stride()
        rows = padded.as_strided((h, w, kernel, kernel, channels), (down, right, down, right, 1))
    # On a grid of one column the reshape is a view whose rows overlap, which products do not expect.
    return rows.reshape(h * w, -1).contiguous()


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """[n, m] times [m, out], sums int32 or float32 as the weight is int8 or float32."""
    rows = rows.to(weight.dtype)
    return torch._int_mm(_packed(rows), _packed(weight)) if weight.dtype == torch.int8 else rows @ weight


def _packed(matrix: Tensor) -> Tensor:
    """Without gaps, its rows as far apart as they are long even where there is one only: by another distance,
    which then means nothing to `contiguous`, torch's products of bytes read elsewhere (2.13, AVX512-VNNI)."""
    return matrix.contiguous().view(-1).view(matrix.shape)
