"""The parts of `garments-flow`: a small Flux transformer, its two text encoders and the tokenizer of the second.

    latents (B, 4, 8, 8) -> packed 2x2 -> tokens (B, 16, 16) -> velocity (B, 16, 16)

The classes are diffusers' and transformers' own, so FluxPipeline takes them as they are.
"""

from __future__ import annotations

import re
import string
from typing import Any

import torch
from torch import Tensor, nn

from .garments import all_labels, new_text_encoder, new_tokenizer
from .garments_data import captions

WORDS = 16
"""Tokens of the second text encoder that every caption fits in: FluxPipeline's `max_sequence_length`, and what its
tokenizer gives as `model_max_length`."""
SIDE = 4
"""Side of the packed picture, in tokens."""
WIDTH = 128
"""Width of both text encoders."""


def new_t5_tokenizer() -> Any:
    """A fast tokenizer with the marks of T5 (`<pad>` 0, `</s>` 1 at the end, `<unk>` 2): each word of the captions is
    one token wherever it stands, any other word is spelt letter by letter, and capitals and accents do not matter.

    T5TokenizerFast itself would forget the lower-casing when it is read from its folder.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.decoders import Metaspace
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for label in all_labels() for text, _ in captions(*label) for word in _words(text)})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -2.0) for word in words]
    pieces += [(letter, -8.0) for letter in string.ascii_lowercase + string.digits + string.punctuation]
    backend = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    backend.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    backend.decoder = Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=WORDS,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[^\sa-z]", text.lower())


def new_t5_encoder(vocabulary: int) -> Any:
    """T5EncoderModel, (B, L) tokens -> (B, L, 128). Padding is read like any other token, as FluxPipeline does."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=WIDTH,
            d_kv=32,
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def new_transformer(guidance: bool = False) -> Any:
    """FluxTransformer2DModel of width 128 (4 heads of 32), one double-stream and three single-stream blocks.

    Args:
        guidance: whether it also reads the guidance scale, as a guidance-distilled model does.
    """
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=3,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(8, 12, 12),
    )


def start_from_identity(transformer: Any) -> None:
    """Zero the modulations and the output (adaLN-Zero; Peebles and Xie, 2023, arXiv:2212.09748): every block starts as
    the identity, which trains far faster than torch's own initial weights."""
    for name, module in transformer.named_modules():
        modulation = name.endswith((".norm.linear", ".norm1.linear", ".norm1_context.linear", "norm_out.linear"))
        if modulation or name == "proj_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def silence_unused(embedding: nn.Embedding, used: Tensor) -> None:
    """Zero the rows of tokens that no caption uses, so that an unknown word says nothing rather than something."""
    unused = torch.ones(embedding.num_embeddings, dtype=torch.bool)
    unused[used.flatten()] = False
    with torch.no_grad():
        embedding.weight[unused] = 0


def new_networks(seed: int) -> tuple[nn.ModuleDict, Any, Any]:
    """Fresh networks and both tokenizers.

    Returns:
        A ModuleDict of `text_encoder` (CLIP, for the pooled vector), `text_encoder_2` (T5, for the words) and
        `transformer`; the CLIP tokenizer, which is that of `garments`; the T5 tokenizer.
    """
    clip, t5 = new_tokenizer(), new_t5_tokenizer()
    torch.manual_seed(seed)
    networks = nn.ModuleDict(
        {
            "text_encoder": new_text_encoder(clip.get_vocab()),
            "text_encoder_2": new_t5_encoder(len(t5)),
            "transformer": new_transformer(),
        }
    )
    start_from_identity(networks["transformer"])
    return networks, clip, t5


def with_guidance(transformer: Any) -> Any:
    """The same transformer with a guidance embedding that says nothing yet: equal velocities at every scale."""
    distilled = new_transformer(guidance=True)
    missing, unexpected = distilled.load_state_dict(transformer.state_dict(), strict=False)
    if unexpected or not all(".guidance_embedder." in name for name in missing):
        raise ValueError(f"These weights are not those of new_transformer: {[*missing, *unexpected][:3]}.")
    last = distilled.time_text_embed.guidance_embedder.linear_2
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return distilled


def keep_times_exact(transformer: Any) -> None:
    """Let a transformer under bfloat16 autocast see its times in float32.

    It casts them to the dtype of its embedded tokens, and bfloat16 knows only every fourth of the 1000 times near the
    noise. So the embedding leaves in float32, and the first block takes it back to the dtype of the text.
    """

    def to_dtype_of_text(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs["hidden_states"] = kwargs["hidden_states"].to(kwargs["encoder_hidden_states"].dtype)
        return args, kwargs

    transformer.x_embedder.register_forward_hook(lambda module, args, output: output.float())
    transformer.transformer_blocks[0].register_forward_pre_hook(to_dtype_of_text, with_kwargs=True)


def token_positions(words: int) -> tuple[Tensor, Tensor]:
    """Positions of text and picture for the rotary embedding, as FluxPipeline makes them: (L, 3) zeros, (16, 3)."""
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    image = torch.stack([torch.zeros_like(row), row, column], -1).reshape(-1, 3)
    return torch.zeros(words, 3), image.float()


def velocity(
    transformer: Any, x: Tensor, sigma: Tensor, words: Tensor, pooled: Tensor, guidance: Tensor | None = None
) -> Tensor:
    """dx/dsigma at x.

    Args:
        x: (B, 16, 16) packed latents.
        sigma: (B,) noise level in [0, 1].
        words: (B, L, 128) from the T5 encoder.
        pooled: (B, 128) from the CLIP encoder.
        guidance: (B,) guidance scale, for a transformer that reads it.

    Returns:
        (B, 16, 16) float32.
    """
    text, image = token_positions(words.shape[1])
    return transformer(
        hidden_states=x,
        encoder_hidden_states=words,
        pooled_projections=pooled,
        timestep=sigma,
        guidance=guidance,
        img_ids=image.to(x.device),
        txt_ids=text.to(x.device),
        return_dict=False,
    )[0].float()
