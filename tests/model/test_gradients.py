"""A network without a gradient by its input is told from one with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rectify.errors import ArchitectureError
from rectify.model.gradients import require_gradients


class Cut(nn.Module):
    """Linear, and cut off in one way or another; its weight needs a gradient all the same."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.how == "no_grad":
            with torch.no_grad():
                return self.layer(x)  # type: ignore[no-any-return]
        x = {"input": x.detach(), "numpy": torch.from_numpy(x.detach().numpy())}.get(self.how, x)
        y: Tensor = self.layer(x)
        return y.detach() if self.how == "output" else y


@pytest.mark.parametrize("how", ["no_grad", "input", "output", "numpy"])
def test_a_network_that_is_cut_off_is_refused(how: str) -> None:
    with (
        torch.no_grad(),
        pytest.raises(ArchitectureError, match="no gradient by the image: take"),
    ):
        require_gradients(Cut(how), torch.rand(1, 1, 2, 2))


class Checkpointed(Cut):
    def __init__(self, reentrant: bool) -> None:
        super().__init__("")
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(super().forward, x, use_reentrant=self.reentrant)
        return y


def test_checkpoints_are_let_be_unless_they_are_reentrant() -> None:
    image = torch.rand(1, 1, 2, 2)
    require_gradients(Checkpointed(False), image)
    with pytest.raises(ArchitectureError, match="reentrant checkpoints, which allow no gradient"):
        require_gradients(Checkpointed(True), image)


def test_other_errors_of_a_gradient_are_not_taken_for_it() -> None:
    class Failing(Cut):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x).exp()
            y.register_hook(lambda gradient: torch.zeros(2).reshape(3))
            return y

    with pytest.raises(RuntimeError, match="shape"):
        require_gradients(Failing(""), torch.rand(1, 1, 2, 2))


def test_a_network_that_is_not_is_let_be() -> None:
    image = torch.rand(1, 1, 2, 2)
    network = Cut("").requires_grad_(False)
    require_gradients(network, image)
    require_gradients(nn.Sequential(nn.ReLU(inplace=True), network), image)
    assert not image.requires_grad
