"""The optimisers AdamW, Adam and SGD of torch, whose state is stored by the names of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from featstore.finetuning.plan import Plan

_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
"""Constants of Adam and AdamW, the defaults of torch.optim.

Only the functions of torch.optim are used: its classes would load PyTorch's compiler, which takes 2 s.
"""
STEPS: Final = "steps"
SLOTS: Final[Mapping[str, tuple[str, ...]]] = {
    "adamw": ("means", "squares", STEPS),
    "adam": ("means", "squares", STEPS),
    "sgd": ("momentum",),
}
"""Map from optimiser to the names of the tensors that it keeps for each parameter.

All these tensors have the parameter's shape, except STEPS, the number of steps so far, a float32 scalar on the CPU.
"""


class Optimiser:
    """Updates parameters from their gradients; the result is bit-identical to that of torch's class of the same name.

    The faster variant ("fused") is not used, because it rounds differently. Adam would enlarge the difference where the
    true gradient is 0, as for the bias of a convolution before BatchNorm.

    ``state``: the optimiser's tensors by (name of the parameter, slot), see SLOTS. A parameter gets a state at its
    first step, so layers may be unfrozen while the optimiser is in use.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.state: dict[tuple[str, str], Tensor] = {}

    def step(self, groups: Sequence[Mapping[str, Any]], factor: float) -> None:
        """Take one optimiser step and delete the gradients. A parameter without a gradient is not changed.

        ``groups``: parameters ("params") with their names ("names"), learning rate ("lr") and weight decay
        ("weight_decay"); ``factor`` multiplies every learning rate.
        """
        for group in groups:
            found = [(name, each) for name, each in zip(group["names"], group["params"], strict=True)]
            found = [(name, each) for name, each in found if each.requires_grad and each.grad is not None]
            if found:
                with torch.no_grad():
                    self._update(found, float(group["lr"]) * factor, float(group["weight_decay"]))
                for _, parameter in found:
                    parameter.grad = None

    def _update(self, found: Sequence[tuple[str, Tensor]], rate: float, decay: float) -> None:
        parameters = [each for _, each in found]
        gradients = [each.grad for each in parameters if each.grad is not None]
        if self._plan.optimiser == "sgd":
            self._update_sgd(found, gradients, rate, decay)
            return
        for name, parameter in found:
            if (name, STEPS) not in self.state:
                self.state[name, "means"] = torch.zeros_like(parameter)
                self.state[name, "squares"] = torch.zeros_like(parameter)
                self.state[name, STEPS] = torch.zeros((), dtype=torch.float32, device="cpu")
        update = adamw if self._plan.optimiser == "adamw" else adam
        update(
            parameters,
            gradients,
            [self.state[name, "means"] for name, _ in found],
            [self.state[name, "squares"] for name, _ in found],
            [],
            [self.state[name, STEPS] for name, _ in found],
            amsgrad=False,
            maximize=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            eps=_EPSILON,
            lr=rate,
            weight_decay=decay,
        )

    def _update_sgd(
        self, found: Sequence[tuple[str, Tensor]], gradients: list[Tensor], rate: float, decay: float
    ) -> None:
        moments = [self.state.get((name, "momentum")) for name, _ in found]
        sgd(
            [each for _, each in found],
            gradients,
            moments,
            weight_decay=decay,
            momentum=self._plan.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        # At the first step of a parameter, torch's function sgd() puts a new tensor into the list.
        self.state |= {
            (name, "momentum"): each for (name, _), each in zip(found, moments, strict=True) if each is not None
        }
