"""A tiny CLIP with random weights, in a folder as `save_pretrained` writes it: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

SIZE = 16
DIM = 10


def save_tiny_clip(folder: Path) -> Path:
    """Write model and processor; 16 pixels, 10 features, a byte-level vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=32)
    common: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**common, **ends, "vocab_size": len(words), "max_position_embeddings": 32},
        vision_config={**common, "image_size": SIZE, "patch_size": 8},
        projection_dim=DIM,
    )
    CLIPModel(config).eval().save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
