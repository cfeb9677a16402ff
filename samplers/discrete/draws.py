"""Uniform numbers that belong to a sequence, not to its batch or its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Draws:
    """float64 uniforms in [0, 1), one generator a sequence.

    With a list of generators a row's numbers do not depend on its batch mates. With one generator (or none) the rows
    share it. Every request draws for all positions, so the numbers of a position do not depend on which are masked.
    """

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> None:
        self.generator = list(generator) if isinstance(generator, Sequence) else generator

    def uniform(self, batch: int, length: int, device: torch.device) -> torch.Tensor:
        """(batch, length) float64 on `device`, drawn where the generators live."""
        if isinstance(self.generator, list):
            if len(self.generator) != batch:
                raise ValueError(
                    f"{len(self.generator)} generators were given for a batch of {batch}; one a row is needed"
                )
            rows = [torch.rand(length, generator=g, dtype=torch.float64, device=g.device) for g in self.generator]
            return torch.stack([row.to(device) for row in rows])
        where = device if self.generator is None else self.generator.device
        return torch.rand(batch, length, generator=self.generator, dtype=torch.float64, device=where).to(device)
