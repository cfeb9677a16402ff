"""The plain loop of a discrete run, which counts network calls and makes none that could not change anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .ctmc import MaskedProcess
from .draws import Draws
from .method import Call, TokenPlan
from .stepping import Reading, TokenState, advance

#: (tokens (B, L), t) -> output (B, L, V)
TokenDenoiser = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class TokenResult:
    """Outcome of a run.

    Attributes:
        tokens: (B, L) int64.
        calls: calls of the network that were made.
        skipped: calls of the plan that were not, since no token had changed or none was left to reveal.
        sequences: sequences that the network saw, summed over the calls.
    """

    tokens: torch.Tensor
    calls: int
    skipped: int
    sequences: int


class SkippingDenoiser:
    """A denoiser that makes no call which could not say anything new.

    A network that does not depend on time says the same about the same tokens: where nothing has changed since the last
    call, that output is handed out again. With `split` the network sees the changed sequences alone, which it must be
    able to take (no condition of its own for each sequence); the tensor returned is then written to by the next call.

    Attributes:
        calls, skipped, sequences: as in `TokenResult`.
    """

    def __init__(self, denoiser: TokenDenoiser, time_aware: bool = True, split: bool = False) -> None:
        self.denoiser, self.time_aware, self.split = denoiser, time_aware, split
        self.calls = self.skipped = self.sequences = 0
        self._tokens: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    def __call__(self, tokens: torch.Tensor, t: float, needed: torch.Tensor | None = None) -> torch.Tensor:
        """Output for `tokens`; for sequences not `needed`, (B,) bool, it may be an old one."""
        seen = self._tokens is not None and self._tokens.shape == tokens.shape
        if not seen or self._output is None or self._tokens is None:
            self.calls, self.sequences = self.calls + 1, self.sequences + len(tokens)
            self._tokens, self._output = tokens.clone(), self.denoiser(tokens, t)
            return self._output
        wanted = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device) if needed is None else needed
        if not self.time_aware:
            wanted = wanted & (tokens != self._tokens).any(1)
        if not wanted.any():
            self.skipped += 1
            return self._output
        self.calls += 1
        self.sequences += int(wanted.sum()) if self.split else len(tokens)
        if wanted.all() or not self.split:
            self._tokens, self._output = tokens.clone(), self.denoiser(tokens, t)
        else:
            self._output[wanted] = self.denoiser(tokens[wanted], t).to(self._output.dtype)
            self._tokens[wanted] = tokens[wanted]
        return self._output


def run_tokens(
    denoiser: TokenDenoiser,
    plan: TokenPlan,
    tokens: torch.Tensor,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    reading: Reading | None = None,
    editable: torch.Tensor | None = None,
    time_aware: bool = True,
    split: bool = False,
    callback: Callable[[int, Call, torch.Tensor], None] | None = None,
    shape: Sequence[int] | None = None,
) -> TokenResult:
    """Run a plan from noise, or from a sequence with some masks, to data.

    Args:
        denoiser: the network.
        plan: from ``method.plan(process, steps=...)``.
        tokens: (B, L) int64.
        generator: one, or one a sequence: then a sequence does not depend on its batch mates.
        reading: what the output means, temperature and nucleus.
        editable: positions that may change, (B, L) or (L,).
        time_aware: whether the network depends on t; where it does not, sequences that did not change are not shown to
            it again.
        split: show the network the changed sequences of a batch alone.
        callback: called with the number of the call, the call and the tokens after it.
        shape: how the tokens of a sequence stand to each other, such as (H, W); by default (L,).
    """
    network, draws = SkippingDenoiser(denoiser, time_aware, split), Draws(generator)
    state: TokenState | None = None
    process = plan.process
    for i, call in enumerate(plan.calls):
        needed = None
        if isinstance(process, MaskedProcess):
            needed = (tokens == process.mask).any(1)
            if state is not None and state.sample is not None:  # a step that starts again has masks to come
                needed = needed | (state.sample == process.mask).any(1)
            if not needed.any():
                network.skipped += len(plan.calls) - i
                break
        output = network(tokens, call.time, needed)
        tokens, state = advance(plan, i, tokens, output, state, draws, reading, editable, shape)
        if callback is not None:
            callback(i, call, tokens)
    return TokenResult(tokens, network.calls, network.skipped, network.sequences)
