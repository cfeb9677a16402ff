"""Normal numbers that belong to a picture, not to its batch or its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: One generator a picture, one for all of them, or none (torch's global one).
Generators = torch.Generator | Sequence[torch.Generator] | None


class Draws:
    """Standard normal noise, one generator a picture.

    With a list of generators the noise of a picture does not depend on its batch mates. With one generator (or none)
    the pictures share it. Every request takes numbers for whole pictures in float32, wherever the generator lives, so
    that the same seed gives the same noise on every device and in every dtype.
    """

    def __init__(self, generator: Generators = None) -> None:
        self.generator = list(generator) if isinstance(generator, Sequence) else generator

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        """Noise of the shape, dtype and device of `like`, (B, ...).

        Raises:
            ValueError: as many generators as there are pictures were not given.
        """
        if isinstance(self.generator, list):
            if len(self.generator) != len(like):
                raise ValueError(
                    f"{len(self.generator)} generators were given for {len(like)} pictures; one a picture is needed"
                )
            rows = [torch.randn(like.shape[1:], generator=g, device=g.device) for g in self.generator]
            return torch.stack([row.to(like) for row in rows])
        where = like.device if self.generator is None else self.generator.device
        return torch.randn(like.shape, generator=self.generator, device=where).to(like)
