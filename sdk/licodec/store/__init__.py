"""Weights: how files name them (digests), where they are found, and how they are read (safetensors only, no
pickle).

    weights = load("fhic", "s-1")            # the embedded ones, or those of LICODEC_WEIGHTS
    weights.tensors["encoder.conv1.weight"]  # torch.Tensor on the CPU, or
    weights.tensors.array("prior.index")     # numpy.ndarray, for those who do without torch
    weights.ref.decode_digest                # what every file coded with them carries

Order: an explicit path, the folder that LICODEC_WEIGHTS names, the weights embedded in the package, the cache
of the Hub's client, the Hub. `known` is the table of what there is, by digest.
"""

from licodec.store.digests import Digests, WeightsRef, digests_of
from licodec.store.table import ENVIRONMENT, Entry, HubFile, answering, known
from licodec.store.weights import Download, Tensors, Weights, entry_of, load, local_files

__all__ = [
    "ENVIRONMENT",
    "Digests",
    "Download",
    "Entry",
    "HubFile",
    "Tensors",
    "Weights",
    "WeightsRef",
    "answering",
    "digests_of",
    "entry_of",
    "known",
    "load",
    "local_files",
]
