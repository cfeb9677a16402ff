"""The card of `garments-tokens`, written from what was measured."""

from __future__ import annotations

from typing import Any

from .garments_data import BACKGROUNDS, COLOURS, GARMENTS

_OPENING = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
language: en
datasets:
  - zalando-datasets/fashion_mnist
tags:
  - amused
  - text-to-image
  - diffusers
  - safetensors
inference: false
---

# garments-tokens

A masked-token text-to-image model of {megabytes:.1f} MB that draws 32x32 pictures of garments: ten kinds, ten colours,
five backgrounds. It is a real `AmusedPipeline` (VQ autoencoder, CLIP tokenizer, text encoder with projection,
`UVit2DModel`), small enough to try samplers of discrete diffusion on a processor in seconds.

```python
from diffusers import AmusedPipeline

pipeline = AmusedPipeline.from_pretrained("assets/models/garments-tokens")
pipeline("a red ankle boot on a white background", num_inference_steps=12, guidance_scale=3).images[0]
```

Plain diffusers loads it offline, also in `AmusedImg2ImgPipeline` and `AmusedInpaintPipeline`; fewstep is not needed.
Its samplers take the mask token and the schedule from the pipeline's own scheduler:

```python
from fewstep.samplers import DiscreteAdamsBashforthScheduler

pipeline.scheduler = DiscreteAdamsBashforthScheduler.from_config(pipeline.scheduler.config)
```

The mask ratio is the cosine schedule of MaskGIT and aMUSEd, sin(pi t / 2) at noise time t, which is the
`masking_schedule: cosine` of the configuration. (`AmusedInpaintPipeline` sets it to `linear`, as it does for every
model.)

## What it understands

| | |
|---|---|
| garments | {garments}; also the synonyms of [garments](../garments/README.md) |
| colours | {colours} |
| backgrounds | {backgrounds} |

Captions have up to 22 words; the rest is cut. The empty prompt draws any garment.

## Parts

| part | class | parameters | in -> out |
|---|---|---|---|
| vqvae | `VQModel` | {vqvae:,} | 3x32x32 in [0, 1] <-> 8x8 tokens of 512 kinds |
| text_encoder | `CLIPTextModelWithProjection`, 2 layers of width 128 | {text_encoder:,} | 24 tokens -> 24x128 and 128 |
| tokenizer | `CLIPTokenizer`, that of garments | | any text; unknown words fall to bytes |
| transformer | `UVit2DModel` | {transformer:,} | 8x8 tokens, some masked -> 512 logits each |
| scheduler | `AmusedScheduler`, cosine; the mask is token 512 | | |

Weights are stored in float16 and were trained in float32 with bfloat16 arithmetic; load them in float32 (the default)
on a processor.

## Data

[Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist) (Xiao, Rasul, Vollgraf, 2017; Zalando SE, MIT
licence), its 60,000 training images only, painted and captioned as for `garments`; one caption in ten is empty, for
classifier-free guidance. The 10,000 test images are only measured on.

## Recipe

```
python -m fewstep.assets.recipes.garments_tokens --data fashion_mnist.npz --out assets/models
```

The VQ autoencoder starts from the autoencoder of `garments` with a codebook made by k-means of its latents, and is then
trained as a whole; codes that nothing uses start again. Text encoder and transformer are trained jointly from scratch
on the cached tokens, with the cross-entropy of masked tokens and mask ratios drawn by the cosine schedule. With
`--compile`, as here, a step of that takes two thirds of the time.
"""

_CLOSING = """
## Intended use and limits

For developing and testing samplers of discrete diffusion and for teaching. It knows nothing but these garments: other
words are ignored or mislead it. Shirt, t-shirt, pullover and coat, which are hard to tell apart in Fashion-MNIST, it
mixes up. 64 tokens of 512 kinds keep shapes and paints, not fine folds. It says nothing about how a method ranks on
photographs at full size. There are no people in the data.

## Licence

Weights and code: Apache-2.0. Fashion-MNIST: MIT, copyright 2017 Zalando SE.
"""


def card(report: dict[str, Any]) -> str:
    """The card as Markdown, from the report that the stage `measure` makes."""
    parts = [
        _OPENING.format(
            megabytes=report["megabytes"],
            garments=", ".join(GARMENTS),
            colours=", ".join(COLOURS),
            backgrounds=", ".join(BACKGROUNDS),
            **report["parameters"],
        ),
        _training(report["training"]),
        _measured(report),
        _CLOSING,
    ]
    return "".join(parts)


def _training(record: dict[str, Any]) -> str:
    if not record:
        return ""
    text = (
        "\nOn one core of a server processor with bfloat16 matrix units, shared with other programs, without a GPU:\n\n"
    )
    text += "| stage | steps | batch | wall time |\n|---|---|---|---|\n"
    for stage, entry in record.items():
        text += f"| {stage} | {entry['steps']:,} | {entry['batch']} | {entry['minutes']:.0f} min |\n"
    losses = [row for row in record.get("denoiser", {}).get("history", []) if "held-out loss" in row]
    if losses:
        shown = ", ".join(f"{row['held-out loss']:.3f} at {row['step']:,}" for row in losses[-4:])
        text += f"\nHeld-out cross-entropy of masked tokens, nats: {shown} steps.\n"
    return text


def _measured(report: dict[str, Any]) -> str:
    if not report["drawn"]:
        return ""
    first = report["drawn"][0]
    text = f"""
## Measured

```
python -m fewstep.assets.recipes.garments_tokens --stage measure --data fashion_mnist.npz --out assets/models
```

{first["pictures"]:,} pictures with canonical captions over all garments, colours and backgrounds, judged by
[garments-judge](../garments-judge/README.md)"""
    if "judge on test images" in report:
        text += f", which is right on {report['judge on test images']['garment']:.1%} of real test garments"
    text += ". Calls are evaluations of the transformer for one picture; guidance doubles the work of each.\n\n"
    text += "| scheduler | calls | guidance | garment | colour | background |\n|---|---|---|---|---|---|\n"
    for row in report["drawn"]:
        found = " | ".join(f"{row[question]:.1%}" for question in ("garment", "colour", "background"))
        text += f"| `{row['scheduler']}` | {row['calls']} | {row['guidance']:g} | {found} |\n"
    best = max(report["drawn"], key=lambda row: (row["garment"], row["colour"]))
    each = ", ".join(f"{name} {share:.0%}" for name, share in best["garment of each"].items())
    wrong = ", ".join(f"{pair} ({n})" for pair, n in list(best["garments taken for another"].items())[:4])
    text += f"\n`{best['scheduler']}` at {best['calls']} calls, garment by garment: {each}."
    text += f" The commonest mistakes: {wrong}.\n" if wrong else "\n"
    if "tokens of test images" in report:
        tokens = report["tokens of test images"]
        text += (
            f"\nThe 10,000 test pictures, painted, come back from their tokens at {tokens['psnr']:.1f} dB (mean PSNR); "
            f"the judge finds the garment in {tokens['garment after']:.1%} of them afterwards. "
            f"{tokens['codes used']:.0%} of the codes are used, with {tokens['bits a token']:.2f} bits a token "
            f"on average (9 at most).\n"
        )
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return text + f"\nVersions: {versions}.\n"
