"""Tiny random masked language models of transformers, and the tokenizers that go with them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

LETTERS = string.ascii_letters + " \n,.:'!-"
WINDOW = 24


def characters(
    letters: Sequence[str] = LETTERS, longest: int = WINDOW, framed: bool = False, masked: bool = True
) -> Any:
    """One token a character, then [MASK], [PAD], [UNK]; framed by <s> and </s> if asked."""
    words = [*letters, *(["[MASK]"] if masked else []), "[PAD]", "[UNK]", *(["<s>", "</s>"] if framed else [])]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", **({"mask_token": "[MASK]"} if masked else {})}
    if framed:
        backend.post_processor = processors.TemplateProcessing(
            "<s> $A </s>", special_tokens=[("<s>", words.index("<s>")), ("</s>", words.index("</s>"))]
        )
        special |= {"bos_token": "<s>", "eos_token": "</s>"}
    named = {key: AddedToken(word, normalized=False, special=True) for key, word in special.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=longest, clean_up_tokenization_spaces=False, **named
    )


def words(folder: Path) -> Any:
    """A WordPiece tokenizer with [CLS] and [SEP] around every text."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "to", "be", "or", "not", "that", "is", "the", ",", "."]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*known, *string.ascii_lowercase]) + "\n")
    return BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=WINDOW)


def spread(model: Any) -> Any:
    """Weights so large that the law is far from flat and depends on the other tokens."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(12.0 if "mbedding" in name else 30.0)
    return model.eval()


def modern(size: int, seed: int = 0, window: int = WINDOW) -> Any:
    torch.manual_seed(seed)
    config = ModernBertConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=window, layer_types=["full_attention"] * 2, pad_token_id=size - 1, bos_token_id=None,
        eos_token_id=None, cls_token_id=None, sep_token_id=None,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 100.0}},
    )  # fmt: skip
    return spread(ModernBertForMaskedLM(config))


def bert(size: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=WINDOW,
    )  # fmt: skip
    return spread(BertForMaskedLM(config))


def roberta(size: int, pad: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=WINDOW + pad + 1, pad_token_id=pad,
    )  # fmt: skip
    return spread(RobertaForMaskedLM(config))


def distilbert(size: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=size, dim=16, hidden_dim=16, n_layers=2, n_heads=2, max_position_embeddings=WINDOW
    )
    return spread(DistilBertForMaskedLM(config))
