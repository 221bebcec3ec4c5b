"""The networks of the paper's experiments, by name: ``--arch rectify.training.networks:small_cnn``.

Chen et al. 2019, official code: MNIST and Fashion-MNIST take the convolutional network of Madry's MNIST challenge,
GTSRB and Flower a pre-activation ResNet without batch normalisation.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """conv 5x5x32, pool, conv 5x5x64, pool, fc 1024, fc classes; ReLU throughout, "same" padding."""

    def __init__(self, num_classes: int = 10, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * (size // 4) ** 2, 1024)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


class PreActivation(nn.Module):
    """x + conv(relu(conv(relu(x)))); where the width or the size changes, the shortcut pools and pads with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.stride = stride
        self.missing = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        branch = self.conv2(F.relu(self.conv1(F.relu(x))))
        shortcut = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return F.pad(shortcut, (0, 0, 0, 0, 0, self.missing)) + branch  # type: ignore[no-any-return]


class SmallResNet(nn.Module):
    """Pre-activation ResNet without normalisation: stem of 16, stages of ``width`` 16, 32, 64 with ``blocks`` each."""

    def __init__(self, num_classes: int = 10, channels: int = 3, width: int = 16, blocks: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        layers: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width * 2**stage
                layers.append(PreActivation(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, num_classes)
        self._calm()

    def _calm(self) -> None:
        """Branches that begin at zero: without normalisation a deep sum would otherwise grow with every block."""
        for module in self.modules():
            if isinstance(module, PreActivation):
                nn.init.zeros_(module.conv2.weight)
                nn.init.zeros_(module.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes)."""
        x = F.relu(self.blocks(self.stem(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def small_cnn(num_classes: int = 10, channels: int = 1, size: int = 28) -> SmallCNN:
    """The network of MNIST and Fashion-MNIST: 3.27 million weights at 28 pixels and ten classes."""
    return SmallCNN(num_classes, channels, size)


def small_resnet(num_classes: int = 10, channels: int = 3, width: int = 16, blocks: int = 5) -> SmallResNet:
    """The network of GTSRB and Flower, any size of picture that 4 divides."""
    return SmallResNet(num_classes, channels, width, blocks)
