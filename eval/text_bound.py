"""Bits a token of held-out text under a masked model that draws in N network calls, with no judge.

A sampler that draws the tokens of block n at once, from p(x_i | blocks before), has the law

    p(x) = E_blocks prod_n prod_{i in block n} p(x_i | x_blocks before),

so by Jensen's inequality the mean of -log2 of the product bounds the bits of a text from above. N = L, in any order
that does not look at the text, is the model itself, and with places at random its evidence bound; fewer calls cost what
the tokens of a block know of each other. Where the tokens of a block lie decides how much that is (`spread_order`).

    python -m fewstep.eval.text_bound --data input.txt
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewstep.pipelines.quiet import quiet
from fewstep.samplers.discrete.order import spread_order

from .results import write_results

#: Where the tokens of a block lie.
ORDERS = ("spread", "random")


def ranks(order: str, count: int, length: int, seed: int) -> Tensor:
    """When each place of each text is drawn, (count, length), a permutation of 0 .. length - 1 a row.

    Raises:
        ValueError: an unknown order.
    """
    generator = torch.Generator().manual_seed(seed)
    if order == "random":
        keys = torch.rand(count, length, generator=generator, dtype=torch.float64)
    elif order == "spread":
        keys = spread_order((length,), torch.rand(count, generator=generator, dtype=torch.float64))
    else:
        raise ValueError(f"an order is one of {', '.join(ORDERS)}, got {order!r}")
    return keys.argsort(1).argsort(1)


@torch.no_grad()
def bits_in_calls(
    network: Callable[[Tensor, float], Tensor],
    texts: Tensor,
    calls: int,
    *,
    mask: int,
    order: str = "spread",
    seed: int = 0,
    batch: int = 48,
) -> Tensor:
    """The bound in bits a token of each text, (B,) float64, for blocks of L / calls tokens.

    Args:
        network: (tokens (B, L), t) -> logits (B, L, V), as the samplers take it; t is the share of masks.
        texts: clean tokens (B, L).
        calls: network calls of a text; L must be a multiple of it.
        mask: token of a masked place.
        order: of `ORDERS`.
        seed: of the orders; every text has its own.
        batch: texts at once.

    Raises:
        ValueError: calls that do not divide the length; an unknown order.
    """
    count, length = texts.shape
    if calls < 1 or length % calls:
        raise ValueError(f"texts of {length} tokens are not drawn in {calls} equal blocks; give a divisor of {length}")
    block = ranks(order, count, length, seed) * calls // length
    bits = torch.zeros(count, dtype=torch.float64)
    for at in range(0, count, batch):
        clean, when = texts[at : at + batch], block[at : at + batch]
        for n in range(calls):
            logits = network(torch.where(when < n, clean, mask), 1 - n / calls)
            found = logits.double().log_softmax(-1).gather(-1, clean[..., None].to(logits.device))[..., 0].cpu()
            bits[at : at + batch] -= torch.where(when == n, found, 0.0).sum(1) / math.log(2)
    return bits / length


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the bounds, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.text_bound", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="FILE", required=True, help="the text; its last tenth is measured")
    parser.add_argument("--model", default="verses", help="a masked language model (default verses)")
    parser.add_argument("--nfe", default="8,16,32", help="numbers of network calls (default 8,16,32)")
    parser.add_argument("--length", type=int, default=256, help="tokens of a text (default 256)")
    parser.add_argument("--count", type=int, help="texts at most (default: all)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default float32)")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write settings and rows to this file")
    options = parser.parse_args(arguments)
    from .text_models import MaskedText

    torch.set_num_threads(options.threads)
    path = Path(options.data)
    if not path.is_file():
        parser.error(f"there is no text {options.data!r}")
    whole = path.read_text(encoding="utf-8")
    model = MaskedText.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    with quiet():  # the tokenizer warns of a text longer than the model; it is cut below
        tokens = model.encode(whole[len(whole) * 9 // 10 :])
    texts = tokens[: len(tokens) // options.length * options.length].view(-1, options.length)[: options.count]
    if not len(texts):
        parser.error(f"the last tenth of {options.data!r} has fewer than {options.length} tokens")
    rows = []
    for calls in map(int, options.nfe.split(",")):
        for order in ORDERS:
            bits = bits_in_calls(model, texts, calls, mask=model.mask, order=order)
            error = float(bits.std() / math.sqrt(len(bits))) if len(bits) > 1 else math.nan
            print(f"{calls:4d} calls, {order} places: {float(bits.mean()):.3f} +- {error:.3f} bits a token")
            rows.append({"order": order, "nfe": calls, "bits": round(float(bits.mean()), 4), "error": round(error, 4)})
    if options.json:
        words = ["python -m fewstep.eval.text_bound", *(sys.argv[1:] if arguments is None else arguments)]
        words = [Path(word).name if word == options.data else word for word in words]
        settings = {"model": options.model, "texts": len(texts), "length": options.length, "dtype": options.dtype}
        write_results(options.json, " ".join(words), settings, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
