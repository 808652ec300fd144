"""Every backbone with every published weights' options: built, cut, run on the meta device where that is possible.

    python -m tests.backbones.every

takes about a minute; ends with 1 where a dimension differs from the catalogue's or from the output's.
"""

from __future__ import annotations

import sys

import torch

from featstore.backbones import architectures, base
from featstore.backbones.catalogue import _DIMENSIONS

TOO_LARGE_FOR_THE_CPU = 300_000_000
"""Parameters beyond which a network that cannot be on the meta device is not run."""


def main() -> int:
    wrong = 0
    for name in architectures.names():
        architecture = architectures.find(name)
        for entry in architecture.entries.values():
            network = architecture.empty(entry)
            classifier, dimension = base.cut(network)
            good, ran = dimension == _DIMENSIONS[name], False
            device, crop = next(network.parameters()).device, entry.preprocessing.crop
            if device.type == "meta" or entry.parameters < TOO_LARGE_FOR_THE_CPU:
                with torch.inference_mode():
                    good &= network(torch.empty(1, 3, crop, crop, device=device)).shape == (1, dimension)
                ran = True
            print(
                f"{name} {entry.name}: input of {classifier}, {dimension}{'' if ran else ', not run'}, {'ok' if good else 'WRONG'}",
                flush=True,
            )
            wrong += not good
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
