"""Reference statistics of the pictures that `garments` was trained on, and how far from them other real ones are.

The stage `statistics` of the recipe. Pictures are rounded to 8 bits, as files hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.eval import FeatureNetwork, Statistics, frechet_distance, kernel_distance
from fewstep.eval.features import judge_network

if TYPE_CHECKING:
    from .garments import Pictures

SEED = 1234
RESERVOIR = 2000


def painted(data: Pictures) -> Iterator[Tensor]:
    """All pictures, each in one random colour on one random background, in batches (B, 3, 32, 32) in [-1, 1]."""
    generator = torch.Generator().manual_seed(SEED)
    for index in torch.arange(len(data.grey)).split(256):
        yield data.take(index, generator)[0]


def gathered(batches: Iterator[Tensor], network: FeatureNetwork) -> Statistics:
    """Statistics of pictures in [-1, 1]."""
    found = Statistics(RESERVOIR, network=network.name, hash=network.hash)
    for pictures in batches:
        found.update(network((pictures.clamp(-1, 1) * 127.5 + 127.5).round() / 255))
    return found


@torch.inference_mode()
def write_statistics(train: Pictures, test: Pictures, models: Path, file: Path) -> list[dict[str, Any]]:
    """Write the statistics of the training pictures; the distances of the test pictures to them.

    Args:
        train, test: grey garments, painted here.
        models: folder with `garments` and `garments-judge`.
        file: npz file to write: moments in float64, 2,000 features in float16.

    Returns:
        One row for the test pictures and one for what is left of them after the autoencoder of `garments`, which no
        picture of the model can be expected to go below.
    """
    from diffusers import AutoencoderKL

    network = judge_network(models / "garments-judge")
    reference = gathered(painted(train), network)
    reference.save(file, features_dtype="float16")
    reference = Statistics.load(file)
    autoencoder: Any = AutoencoderKL.from_pretrained(models / "garments" / "vae", torch_dtype=torch.float32).eval()
    through = (autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample for x in painted(test))
    rows = []
    for name, batches in (("test pictures", painted(test)), ("test pictures after the autoencoder", through)):
        found = gathered(batches, network)
        row = {"pictures": name, "count": found.count, "fid": frechet_distance(found, reference)}
        if found.features is not None and reference.features is not None:
            row["kid"] = kernel_distance(found.features, reference.features)
        rows.append(row)
    return rows
