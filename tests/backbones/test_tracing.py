"""Networks are divided into parts that together compute what the whole network computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from featstore.backbones import load_backbone
from featstore.backbones.layers import list_layers
from featstore.backbones.tracing import Trace, depends_on_mode, until


class Residual(nn.Module):
    """A network of convolutions, an in-place ReLU, a residual connection and stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)
        self.inner, self.drop = nn.Conv2d(4, 4, 1), StochasticDepth(0.5, "row")
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor, factor: float | None = None) -> Tensor:
        x = self.act(self.first(x))
        x = x + self.drop(self.inner(x)) * self.scale
        return self.last(x if factor is None else x * factor).flatten(1)


def test_trace_finds_the_layers_that_every_path_passes_through() -> None:
    trace = Trace(Residual().eval())
    assert list(trace.outputs) == ["first", "act", "inner", "drop", "last"]
    assert [name for name, node in trace.outputs.items() if node in trace.clean] == ["first", "act", "last"]
    # The parameter "scale" is used at the end of the branch, after "drop" and before "last".
    order = sorted(trace.states, key=lambda name: trace.states[name])
    assert order == ["first.weight", "first.bias", "inner.weight", "inner.bias", "scale", "last.weight", "last.bias"]


def test_tail_of_a_divided_network_does_not_change_its_input_in_place() -> None:
    network = Residual().eval().requires_grad_(False)
    trace = Trace(network)
    pictures = torch.randn(5, 3, 4, 4)
    between = trace.until(trace.outputs["first"])(pictures)
    assert (between < 0).any()
    before = between.clone()
    assert torch.equal(trace.after(trace.outputs["first"])(between), network(pictures))
    assert torch.equal(between, before)


def test_stochastic_depth_has_an_effect_only_in_train_mode() -> None:
    network = Residual().eval().requires_grad_(False)
    tail = Trace(network).after(None)
    pictures = torch.randn(20, 3, 4, 4)
    assert torch.equal(tail(pictures), network(pictures))
    torch.manual_seed(0)
    made = tail.train()(pictures)
    torch.manual_seed(0)
    assert torch.equal(made, network.train()(pictures))
    assert not torch.equal(made, network.eval()(pictures))


@pytest.mark.parametrize(("module", "depends"), [(StochasticDepth(0.1, "row"), True), (nn.Dropout(), False)])
def test_trace_finds_modules_outside_torch_that_depend_on_train_mode(module: nn.Module, depends: bool) -> None:
    assert depends_on_mode(module) is depends


def test_vision_transformer_cut_after_a_block_does_not_run_later_blocks() -> None:
    network = load_backbone("vit_b_32", "random:0").module
    part = until(network, "encoder.layers.encoder_layer_0")
    blocks = [name for name, _ in part.named_modules() if name.startswith("encoder.layers.encoder_layer_")]
    assert {name.split(".")[2] for name in blocks} == {"encoder_layer_0"}
    assert len([layer for layer in list_layers("vit_b_32") if layer.kind == "EncoderBlock"]) == 12


def test_gradient_of_a_value_returned_too_is_added_after_that_of_later_layers():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Identity()

        def forward(self, pictures):
            value = self.first(pictures)
            return value * 1e8 + value * -1e8

    trace = Trace(Branching())
    pictures = torch.ones(1, 3, 4, 4, requires_grad=True)
    output, value = trace.after(None, also=trace.outputs["first"])(pictures)
    (output + value * 1.0).sum().backward()
    # In float32, (1e8 - 1e8) + 1 is 1, and (1 + 1e8) - 1e8 is 0.
    assert torch.equal(pictures.grad, torch.ones_like(pictures))
