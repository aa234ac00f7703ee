"""Weights: how files name them (digests), where they are found, and how they are read (safetensors only, no
pickle).

    weights = load("fhic", "s-1")            # the embedded ones, or those of LICODEC_WEIGHTS
    weights.tensors["encoder.conv1.weight"]  # torch.Tensor on the CPU
    weights.ref.decode_digest                # what every file coded with them carries

Order: an explicit path, the folder that LICODEC_WEIGHTS names, the weights embedded in the package.
"""

from licodec.store.digests import Digests, digests_of
from licodec.store.weights import ENVIRONMENT, Weights, WeightsRef, load, locate

__all__ = ["ENVIRONMENT", "Digests", "Weights", "WeightsRef", "digests_of", "load", "locate"]
