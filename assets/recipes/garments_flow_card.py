"""The model card of `garments-flow`, written from what the recipe measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .garments_data import BACKGROUNDS, COLOURS, NOUNS, PLURALS
from .garments_flow_networks import WORDS
from .training import read_checkpoint

HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
language: en
datasets:
  - zalando-datasets/fashion_mnist
tags:
  - flux
  - flow-matching
  - text-to-image
  - diffusers
  - safetensors
inference: false
---

# garments-flow

A rectified-flow text-to-image model of {megabytes:.1f} MB that draws 32x32 pictures of garments: ten kinds, ten
colours, five backgrounds. It is a real `FluxPipeline` (Flux transformer, autoencoder, CLIP and T5 text encoders with
their tokenizers), small enough to try samplers, inversion and editing for flow-matching models on a processor in
seconds.

```python
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained("assets/models/garments-flow")
pipeline(
    "a red ankle boot on a white background",
    height=32,
    width=32,
    num_inference_steps=20,
    {call},
    max_sequence_length={words},
).images[0]
```

Plain diffusers loads it offline; fewstep is not needed. `height=32, width=32` must be said, since `FluxPipeline` takes
512 otherwise. `max_sequence_length={words}` holds every caption; longer texts are read up to 512 tokens, as measured
below.

## What it understands

| | |
|---|---|
| garments | {garments} |
| colours | {colours} |
| backgrounds | {backgrounds} |
| phrasing | "a red ankle boot on a white background", "red boot, white background", "a photo of a red ankle boot against a white backdrop", "an ankle boot in red on white", or with parts left unsaid. The empty prompt draws any garment. |

## Parts

| part | class | parameters | in -> out |
|---|---|---|---|
| vae | `AutoencoderKL`, the weights of [garments](../garments/README.md) | {vae:,} | 3x32x32 <-> 4x8x8 |
| text_encoder | `CLIPTextModel`, 2 layers of width 128, trained from scratch | {text_encoder:,} | tokens -> pooled vector of 128 |
| tokenizer | `CLIPTokenizer` of garments | | any text; unknown words fall to bytes |
| text_encoder_2 | `T5EncoderModel`, 2 layers of width 128, trained from scratch | {text_encoder_2:,} | {words} tokens -> {words}x128 |
| tokenizer_2 | `PreTrainedTokenizerFast`, the words of the captions | | any text; unknown words are spelt |
| transformer | `FluxTransformer2DModel`, width 128 (4 heads of 32), 1 double-stream and 3 single-stream blocks{embeds} | {transformer:,} | 16 tokens of 16 (2x2 packed latents) |
| scheduler | `FlowMatchEulerDiscreteScheduler`, shift 1 | | any other flow-matching scheduler's `from_config` takes it |

Weights are stored in float16; load them in float32 (the default) on a processor.
{guidance}
## Data

[Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist) (Xiao, Rasul, Vollgraf, 2017; Zalando SE, MIT licence),
its 60,000 training images only, coloured and captioned as for [garments](../garments/README.md)
(`fewstep.assets.recipes.garments_data`): {paintings:,} paintings, half of them mirrored; one caption in ten is empty. The
10,000 test images were never trained on, so editing and inversion can be measured on them.

## Recipe

```
python -m fewstep.assets.recipes.garments_flow --data fashion_mnist.npz --out assets/models
```

Flow matching on cached latents, noise levels logit-normal with 30 % uniform, Muon on the matrices and AdamW on the
rest, bfloat16 autocast, one thread of a processor with AMX:

| stage | steps | time |
|---|---|---|
{stages}
{note}
## Measured

```
python -m fewstep.assets.recipes.garments_flow --stage measure --out assets/models
```

{pictures:,} pictures with canonical captions over all garments, colours and backgrounds, one seed each, Euler,
{calls} network calls a picture, judged by [garments-judge](../garments-judge/README.md):

| guidance_scale | true_cfg_scale | garment found | colour found | background found | FID |
|---|---|---|---|---|---|
{rows}

FID is the Fréchet distance to the training pictures in the features of the judge. The row with the most garments:

| garment | found |
|---|---|
{each}

The commonest mistakes: {mistakes}. With the words padded to 512 tokens (`FluxPipeline`'s own default) and {half} Euler
steps, the judge finds the garment in {p_garment:.0%}, the colour in {p_colour:.0%} and the background in
{p_background:.0%} of {few} pictures. Versions: torch {torch}, diffusers {diffusers}, transformers {transformers}.

## Intended use and limits

For developing and testing samplers, inversion and editing, and for teaching. It knows nothing but these garments: other
words are ignored or mislead it. Pictures have 32x32 pixels, and what is hard to tell apart in Fashion-MNIST (shirt,
t-shirt, pullover, coat) it mixes up. It says nothing about how a method ranks on photographs at full size.

## Licence

Weights and code: Apache-2.0. Fashion-MNIST: MIT, copyright 2017 Zalando SE.
"""  # noqa: E501

