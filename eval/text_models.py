"""Language models for the benchmark of texts: masked ones that are sampled, read from folders of transformers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.text_networks import window_of
from fewstep.samplers import MaskedProcess
from fewstep.samplers.discrete import LogLinear

from .features import hash_of_module


def load_pair(name: str, auto: Any, what: str, dtype: Any = None) -> tuple[Any, Any]:
    """Model and tokenizer of a shipped name, a folder, or a name on the hub.

    Args:
        name: of the model.
        auto: class of transformers that loads it.
        what: a sentence's beginning about what it should be.
        dtype: of the weights; None: float32.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it is something else, or has no tokenizer.
    """
    from transformers import AutoTokenizer

    from fewstep.pipelines.quiet import quiet
    from fewstep.samplers.core.registry import nearest

    from .text_judge import shipped

    folder = shipped(name) or Path(name).expanduser()
    is_hub = not folder.exists() and name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not folder.exists() and not is_hub:
        known = sorted(path.parent.name for path in _models().glob("*/config.json"))
        raise FileNotFoundError(
            f"no model {name!r}: neither shipped, nor a folder here, nor a name on the hub (owner/name)"
            f"{nearest(name, known)}"
        )
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(f"the folder {name!r} holds no config.json; {what}")
    source = name if is_hub else str(folder)
    try:
        with quiet():
            model = auto.from_pretrained(source, dtype=dtype or torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{name!r} cannot be loaded; {what}, with a tokenizer beside it: {first}") from error
    return model, tokenizer


def _models() -> Path:
    import fewstep.assets

    return Path(fewstep.assets.__file__).parent / "models"


class MaskedText:
    """A masked language model and its tokenizer as a denoiser of characters or other tokens.

    Special tokens (the mask, padding, unknown) are never drawn: their columns are -inf for every sampler alike.

    Attributes:
        process: log-linear masks.
        network: the module whose calls are counted.
        time_aware: False; these models see the tokens alone.
    """

    kind = "masked"
    time_aware = False

    def __init__(self, model: Any, tokenizer: Any, name: str = "") -> None:
        if tokenizer.mask_token_id is None:
            raise ValueError(f"the tokenizer of {name or type(model).__name__} has no mask token, so it fills no masks")
        self.network, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.device = next(model.parameters()).device
        self.mask = int(tokenizer.mask_token_id)
        self.process = MaskedProcess(LogLinear(), mask=self.mask)
        self.banned = sorted(set(tokenizer.all_special_ids) | {self.mask})
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        self.ends = None if None in ends else ends  # a BERT reads them around every text
        self.longest = (window_of(model, tokenizer) or 1 << 20) - (2 if self.ends else 0)
        words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
        self.fingerprint = {
            "model": type(model).__name__,
            "weights": hash_of_module(model),
            "words": hashlib.sha256(words.encode()).hexdigest()[:16],
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "device": self.device.type,
        }

    @classmethod
    def from_pretrained(cls, name: str, device: Any = None, dtype: Any = None) -> MaskedText:
        """A shipped model, a folder, or a name on the hub."""
        from transformers import AutoModelForMaskedLM

        what = "a text model is a masked language model of transformers"
        model, tokenizer = load_pair(name, AutoModelForMaskedLM, what, dtype)
        return cls(model.to(device or "cpu"), tokenizer, name)

    def __call__(self, tokens: Tensor, t: float) -> Tensor:
        """Logits (B, L, V) for tokens (B, L); t is of no account."""
        tokens = tokens.to(self.device)
        if self.ends:
            first, last = (torch.full_like(tokens[:, :1], end) for end in self.ends)
            logits = self.network(input_ids=torch.cat([first, tokens, last], 1)).logits[:, 1:-1].float()
        else:
            logits = self.network(input_ids=tokens).logits.float()
        logits[..., self.banned] = -torch.inf
        return logits

    def encode(self, text: str) -> Tensor:
        """Tokens of a text, (n,).

        Raises:
            ValueError: a character that the tokenizer does not know.
        """
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in tokens:
            raise ValueError(f"the prompt {text[:60]!r} holds characters that the model {self.name!r} does not know")
        return torch.tensor(tokens, dtype=torch.long)

    def start(self, prompts: list[str], length: int) -> Tensor:
        """Sequences that begin with the prompts and are masks from there on, (n, length).

        Raises:
            ValueError: a prompt that leaves nothing to write, or a length beyond the model's positions.
        """
        if length > self.longest:
            raise ValueError(
                f"the model {self.name!r} has {self.longest} positions, and the length asked for is {length}"
            )
        made = torch.full((len(prompts), length), self.mask)
        for row, prompt in zip(made, prompts, strict=True):
            tokens = self.encode(prompt)
            if len(tokens) >= length:
                raise ValueError(f"the prompt {prompt[:60]!r} has {len(tokens)} tokens, and the length is {length}")
            row[: len(tokens)] = tokens
        return made.to(self.device)

    def texts(self, tokens: Tensor) -> list[str]:
        """The sequences as strings."""
        return [self.tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in tokens.tolist()]
