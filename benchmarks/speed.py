"""Speed of the attribution methods beside Captum's, in turns in one run, as ratios.

    python -m benchmarks.speed [--turns 7]

Integrated gradients, gradient times input, SmoothGrad, DeepLIFT and Grad-CAM of the same images by the same network.
Captum has one batch for all steps unless it is told otherwise; both get the same limit here. Results:
``benchmarks/results/speed.{json,md}``: process time, median over turns, and the ratio (below 1: rectify is faster).
``--quick``: two turns.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from captum.attr import DeepLift, InputXGradient, IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from torch import Tensor, nn

from benchmarks.runs import conclude, keep, options
from fixtures.networks import resnet18, vgg
from rectify.attribution.attribution import Settings
from rectify.attribution.methods import attribute
from rectify.attribution.score import Score

BATCH = 64
BOUNDS = (torch.full((3, 1, 1), -2.0), torch.full((3, 1, 1), 2.0))


class PlainCNN(nn.Module):
    """A network that Captum's DeepLift takes: no ReLU is reused or in place."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64 * 16, 10))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) to (N, 10)."""
        out: Tensor = self.body(x)
        return out


def rivals(network: nn.Module, x: Tensor, targets: Tensor, last: nn.Module) -> dict[str, tuple[Callable[[], Any], ...]]:
    """Name to (ours, Captum's)."""
    score = Score(network, "logit", BATCH)
    black = torch.full_like(x, -2.0)

    def ours(name: str, **more: Any) -> Callable[[], Any]:
        return lambda: attribute(name, score, x, targets, Settings(bounds=BOUNDS, **more))

    ig, tunnel = IntegratedGradients(network), NoiseTunnel(Saliency(network))
    found: dict[str, tuple[Callable[[], Any], ...]] = {
        "ig, 32 steps": (
            ours("ig", steps=32),
            lambda: ig.attribute(x, black, targets, n_steps=32, internal_batch_size=BATCH),
        ),
        "gradient x input": (
            ours("gradient-x-input"),
            lambda: InputXGradient(network).attribute(x.clone().requires_grad_(True), targets),
        ),
        "smoothgrad, 16 samples": (
            ours("smoothgrad", steps=16),
            lambda: tunnel.attribute(x, nt_samples=16, nt_samples_batch_size=1, stdevs=0.6, target=targets, abs=False),
        ),
        "grad-cam": (
            ours("grad-cam"),
            lambda: LayerGradCam(network, last).attribute(x, targets, relu_attributions=True),
        ),
    }
    if isinstance(network, PlainCNN):
        found["deeplift"] = (ours("deeplift"), lambda: DeepLift(network).attribute(x, black, targets))
    return found


def measure(ours: Callable[[], Any], theirs: Callable[[], Any], turns: int) -> tuple[float, float]:
    """Median process time of each, in turns after one that is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for place, run in enumerate((ours, theirs)):
            began = time.process_time()
            run()
            if turn:
                times[place].append(time.process_time() - began)
    return median(times[0]), median(times[1])


def main() -> None:
    """Time all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    asked = options(parser, "speed", turns=2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(16, 3, 32, 32).clamp(-2, 2)
    networks: dict[str, tuple[nn.Module, Callable[[nn.Module], nn.Module]]] = {
        "plain CNN": (PlainCNN(), lambda net: net.body[7]),
        "ResNet-18, width 16": (resnet18(10, width=16), lambda net: net.get_submodule("layer4")),
        "VGG, width 16": (vgg(10, width=16), lambda net: [m for m in net.modules() if isinstance(m, nn.Conv2d)][-1]),
    }
    rows = []
    for name, (network, last) in networks.items():
        network.eval().requires_grad_(False)
        targets = network(x).argmax(1)
        for method, (ours, theirs) in rivals(network, x, targets, last(network)).items():
            one, other = measure(ours, theirs, asked.turns)
            rows.append({"network": name, "method": method, "ours_s": one, "captum_s": other, "ratio": one / other})
            print(rows[-1], flush=True)
    keep(asked, rows, table(rows))
    conclude(asked)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds of each, and the ratio."""
    lines = ["# Speed beside Captum\n", "Made by `python -m benchmarks.speed`: 16 images of 32x32, one core.\n"]
    lines += ["| network | method | rectify, ms | Captum, ms | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        figures = f"{1000 * row['ours_s']:.0f} | {1000 * row['captum_s']:.0f} | {row['ratio']:.2f}"
        lines.append(f"| {row['network']} | {row['method']} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
