"""Compare fine-tuning on stored activations with a plain PyTorch loop that runs the frozen trunk in every step.

    python -m tests.slow.finetune_exact [NAME...] [--steps 50] [--batch 16] [--rate 1e-4] [--threads 2]

For each of seven architectures with random weights: the plain loop trains torchvision's own network, of which a part is
frozen with ``requires_grad = False`` and ``eval()``, as courses do. The other loop trains the tail of the divided
network on the trunk's activations, which were computed once. Both take the same AdamW steps, with torch's fused kernel,
which updates the 127 million trained parameters of VGG16 several times as fast. Required: no parameter or
buffer differs by more than 1e-5; parameters and buffers of the trunk are bit-identical to those before training; as
many parameters are trained as in the plain loop. The exit code is 1 if a requirement is missed.

Batches of fewer than 16 pictures can miss the bound: in a single thread, torch uses another kernel for their 1 x 1
convolutions, whose rounding differs. AdamW turns a changed sign of a gradient near 0 into a whole step.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import time

import torch

from featstore.finetuning.network import trained_parameters
from featstore.finetuning.partition import frozen_names
from featstore.processes.malloc import keep_memory
from tests.finetuning.plain import (
    COURSES,
    by_hand,
    divided,
    greatest_difference,
    pictures_of,
    steps,
    stored,
)

BOUND = 1e-5
ADAMW = functools.partial(torch.optim.AdamW, fused=True)


def check(name: str, count: int, batch: int, rate: float) -> bool:
    """Train the network ``name`` in both ways and print the differences; return whether all requirements hold."""
    pictures, codes = pictures_of(name, 3 * batch)
    started = time.perf_counter()
    plain = by_hand(name)
    trained = trained_parameters(plain)
    steps(plain, pictures, codes, count, batch, ADAMW, rate)
    live = time.perf_counter() - started
    started = time.perf_counter()
    backbone, partition, ours = divided(name)
    before = copy.deepcopy(dict([*backbone.module.named_parameters(), *backbone.module.named_buffers()]))
    activations = stored(partition.trunk, pictures, 2 * batch)
    steps(ours.train(), activations, codes, count, batch, ADAMW, rate)
    cached = time.perf_counter() - started
    after = dict([*backbone.module.named_parameters(), *backbone.module.named_buffers()])
    frozen = frozen_names(backbone, COURSES[name].layer)
    same = all(torch.equal(before[key], after[key]) for key in frozen)
    moved = sum(not torch.equal(before[key], after[key]) for key in before)
    found = greatest_difference(name, ours, backbone, plain)
    holds = max(found.values()) <= BOUND and same and moved > 0 and trained_parameters(ours) == trained
    print(
        f"{name} after {partition.layer} {partition.shape}: greatest difference {found['parameters']:.1e} (parameters), "
        f"{found['buffers']:.1e} (buffers); {len(frozen)} frozen tensors {'bit-identical' if same else 'CHANGED'}, {moved} "
        f"others changed; {trained_parameters(ours):,} parameters trained, {trained:,} in the plain loop; {live:.0f} s "
        f"live, {cached:.0f} s on stored activations{'' if holds else '  MISSED'}",
        flush=True,
    )
    return holds


def main() -> int:
    """Check the named architectures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COURSES)}")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_memory()
    results = [check(name, given.steps, given.batch, given.rate) for name in given.names or COURSES]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