DISTILLED = """
Classifier-free guidance is distilled into the guidance embedding (Meng et al., 2023, arXiv:2210.03142) for scales from
1 (none) to 5, so `guidance_scale` costs no second call. `true_cfg_scale` with a negative prompt works as well, at
`guidance_scale=1`.
"""
FREE = """
The transformer reads no guidance scale: `guidance_scale` has no effect. For classifier-free guidance give
`negative_prompt=""` and `true_cfg_scale`, at two calls a step.
"""


def card(report: Path, work: Path, note: str = "") -> str:
    """The card in Markdown.

    Args:
        report: JSON file of the stage `measure`.
        work: folder of the checkpoints, which know how long they were trained.
        note: what else is to be said about the training.
    """
    if not report.is_file():
        raise FileNotFoundError(f"There is no report at {report}; run --stage measure first.")
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    best, found = result["best"], result["asked for and found"]
    distilled = bool(result["guidance distilled"])
    if best["true_cfg"] > 1:
        call = f'true_cfg_scale={best["true_cfg"]:g},\n    negative_prompt=""'
    else:
        call = f"guidance_scale={best['guidance']:g}"
    padded = result["with words padded to 512"]
    mistaken = found["garments taken for another"].items()
    mistakes = [f"{pair.replace(' -> ', ' taken for ')} ({number})" for pair, number in mistaken]
    rows = [
        f"| {run['guidance'] if distilled else 'not read'} | {run['true_cfg'] if run['true_cfg'] > 1 else 'off'} "
        + "".join(f"| {run['found'][question]:.1%} " for question in ("garment", "colour", "background"))
        + ("| |" if run["fid"] is None else f"| {run['fid']:.2f} |")
        for run in result["runs"]
    ]
    synonyms = [word for words in NOUNS.values() for word in words[1:] if word not in PLURALS]
    return HEAD.format(
        megabytes=result["megabytes"],
        call=call,
        words=WORDS,
        garments=f"{', '.join(NOUNS)}; also {', '.join(synonyms)}, and plurals",
        colours=", ".join(COLOURS),
        backgrounds=", ".join(BACKGROUNDS),
        embeds=", guidance embedding" if distilled else "",
        guidance=DISTILLED if distilled else FREE,
        stages="\n".join(_stages(work, distilled)),
        note=f"\n{note}\n" if note else "",
        paintings=len(read_checkpoint(work / "latents.pt", "latents")["labels"]),
        pictures=result["pictures"],
        calls=result["calls"],
        rows="\n".join(rows),
        each="\n".join(f"| {name} | {share:.1%} |" for name, share in found["garment of each"].items()),
        mistakes=", ".join(mistakes[:4]) or "none",
        half=max(1, result["calls"] // 2),
        few=padded["pictures"],
        **{f"p_{question}": padded[question] for question in ("garment", "colour", "background")},
        **result["parameters"],
        **result["versions"],
    )


def _stages(work: Path, distilled: bool) -> list[str]:
    """Rows of the table of stages, from their checkpoints."""
    names = {"denoiser": "text encoders and transformer"} | ({"guidance": "guidance distillation"} if distilled else {})
    rows = []
    for stage, words in names.items():
        checkpoint = read_checkpoint(work / f"{stage}.pt", stage)
        rows.append(f"| {words} | {checkpoint['step']:,} | {checkpoint['seconds'] / 60:.0f} min |")
    return rows
