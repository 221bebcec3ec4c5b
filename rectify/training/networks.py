"""The networks of the paper's experiments, by name: ``--arch rectify.training.networks:small_cnn``.

Chen et al. 2019, official code: MNIST and Fashion-MNIST take the convolutional network of Madry's MNIST challenge,
GTSRB and Flower a pre-activation ResNet without batch normalisation.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.1  # of the ResNet's rectifiers


class SmallCNN(nn.Module):
    """conv 5x5x32, pool, conv 5x5x64, pool, fc 1024, fc classes; ReLU throughout, "same" padding.

    ``width`` is that of the first convolution, and scales the others with it.
    """

    def __init__(self, num_classes: int = 10, channels: int = 1, size: int = 28, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.fc1 = nn.Linear(2 * width * (size // 4) ** 2, 32 * width)
        self.fc2 = nn.Linear(32 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


class PreActivation(nn.Module):
    """conv(act(conv(act(x)))) + x; where the width or the size changes, the shortcut pools and pads with zeros.

    The first unit of the network passes act(x) to both branches.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, shared: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.stride, self.shared = stride, shared
        self.pad = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        active = F.leaky_relu(x, LEAK)
        branch = self.conv2(F.leaky_relu(self.conv1(active), LEAK))
        shortcut = active if self.shared else x
        if self.stride > 1:
            shortcut = F.avg_pool2d(shortcut, self.stride, ceil_mode=True)  # odd sizes: as many as the convolution
        return F.pad(shortcut, (0, 0, 0, 0, self.pad, self.pad)) + branch  # type: ignore[no-any-return]


class SmallResNet(nn.Module):
    """Pre-activation ResNet without normalisation layers: a stem of ``width``, three stages of two units each.

    As in the official code the network standardises every image itself (mean 0, deviation 1 over all its values), the
    rectifiers leak 0.1, and convolutions have no bias.
    """

    def __init__(self, num_classes: int = 43, channels: int = 3, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        units: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width * 2**stage
                units.append(PreActivation(inputs, outputs, 2 if stage and not block else 1, shared=not units))
                inputs = outputs
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # the official initialisation
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        x = self.units(self.stem(standardised(x)))
        return self.fc(F.leaky_relu(x, LEAK).mean((2, 3)))  # type: ignore[no-any-return]


def standardised(x: Tensor) -> Tensor:
    """Every image less its mean, by its standard deviation, which is at least 1 / sqrt(number of values)."""
    centred = x - x.mean((1, 2, 3), keepdim=True)
    variance = (centred * centred).mean((1, 2, 3), keepdim=True)
    return centred / variance.clamp_min(1 / x[0].numel()).sqrt()


def small_cnn(num_classes: int = 10, channels: int = 1, size: int = 28, width: int = 32) -> SmallCNN:
    """The network of MNIST and Fashion-MNIST: 3.27 million weights at 28 pixels, ten classes and full width."""
    return SmallCNN(num_classes, channels, size, width)


def small_resnet(num_classes: int = 43, channels: int = 3, width: int = 16, blocks: int = 2) -> SmallResNet:
    """The network of GTSRB and Flower, for pictures of any size."""
    return SmallResNet(num_classes, channels, width, blocks)
