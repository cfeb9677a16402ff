"""Small random models of the classes that the text benchmark is for, with a tokenizer of letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefgh \n"
LENGTH = 48


def tokenizer() -> Any:
    """One token a letter, then [MASK], [PAD], [UNK]."""
    words = {token: i for i, token in enumerate([*LETTERS, "[MASK]", "[PAD]", "[UNK]"])}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = Fuse()
    special = {"mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LENGTH, **special)


def save_pair(folder: Path) -> tuple[Path, Path]:
    """A masked model and a judge in `folder`, with random weights."""
    size = {"vocab_size": len(LETTERS) + 3, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "max_position_embeddings": LENGTH}
    torch.manual_seed(0)
    made = []
    for name, model in (
        ("model", BertForMaskedLM(BertConfig(**size, pad_token_id=11))),
        ("judge", LlamaForCausalLM(LlamaConfig(**size, pad_token_id=11, bos_token_id=None, eos_token_id=None))),
    ):
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
        made.append(folder / name)
    return made[0], made[1]
