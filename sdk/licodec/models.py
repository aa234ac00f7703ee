"""Which model answers a request: the process-wide cache of loaded models, and what a fork does to them.

    loaded = CACHE.get(Request("fhic", "s-1"), "cpu")
    loaded.model.encode(picture, rate=191)

Models are immutable and shared by threads; the cache is the only mutable state of the SDK.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lic_format.errors import LicWarning, UnsupportedError, UsageValueError, WeightsError
from licodec import store
from licodec.codecs.registry import CODECS, CodecEntry
from licodec.threads import torch_as_wanted, torch_is_loaded

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from licodec.codecs.contract import Model

BYTES_KEPT = 512 * 2**20
"""Of models that nobody holds but the cache: 22 of fhic's preset s."""

GLIBC_LARGEST_BLOCK_KEPT = 32 * 2**20
"""Up to here freed blocks raise glibc's threshold between blocks it keeps and blocks it gives back."""


@dataclass(frozen=True)
class Request:
    """Weights somebody wants; without digests the first ones found (encoding). `path`, `download`, `decoder`:
    see `store.load`."""

    codec: str
    tag: str
    decode_digest: bytes | None = None
    synthesis_digest: bytes | None = None
    path: str | None = None
    download: store.Download = "auto"
    decoder: str = "fast"


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, with the reference that files coded by it carry.

    bytes: of its weights as float32, the form in which codecs hold them (a model of fhic takes as much, give
    or take a fiftieth).
    sha256: of its weights file.
    """

    model: Model
    ref: store.WeightsRef
    device: str
    bytes: int
    sha256: str


_Key = tuple[bytes, bytes, str, str]
_Question = tuple[Request, str, tuple[Any, ...]]


class ModelCache:
    """The models used last, by (decode digest, synthesis digest, device, SHA-256 of the weights file), up to
    so many bytes, and the very last one whatever it takes. Safe in threads and forks."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._forked = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[_Key, Loaded] = OrderedDict()
        self._answers: dict[_Question, _Key] = {}
        self._loading: dict[_Question, threading.Lock] = {}

    def get(self, request: Request, device: str) -> Loaded:
        """The model for a request on a resolved device, loaded and verified when it isn't here yet. If it has
        loaded torch, that runs in the caller's section on as many threads as `limited` says.

        Raises:
            WeightsError: not found, damaged, wrong digest. UnsupportedError: no such codec in this version.
        """
        loaded = self._got(request, device)
        torch_as_wanted()
        return loaded

    def _got(self, request: Request, device: str) -> Loaded:
        entry = codec_entry(request.codec)
        question = (request, device, _identity(request))
        with self._lock:
            if found := self._found(question):
                return found
            loading = self._loading.setdefault(question, threading.Lock())
        # Two threads that ask for one model load it once; those that have theirs don't wait for a download.
        with loading:
            with self._lock:
                if found := self._found(question):
                    return found
            try:
                if request.decoder == "fast":
                    loaded = _build(entry, request, device)
                else:
                    # The file's own synthesis may be missing or another one: it is not used.
                    whole = self._got(replace(request, decoder="fast", synthesis_digest=None), device)
                    loaded = _with_alternate(entry, request, whole)
                with self._lock:
                    return self._keep(question, loaded)
            finally:
                with self._lock:
                    self._loading.pop(question, None)

    def _found(self, question: _Question) -> Loaded | None:
        request, device, _ = question
        key = self._answers.get(question)
        if (
            key is None
            and request.path is None
            and request.decoder == "fast"
            and request.decode_digest
            and request.synthesis_digest
        ):
            wanted = (request.decode_digest, request.synthesis_digest, device)
            # Loaded for another question; whatever else its file holds, it decodes.
            key = next((key for key in self._models if key[:3] == wanted), None)
        if key is None or key not in self._models:
            return None
        self._models.move_to_end(key)
        return self._models[key]

    def _keep(self, question: _Question, loaded: Loaded) -> Loaded:
        key = (loaded.ref.decode_digest, loaded.ref.synthesis_digest, loaded.device, loaded.sha256)
        self._answers[question] = key
        kept = self._models.setdefault(key, loaded)
        self._models.move_to_end(key)
        while len(self._models) > 1 and sum(each.bytes for each in self._models.values()) > self._most_bytes:
            gone, _ = self._models.popitem(last=False)
            self._answers = {asked: known for asked, known in self._answers.items() if known != gone}
        return kept

    def clear(self) -> None:
        """Forget all models; those that an `Encoder` or `Decoder` holds live as long as it does."""
        with self._lock:
            self._models.clear()
            self._answers.clear()

    def __len__(self) -> int:
        return len(self._models)

    def after_fork(self) -> None:
        """In a forked child: nothing of the parent's, and a lock that no vanished thread holds."""
        self._forked = torch_is_loaded()
        self._reset()

    def before_use(self, device: str, threads: int | None = None) -> int | None:
        """Make this process fit to run networks, or say why it is not; return how many of the threads that
        were asked for it may use.

        GNU OpenMP's threads do not survive a fork: a child of a process in which torch ran a parallel region
        hangs for ever in its first parallel region. One thread never enters one. A torch that the child
        itself loads has threads of its own.
        """
        if not self._forked:
            return threads
        import torch

        if device.startswith("cuda") and getattr(torch.cuda, "_is_in_bad_fork", bool)():
            raise UsageValueError(
                "device: CUDA cannot be used in a process forked after CUDA was initialised; "
                'start workers with the "spawn" method, or use device="cpu"',
                argument="device",
            )
        if torch.get_num_threads() > 1 or (threads or 1) > 1:
            torch.set_num_threads(1)
            warnings.warn(
                "this process was forked after torch was imported: networks run on one thread here, because "
                'more would hang; start workers with the "spawn" or "forkserver" method to use more',
                LicWarning,
                stacklevel=5,  # _Place.entered, what enters it, encode or decode, their caller
            )
        return 1


