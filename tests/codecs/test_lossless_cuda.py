"""pilc on CUDA devices, without one: its kernels, interpreted, give the CPU's bytes, and compile for devices.

The checks are in `interpreted_kernels`, whose process has Triton's interpreter in place of its compiler.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lic_format import LicWarning
from licodec import store
from licodec.codecs import lossless

if importlib.util.find_spec("triton") is None:
    pytest.skip("pilc's kernels need triton (pip install 'licodec[triton]')", allow_module_level=True)

ROOT = Path(__file__).parents[2]
INTERPRETED = (
    "every_pass_predicts_as_on_the_cpu",
    "nets_at_their_limits_predict_as_on_the_cpu",
    "bodies_of_colour_are_those_of_the_cpu",
    "bodies_of_grey_are_those_of_the_cpu",
    "bodies_of_small_and_narrow_tiles_are_those_of_the_cpu",
    "tiles_of_a_batch_may_have_other_lanes",
    "batches_are_taken_in_parts",
    "files_are_those_of_the_cpu",
    "what_suits_tiles_is_found_as_on_the_cpu",
    "damaged_bodies_are_refused_as_on_the_cpu",
    "damaged_adaptations_are_refused_as_on_the_cpu",
    "corrections_past_the_limit_are_refused",
    "needless_escapes_are_refused",
    "callers_are_told_what_is_wrong",
    "a_device_that_differs_is_not_used",
)


def interpreted(*names: str) -> Mapping[str, str]:
    """What went wrong in checks of `interpreted_kernels`."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "sdk")])
    result = subprocess.run(
        [sys.executable, "-m", "tests.codecs.interpreted_kernels", *names],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    found: Mapping[str, str] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def findings() -> Mapping[str, str]:
    found = interpreted()
    assert set(found) == set(INTERPRETED)
    return found


@pytest.mark.parametrize("name", INTERPRETED)
def test_interpreted(findings: Mapping[str, str], name: str) -> None:
    assert findings[name] == "", findings[name]


@pytest.mark.slow
def test_the_trial_of_a_device_passes_in_the_interpreter() -> None:
    (found,) = interpreted("the_trial_itself_passes").values()
    assert found == "", found


# --- compilers ------------------------------------------------------------------------------------

POINTERS = {
    "planes": "*i16",
    "values": "*u8",
    "indices": "*u8",
    "places": "*i32",
    "first": "*i8",
    "second": "*i8",
    "integers": "*i32",
    "rows": "*i32",
    "tables_of": "*u8",
    "chosen": "*i32",
    "data": "*u8",
    "sections": "*i64",
    "lanes_of": "*i32",
    "states": "*i32",
    "taken": "*i32",
    "slots": "*i32",
    "codes": "*i32",
    "stages": "*i32",
    "words": "*i16",
    "escapes": "*u8",
    "heads": "*u8",
    "head_sizes": "*i32",
    "starts": "*i64",
    "out": "*u8",
}
VARIANTS: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
    ("predict", {"K": 64, "A": 64, "B": 32, "CODE": False, "BLOCK": 64}, {}),
    ("predict", {"K": 32, "A": 32, "B": 32, "CODE": True, "BLOCK": 64}, {}),
    ("decode_lanes", {"BASE": False, "LANES": 512}, {}),
    ("decode_lanes", {"BASE": True, "LANES": 512}, {}),
    ("base", {"CODE": False, "SIDE": 16}, {}),
    ("base", {"CODE": True, "SIDE": 16}, {}),
    ("encode_lanes", {"LANES": 512}, {"first": "*i32"}),
    ("pack", {"LANES": 512, "BLOCK": 1024}, {"first": "*i32", "states": "*u8", "words": "*u8"}),
)


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_kernels_compile_to_integer_code(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from licodec.codecs import lossless_kernels
    from licodec.codecs.lossless_cuda import LAUNCH

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    for name, constants, other in VARIANTS:
        kernel = getattr(lossless_kernels, name)
        signature = {
            argument: "constexpr" if argument in constants else (POINTERS | other).get(argument, "i32")
            for argument in kernel.arg_names
        }
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options=dict(LAUNCH)).asm
        code = compiled["ptx"]
        assert f".target sm_{capability}" in code
        assert not re.search(r"\.(f16|bf16|tf32|f32|f64)\b", code), f"{name} computes with floats"
        if name == "predict":
            assert re.search(r"mma\S*\.s32\.s8\.s8", code), "products are not those of int8"
        if assembler.exists():
            assert len(compiled["cubin"]) > 1000


# --- the model ------------------------------------------------------------------------------------


def test_without_a_device_the_model_runs_on_the_cpu() -> None:
    import torch

    weights = store.load("pilc", "l-1")
    if torch.cuda.is_available():
        from licodec.codecs.lossless_cuda import LosslessOnDevice

        assert isinstance(lossless.build(weights, "cuda"), LosslessOnDevice)
        return
    with pytest.warns(LicWarning, match="pilc runs on the CPU, not on cuda"):
        assert type(lossless.build(weights, "cuda")) is lossless.Lossless
