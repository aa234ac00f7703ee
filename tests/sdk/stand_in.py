"""A codec small enough to be obvious, for tests of everything around a codec.

It stores the samples shifted right by `7 - rate // 32` bits, packed with zlib; a convolution with a unit
kernel from the weights makes it run torch as a real codec does. Registered by the fixture `stand_in`.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from lic_format import FormatError, Head, LicFile, Unit
from lic_format.fields import EnumU8, Table
from licodec.codecs.contract import USUALLY, Coded, LossyWish, Model, Shared, Stages
from licodec.codecs.registry import CodecEntry
from licodec.images import Picture
from licodec.store import Weights

SIDE_INFO = Table("stand-in side info", (("layout", EnumU8({1: "the only one"}), "layout id"),))
TENSORS = ("decode.kernel", "decode.scale", "decode.padding", "synthesis.scale", "encoder.scale")
MOST_PIXELS_PER_BYTE = 1030  # zlib's largest factor


class StandInModel:
    def __init__(self, weights: Weights, device: str) -> None:
        found = {name: weights.tensors[name] for name in TENSORS if name in weights.tensors}
        self.kernel = found["decode.kernel"].to(device)
        self.scale = float(found["encoder.scale"]) if "encoder.scale" in found else 1.0
        self.device = device

    def encode(
        self,
        picture: Picture,
        *,
        rate: int,
        order: int | None = None,
        stages: Stages | None = None,
        shared: Shared | None = None,
        wish: LossyWish = USUALLY,
    ) -> Coded:
        shift = 7 - rate // 32
        scaled = np.round(np.asarray(picture.planes) * self.scale).astype(np.uint8)
        samples = self._through_torch(scaled, stages) >> shift
        side_info = SIDE_INFO.write({"layout": 1})
        unit = Unit(2, b"", zlib.compress(samples.tobytes(), 9))
        return Coded({"rate": rate, "side_info": side_info}, (unit,))

    def decode(self, file: LicFile, *, reduce: int = 1, stages: Stages | None = None) -> Picture:
        head = file.head
        shape = (head.height, head.width, 1 if head.colour == 0 else 3)
        try:
            inflater = zlib.decompressobj()
            content = inflater.decompress(file.units[0].body, shape[0] * shape[1] * shape[2])
        except zlib.error as error:
            raise FormatError(f"the body is no zlib stream: {error}", chunk="DATA") from None
        if len(content) != shape[0] * shape[1] * shape[2] or not inflater.eof:
            raise FormatError("the body has not as many samples as the picture", chunk="DATA")
        shift = 7 - head.rate // 32
        samples = np.frombuffer(content, np.uint8).reshape(shape) << shift
        return Picture(self._through_torch(samples, stages))

    def _through_torch(self, planes: Any, stages: Stages | None) -> Any:
        start = time.perf_counter()
        plane = torch.from_numpy(np.array(planes, np.float32)).permute(2, 0, 1)[:, None].to(self.device)
        with torch.inference_mode():
            same = torch.nn.functional.conv2d(plane, self.kernel, padding=1)
        result = same[:, 0].permute(1, 2, 0).round().to(torch.uint8).cpu().numpy()
        if stages is not None:
            stages["network"] = stages.get("network", 0.0) + (time.perf_counter() - start) * 1e3
        return np.ascontiguousarray(result)


def build(weights: Weights, device: str, *, exact: str = "auto") -> Model:
    return StandInModel(weights, device)


def precheck(head: Head, units: Sequence[Unit]) -> None:
    payload = sum(len(unit.body) for unit in units)
    if head.width * head.height > payload * MOST_PIXELS_PER_BYTE:
        raise FormatError("fewer bytes than the cheapest picture of this size needs", chunk="DATA")


ENTRY = CodecEntry(
    token="stand-in",
    module="tests.sdk.stand_in",
    default_tag="t-1",
    side_info=SIDE_INFO,
    title="stand-in for tests",
    precheck=precheck,
)


def write_weights(
    folder: Path,
    *,
    tag: str = "t-1",
    synthesis: float = 1.0,
    decode: float = 1.0,
    encoder: float = 1.0,
    padding: int = 0,
    row: int = 1,
) -> Path:
    """`folder`/stand-in/`tag`/model.safetensors; the first two numbers change the two digests, so do bytes of
    padding; `encoder`, by which samples are multiplied before they are coded, changes none. A `row` of the
    kernel other than the middle one moves pictures by a pixel."""
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, row, 1] = 1.0
    tensors = {
        "decode.kernel": kernel,
        "decode.scale": torch.tensor([decode]),
        "synthesis.scale": torch.tensor([synthesis]),
        "encoder.scale": torch.tensor([encoder]),
    }
    if padding:
        tensors["decode.padding"] = torch.arange(padding, dtype=torch.int64).to(torch.uint8)
    path = folder / "stand-in" / tag / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"codec": "stand-in", "tag": tag, "architecture": "unit kernel", "tables": "none"}
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    return path
