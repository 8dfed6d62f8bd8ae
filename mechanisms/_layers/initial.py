"""Initial weights that keep the spread of activations through rectifiers (He et al., 1502.01852, section 2.2)."""

from torch import nn


def he_convolutions(module: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 2 / fan-out), in place."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
