"""Architectures of torchvision for the zoo, as people take them from there: for images of 28 or 32 pixels.

Small ones of each family, and the first step down in size is left out where there is one: what remains of such an image
would be too little. The same arguments as the fixtures' networks; ``width`` is that of the narrowest stage or what
comes nearest to it.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.squeezenet import SqueezeNet
from torchvision.models.swin_transformer import SwinTransformer


def bottleneck(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A ResNeXt of three bottleneck blocks, eight groups each: its last stage is left out."""
    network = ResNet(Bottleneck, [1, 1, 1, 1], groups=8, width_per_group=width // 8)
    network.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    network.maxpool, network.layer4 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    network.fc = nn.Linear(1024, num_classes)
    return network


def shufflenet(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A ShuffleNetV2: depthwise and pointwise branches whose channels are shuffled."""
    widths = [24, 2 * width, 4 * width, 8 * width, 256]
    network = ShuffleNetV2([2, 4, 2], widths, num_classes)
    network.conv1[0] = nn.Conv2d(channels, 24, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network


def efficientnet(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """An EfficientNet of eight inverted residual blocks with squeeze and excitation."""
    stages, inputs = [], width
    # Expansion, kernel, stride, width in units of the first, blocks.
    for expansion, kernel, stride, times, depth in ((1, 3, 1, 1, 1), (4, 3, 2, 2, 2), (4, 5, 2, 3, 2), (4, 3, 2, 4, 3)):
        stages.append(MBConvConfig(expansion, kernel, stride, inputs, times * width, depth, 1.0, 1.0))
        inputs = times * width
    network = EfficientNet(stages, dropout=0.1, num_classes=num_classes)
    network.features[0][0] = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    return network


def regnet(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A RegNetY: grouped bottlenecks with squeeze and excitation, as wide as a line of blocks says."""
    params = BlockParams.from_init_params(depth=7, w_0=2 * width, w_a=20.0, w_m=2.0, group_width=8, se_ratio=0.25)
    network = RegNet(params, num_classes, stem_width=width)
    network.stem[0] = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    return network


def squeezenet(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A SqueezeNet 1.1: fire modules without normalisation, a convolution with a ReLU behind it for a last layer."""
    network = SqueezeNet("1_1", num_classes)
    network.features[0] = nn.Conv2d(channels, 64, 3, 1, 1)
    network.features[2] = nn.Identity()
    return network


def mobilenet_v3(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A MobileNetV3-small: hard swish, squeeze and excitation by hard sigmoids."""
    network = models.mobilenet_v3_small(num_classes=num_classes, width_mult=width / 32)
    first = network.features[0][0]
    network.features[0][0] = nn.Conv2d(channels, first.out_channels, 3, 1, 1, bias=False)
    return network


def swin(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A Swin transformer of two stages on patches of 2 x 2: attention in shifted windows."""
    network = SwinTransformer(
        [2, 2],
        2 * width,
        [2, 2],
        [2, 4],
        [4, 4],
        stochastic_depth_prob=0.0,
        num_classes=num_classes,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )
    network.features[0][0] = nn.Conv2d(channels, 2 * width, 2, 2)
    return network