CACHE = ModelCache(BYTES_KEPT)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CACHE.after_fork)


def codec_entry(token: str) -> CodecEntry:
    """The registry's entry of a codec that a file names."""
    entry = CODECS.get(token)
    if entry is None:
        raise UnsupportedError(
            f"the codec {token!r} is not in this version of licodec; it has {', '.join(CODECS)}"
        )
    return entry


def _identity(request: Request) -> tuple[Any, ...]:
    """What else an answer depends on. A digest names a content for ever; else path, time and size do."""
    if request.decode_digest is not None:
        return (os.environ.get(store.ENVIRONMENT),)
    files = store.local_files(request.codec, request.tag, path=request.path)
    stats = [(file, file.stat()) for file in files[:1]]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)


@functools.cache
def _let_freed_memory_be_used_again() -> None:
    """Tell the C library once that blocks of 32 MiB come and go here, by one that does.

    Activations of a picture are blocks of megabytes. By default glibc takes each fresh from the kernel and
    gives it back, and a call spends up to a tenth of its time in page faults; having seen a large block freed
    it keeps up to 64 MiB at hand instead. The block is never written to and costs no memory; other C
    libraries do what they do, and so does glibc where MALLOC_TRIM_THRESHOLD_ or its like is set.
    """
    import numpy as np

    np.empty(GLIBC_LARGEST_BLOCK_KEPT - 2**16, np.uint8)


def _build(entry: CodecEntry, request: Request, device: str) -> Loaded:
    with ThreadPoolExecutor(1) as beside:  # hashing a file leaves the interpreter to others
        imported = beside.submit(importlib.import_module, entry.module)
        weights = store.load(
            request.codec,
            request.tag,
            request.decode_digest,
            synthesis_digest=request.synthesis_digest,
            path=request.path,
            download=request.download,
        )
        module = imported.result()
    torch_as_wanted()
    _let_freed_memory_be_used_again()
    model: Model = _all_used(weights, lambda noted: module.build(noted, device))
    return Loaded(model, weights.ref, device, _bytes_of(weights), weights.sha256)


def _with_alternate(entry: CodecEntry, request: Request, whole: Loaded) -> Loaded:
    """A loaded model with another decoder's synthesis instead of its own; all else is shared."""
    weights = store.load(
        request.codec,
        request.tag,
        whole.ref.decode_digest,
        path=request.path,
        download=request.download,
        decoder=request.decoder,
    )
    module = importlib.import_module(entry.alternates[request.decoder])
    torch_as_wanted()
    model: Model = _all_used(weights, lambda noted: module.alternate(whole.model, noted))
    return Loaded(model, weights.ref, whole.device, _bytes_of(weights), whole.sha256 + weights.sha256)


def _all_used(weights: store.Weights, make: Callable[[store.Weights], Model]) -> Model:
    """What is made of weights; WeightsError where some of their tensors were of no use."""
    noted = _Noted(weights.tensors)
    model = make(replace(weights, tensors=noted))
    if not weights.known and (unused := sorted(set(weights.tensors) - noted.used)):
        raise WeightsError(
            f"{weights.path}: {weights.ref.codec} has no use for {len(unused)} of its tensors, as "
            f"{unused[0]!r}; expected those of the architecture that its metadata names, and no others"
        )
    return model


def _bytes_of(weights: store.Weights) -> int:
    return sum(4 * math.prod(weights.tensors.shape(name)) for name in weights.tensors)


class _Noted(store.Tensors):
    """The same tensors, and which of them somebody has asked for, in whatever form."""

    def __init__(self, tensors: store.Tensors) -> None:
        super().__init__(tensors.stored, tensors.bfloat16)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = super().__getitem__(name)
        self.used.add(name)
        return tensor

    def array(self, name: str) -> npt.NDArray[Any]:
        array = super().array(name)
        self.used.add(name)
        return array
