"""Layer names of Keras refer to the torchvision layers that compute the same."""

from __future__ import annotations

import pytest

from featstore.backbones.keras_names import table, torchvision_name
from featstore.backbones.layers import list_layers

SHAPES = {
    "mobilenet_v2": {
        "Conv1_relu": (32, 112, 112),
        "expanded_conv_project_BN": (16, 112, 112),
        "block_1_expand_relu": (96, 112, 112),
        "block_12_project": (96, 14, 14),
        "block_12_add": (96, 14, 14),
        "block_13_expand_relu": (576, 14, 14),
        "block_16_project": (320, 7, 7),
        "out_relu": (1280, 7, 7),
    },
    "vgg16": {
        "block1_conv1": (64, 224, 224),
        "block4_pool": (512, 14, 14),
        "block5_conv3": (512, 14, 14),
        "block5_pool": (512, 7, 7),
        "fc2": (4096,),
    },
    "resnet50": {
        "pool1_pool": (64, 56, 56),
        "conv2_block3_out": (256, 56, 56),
        "conv4_block6_out": (1024, 14, 14),
        "conv5_block1_0_conv": (2048, 7, 7),
        "conv5_block3_3_conv": (2048, 7, 7),
    },
    "inception_v3": {"mixed0": (256, 35, 35), "mixed7": (768, 17, 17), "mixed10": (2048, 8, 8)},
    "efficientnet_b0": {
        "block3b_add": (40, 28, 28),
        "block4a": (80, 14, 14),
        "block7a": (320, 7, 7),
        "top_activation": (1280, 7, 7),
    },
}
"""Shapes as ``model.summary()`` of Keras prints them for the default picture size, channels first.

Keras' Inception v3 has no padding: for 299 pixels its maps are as large as torchvision's.
"""


@pytest.mark.parametrize("backbone", SHAPES)
def test_keras_layers_have_the_shapes_of_their_torchvision_layers(backbone: str) -> None:
    layers = {layer.name: layer for layer in list_layers(backbone)}
    assert {name: layers[table(backbone)[name]].shape for name in SHAPES[backbone]} == SHAPES[backbone]
    assert set(table(backbone).values()) <= layers.keys()


def test_keras_layer_names_used_in_courses_are_translated() -> None:
    assert torchvision_name("mobilenet_v2", "block_12_project") == "features.13.conv.2"
    assert torchvision_name("mobilenet_v2", "features[13].conv[2]") == "features.13.conv.2"
    # In Keras' VGG16, each convolution layer includes its ReLU.
    assert torchvision_name("vgg16", "block5_conv3") == "features.29"
    assert torchvision_name("vgg16", "block_12_project") == "block_12_project"
    assert torchvision_name("vit_b_16", "encoder.ln") == "encoder.ln"
