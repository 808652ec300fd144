"""Check the feature dimension of every backbone, with the options of all published weights.

    python -m tests.backbones.every

Each network is built, its classifier is removed, and it is run, on torch's meta device where possible. This takes
about a minute. The exit code is 1 if a dimension differs from the catalogue or from the network's output.
"""

from __future__ import annotations

import sys

import torch

from featstore.backbones import architectures
from featstore.backbones.catalogue import _DIMENSIONS

TOO_LARGE_FOR_THE_CPU = 300_000_000
"""Maximum number of parameters of a network that is run on the CPU, if it cannot run on the meta device."""


def main() -> int:
    wrong = 0
    for name in architectures.names():
        architecture = architectures.find(name)
        for entry in architecture.entries.values():
            network = architecture.empty(entry)
            classifier, dimension = architecture.cut(network)
            good, ran = dimension == _DIMENSIONS[name], False
            device, crop = next(network.parameters()).device, entry.preprocessing.crop
            if device.type == "meta" or (entry.parameters or 0) < TOO_LARGE_FOR_THE_CPU:
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
