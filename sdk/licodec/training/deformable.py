"""What a deformable residual block in the analysis would gain: an experiment, and no part of any weights.

    python -m licodec.training.deformable weights/fhic/s-1 RUN DATA/train --minutes 20

The encoder of trained weights goes on learning as `encoders` says, once as it is and once with a block more.
"""

from __future__ import annotations

import torch

from licodec.codecs import checkerboard as cb
from licodec.codecs.deformable import DeformableBlock
from licodec.training.encoders import Way, arguments, compared


def silent_block(width: int) -> cb.Block:
    """An ordinary block that starts as nothing."""
    block = cb.Block(width)
    with torch.no_grad():
        block.narrow.weight.zero_()
    return block


WAYS = {
    "as-it-is": Way(),
    "deformable": Way(blocks=(DeformableBlock,)),
    "ordinary": Way(blocks=(silent_block, silent_block)),
}
"""Two ordinary blocks take about the time of a deformable one."""


def main() -> None:
    parser = arguments(__doc__, minutes=20.0)
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=["as-it-is", "deformable"])
    wish = parser.parse_args()
    compared(wish, {name: WAYS[name] for name in wish.ways})


if __name__ == "__main__":
    main()
