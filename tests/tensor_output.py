"""Models for libraries that know no `ModelOutput`."""

from torch import Tensor, nn


class Logits(nn.Module):
    """A model with a tensor for an output, as captum and other libraries want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values).logits
        return logits
