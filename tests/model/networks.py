"""Networks that a trace must not misread, each as small as it can be, and what is common to all tests of traces."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rectify.model.record import record
from rectify.model.trace import Site


def randomised(network: nn.Module) -> nn.Module:
    """Eval mode, with batch-norm statistics, norm weights and layer scales that no formula gets right by accident."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5).mul_(torch.where(torch.rand_like(module.weight) < 0.3, -1, 1))
                if module.bias is not None:
                    module.bias.normal_(0, 0.2)
        for name, parameter in network.named_parameters():
            if "layer_scale" in name or "gamma" in name:
                parameter.uniform_(0.3, 1.0)
            if name.endswith("weight") and not parameter.any():  # the zero head of torchvision's ViT hides all else
                parameter.normal_(0, 0.02)
    return network.eval().requires_grad_(False)


def join_error(network: nn.Module, site: Site, x: Tensor) -> float:
    """How far the sum is from moving by ``scale * change`` when the layer's output is changed, relative."""
    assert site.join is not None
    number = site.join.index
    before = record(network, x, outputs=[site.layer], sums=[number])
    output = before.outputs[site.name]
    change = torch.randn_like(output) * output.std()
    shifted = output + change
    handle = site.layer.module.register_forward_hook(lambda *_: shifted.clone())
    after = record(network, x, sums=[number])
    handle.remove()
    expected = site.join.scale * change.reshape(len(x), -1)[:, site.join.source]
    moved = (after.sums[number] - before.sums[number]).reshape(len(x), -1)
    return float((moved - expected).abs().max() / expected.abs().max())


def pull_back_error(site: Site, images: int) -> float:
    """How far ``pull_back`` is from undoing the map from the layer's output to the sum, relative."""
    assert site.join is not None
    change = torch.randn(images, len(site.join.source), dtype=site.join.scale.dtype)
    moved = site.join.scale * change[:, site.join.source]
    return float((site.join.pull_back(moved) - change).abs().max() / change.abs().max())


class Net(nn.Module):
    """Two 1x1 convolutions ``a`` and ``b``, a batch norm, and a linear head; ``flow`` says how they meet."""

    def __init__(self, flow: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 1)
        self.b = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.gate = nn.Linear(3, 3)
        self.head = nn.Linear(3, 4)
        self.gain = nn.Parameter(torch.tensor([0.5, -2.0, 3.0]).view(1, 3, 1, 1))
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flow(self, x).mean((2, 3)))


def net(flow: Callable[[Net, Tensor], Tensor]) -> nn.Module:
    """`Net` with float64 weights, randomised."""
    return randomised(Net(flow).double())


class SequenceFirst(nn.Module):
    """Tokens before images, (T, N, C), as torch's own transformers have them by default."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).permute(2, 0, 1)).relu()
        return self.head((x + self.middle(x)).mean(0))


class Folded(nn.Module):
    """Tokens folded into the batch, (N T, C), as window attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle, self.inner, self.head = (nn.Linear(*s) for s in ((4, 8), (8, 8), (8, 8), (8, 3)))

    def forward(self, x: Tensor) -> Tensor:
        images = len(x)
        x = self.embed(x.flatten(2).permute(0, 2, 1).reshape(-1, 4)).relu()  # (N T, C)
        x = x.view(images, -1, 8) + self.middle(x).view(images, -1, 8)
        x = x.relu().reshape(-1, 8)
        x = x + self.inner(x)
        return self.head(x.view(images, -1, 8).mean(1))


class Encoder(nn.Module):
    """torch's own transformer encoder, which takes a fused road when nobody listens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.flatten(2).permute(0, 2, 1))).mean(1))


class Sliced(nn.Module):
    """A linear layer on a slice of the tokens, (N, 15, C): contiguous for one image and not for two."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.embed(x.flatten(2).permute(0, 2, 1))[:, 1:]).relu()
        return self.head((x + self.second(x)).mean(1))


class Fixed(nn.Module):
    """A position embedding that goes through a layer, as EdgeNeXt's does: the layer never sees the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.place, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 1), nn.Linear(4, 2)
        self.register_buffer("grid", torch.randn(1, 2, 14, 14))

    def forward(self, x: Tensor) -> Tensor:
        place = self.place(self.grid.expand(len(x), -1, -1, -1))
        return self.head((self.conv(x) + place).relu().mean((2, 3)))


class Keyword(nn.Module):
    """Calls a layer with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.conv(x).mean((2, 3)))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).mean((2, 3)))


class Scrubs(nn.Module):
    """Normalises its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x.sub_(0.5)).mean((2, 3)))
