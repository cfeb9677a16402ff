"""Models of masked text behind one call, tokens and time to one column a token, whatever their own way of being called.

    BERT, RoBERTa, DistilBERT, ModernBERT, ...   model(input_ids=tokens).logits          condition "none"
    RADD                                         model(tokens)                           condition "none"
    SEDD, MDLM                                   model(tokens, sigma)                    condition "sigma"
    LLaDA-like with time, your own               model(tokens, t)                        condition "t"

tokens are (B, L) int64, time and sigma (B,) float32; the output is (B, L, V), alone or as `.logits`. What it means is
the scheduler's `prediction_type`; SEDD's output, a log-score, is a ``"logits"`` of masked models, since the factor
alpha / (1 - alpha) is the same for all values.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch

from fewstep.samplers.core.registry import nearest
from fewstep.samplers.discrete import NoiseSchedule

#: What a model is told beside the tokens.
CONDITIONS = ("auto", "none", "t", "sigma")
_NAMES = {"sigma": ("sigma", "sigmas"), "t": ("t", "time", "times", "timestep", "timesteps")}


def _parameters(model: Any) -> list[str]:
    called = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        return list(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return []


def condition_of(model: Any, condition: str = "auto") -> str:
    """``"none"``, ``"t"`` or ``"sigma"``: what the model is told beside the tokens; ``"auto"`` goes by the names of its
    arguments.

    Raises:
        ValueError: an unknown condition; the nearest is given.
    """
    if condition not in CONDITIONS:
        raise ValueError(
            f"unknown condition {condition!r}{nearest(str(condition), CONDITIONS)} Known are {', '.join(CONDITIONS)}"
        )
    if condition != "auto":
        return condition
    names = _parameters(model)[1:]
    return next((kind for kind, known in _NAMES.items() if set(known) & set(names)), "none")


def network_of(
    model: Any, condition: str, schedule: NoiseSchedule, dtype: torch.dtype | None = None
) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """(tokens (B, L), t) -> output (B, L, V) of a model.

    Args:
        model: a module or callable, see the module's text.
        condition: ``"none"``, ``"t"`` or ``"sigma"``.
        schedule: that turns t into sigma.
        dtype: of t and sigma; float32 if None.
    """
    names = _parameters(model)
    first = "input_ids" if "input_ids" in names else None
    second = next((name for name in _NAMES.get("sigma", ()) + _NAMES["t"] if name in names[1:]), None)

    def network(tokens: torch.Tensor, t: float) -> torch.Tensor:
        args: list[Any] = [] if first else [tokens]
        keywords: dict[str, Any] = {first: tokens} if first else {}
        if condition != "none":
            value = schedule.sigma(t) if condition == "sigma" else t
            if math.isinf(value):
                raise ValueError(
                    f"sigma is infinite at t = {t:g}, and the model is told sigma: set the scheduler's noise_schedule "
                    "to the one that it was trained with, such as 'log_linear'"
                )
            told = torch.full((len(tokens),), value, dtype=dtype or torch.float32, device=tokens.device)
            if second:
                keywords[second] = told
            else:
                args.append(told)
        output = model(*args, **keywords)
        output = getattr(output, "logits", output)
        output = output[0] if isinstance(output, tuple) else output
        if not isinstance(output, torch.Tensor) or output.ndim != 3 or output.shape[:2] != tokens.shape:
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(
                f"a model of text must return one row of columns a token, {(*tokens.shape, 'V')}; "
                f"{type(model).__name__} returned {shape}"
            )
        return output

    return network


def guided(
    network: Callable[[torch.Tensor, float], torch.Tensor],
    given: torch.Tensor,
    mask: int,
    scale: float,
    score: bool = False,
) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """Classifier-free guidance without a trained null prompt: the unconditional law is that of the masked-out prompt.

        log p_g(v | x) = log p(v | x~) + g (log p(v | x) - log p(v | x~)) + const,   x~ = x with its given tokens masked

    g = 1 is no guidance, g = 0 forgets what was given; Nie et al. 2025 (arXiv 2502.09992), whose scale is g - 1. Both
    sequences go through the network in one call, at twice the batch.

    Args:
        network: (tokens, t) -> output.
        given: what was given, (L,) bool.
        mask: number of the mask token.
        scale: g.
        score: whether outputs are concrete scores, whose logarithm is combined.
    """

    def both(tokens: torch.Tensor, t: float) -> torch.Tensor:
        without = tokens.masked_fill(given.to(tokens.device), mask)
        if scale == 0:
            return network(without, t)
        with_, null = network(torch.cat([tokens, without]), t).float().chunk(2)
        if score:
            with_, null = with_.clamp_min(0).log(), null.clamp_min(0).log()
        null = torch.where(null.isneginf(), with_, null)  # a value without a null law is left as it is
        output = torch.where(with_.isneginf(), with_, null + scale * (with_ - null))
        if score:  # any factor a row is as good
            output = (output - output.amax(-1, keepdim=True)).exp()
        return output

    return both


def window_of(model: Any, tokenizer: Any) -> int | None:
    """Tokens that a model reads at once, special ones among them; None: any number."""
    config = getattr(model, "config", None)
    found: list[int] = []
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "model_length", "seq_length"):
        value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            found.append(value - _position_offset(model))
            break
    limit = getattr(tokenizer, "model_max_length", None)
    if isinstance(limit, int) and 0 < limit < 10**9:
        found.append(limit)
    return min(found) if found else None


def _position_offset(model: Any) -> int:
    """Positions that are never used: RoBERTa and its kin count from behind the padding's number."""
    if isinstance(model, torch.nn.Module):
        for name, module in model.named_modules():
            table = name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
            if table and module.padding_idx is not None:
                return int(module.padding_idx) + 1
    return 0


def check_vocabulary(model: Any, values: list[int], mask: int) -> None:
    """Refuse a model and a tokenizer that do not belong together.

    A model may have more rows than the tokenizer has tokens: what is beyond is never drawn.

    Raises:
        ValueError: a model with fewer rows than the tokenizer needs.
    """
    config = getattr(model, "config", None)
    size = config.get("vocab_size") if isinstance(config, dict) else getattr(config, "vocab_size", None)
    if not isinstance(size, int):
        return
    needed = max(*values, mask) + 1 if values else mask + 1
    if size < needed:
        raise ValueError(
            f"the model has a vocabulary of {size} tokens and the tokenizer one of {needed}: they do not belong "
            "together"
        )


def check_columns(output: torch.Tensor, drawable: list[int]) -> None:
    """Refuse an output without a column for some token that may be drawn.

    Raises:
        ValueError: with both numbers.
    """
    if drawable and max(drawable) >= output.shape[-1]:
        raise ValueError(
            f"the model gives probabilities for {output.shape[-1]} tokens, and the tokenizer's go up to number "
            f"{max(drawable)}: they do not belong together"
        )
