"""More architectures of the zoo, beside those of `fixtures.networks`: what users write that is built otherwise.

Each as its papers or the tutorials have it, small enough to train in minutes on two cores; the same arguments as the
fixtures' networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def plain(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A tutorial's network: four convolutions without normalisation, two poolings, dropout, two linear layers."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * width, 128), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Dropout(0.25), nn.Linear(128, num_classes))


def tutorial(num_classes: int = 10, width: int = 32, channels: int = 3) -> nn.Module:
    """The smallest that people train: two convolutions, two poolings, two linear layers, nothing else."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(2 * width * 49, 128), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Linear(128, num_classes))


class PreActBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv plus shortcut, nothing behind the sum (He et al. 2016b)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.narrow = None if stride == 1 and inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(x).relu()
        past = x if self.narrow is None else self.narrow(out)
        return self.conv2(self.bn2(self.conv1(out)).relu()) + past


def preact(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A pre-activation ResNet of six blocks."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False)]
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        layers += [PreActBlock(inputs, outputs, 1 if stage == 0 else 2), PreActBlock(outputs, outputs, 1)]
        inputs = outputs
    head = [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(inputs, num_classes))


class DenseLayer(nn.Module):
    """bn-relu-conv whose output is appended to its input (Huang et al. 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(self.norm(x).relu())), 1)


def dense(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A DenseNet of three stages of three layers, joined by 1x1 convolutions and average pooling."""
    inputs = 2 * width
    layers: list[nn.Module] = [nn.Conv2d(channels, inputs, 3, padding=1, bias=False)]
    for stage in range(3):
        for _ in range(3):
            layers.append(DenseLayer(inputs, width))
            inputs += width
        if stage < 2:
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, inputs // 2, 1, bias=False)]
            layers.append(nn.AvgPool2d(2))
            inputs //= 2
    head = [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Linear(inputs, num_classes))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm over channels, two linear layers with GELU, layer scale (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen, self.act, self.narrow = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out = self.scale * self.narrow(self.act(self.widen(out)))
        return x + out.permute(0, 3, 1, 2)


def convnext(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """A ConvNeXt of four blocks on patches of 2x2."""
    stem = [nn.Conv2d(channels, 2 * width, 2, 2), ConvNeXtBlock(2 * width), ConvNeXtBlock(2 * width)]
    deep = [nn.Conv2d(2 * width, 4 * width, 2, 2), ConvNeXtBlock(4 * width), ConvNeXtBlock(4 * width)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4 * width), nn.Linear(4 * width, num_classes)]
    return nn.Sequential(*stem, *deep, *head)


class Branches(nn.Module):
    """1x1, 3x3 and twice 3x3 convolutions side by side, concatenated (Szegedy et al. 2015), with group norm and ELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(inputs, outputs, 1)
        self.middle = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.long = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.norm = nn.GroupNorm(3, 3 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.elu(self.norm(torch.cat((self.short(x), self.middle(x), self.long(x)), 1)))


def inception(num_classes: int = 10, width: int = 16, channels: int = 3) -> nn.Module:
    """Three levels of `Branches` with max pooling between them."""
    layers: list[nn.Module] = []
    inputs = channels
    for level in range(3):
        outputs = width * (level + 1)
        layers += [Branches(inputs, outputs), nn.MaxPool2d(2)]
        inputs = 3 * outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
