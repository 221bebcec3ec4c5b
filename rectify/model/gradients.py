"""Whether a network can be differentiated by what it is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rectify.errors import ArchitectureError


def require_gradients(network: nn.Module, image: Tensor) -> None:
    """Refuse a network whose answer has no gradient by the image, (1, C, H, W): its attributions would all be zero.

    Raises
    ------
    ArchitectureError
        If there is none, or checkpoints in its forward keep it from being asked for.
    """
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_(True)
        output = network(leaf.clone())  # a network may change its input in place
        try:
            found = torch.autograd.grad(output.sum(), leaf, allow_unused=True)[0] if output.requires_grad else None
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise ArchitectureError(
                "the network's forward uses reentrant checkpoints, which allow no gradient by the image: give "
                "torch.utils.checkpoint use_reentrant=False, or leave it out"
            ) from error
    if found is None:
        raise ArchitectureError(
            "what the network gives has no gradient by the image: take torch.no_grad, detach, numpy and the like out "
            "of its forward"
        )
