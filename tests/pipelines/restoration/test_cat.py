"""Editing of corrupted pictures: attention maps, patches, measurements outside a mask, counts, and a garment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.pipelines.restoration.attention_control import AttentionControl
from fewstep.pipelines.restoration.cat import edit_corrupted, outside
from fewstep.pipelines.restoration.coder import prompt_embeds
from fewstep.pipelines.restoration.contrast import patch_contrast
from fewstep.samplers.posterior import STSL
from fewstep.samplers.posterior.operators import AveragePool, Grey, Jpeg, Resample

Make = Callable[..., Any]
POOL = AveragePool(4, (32, 32))
FEW: dict[str, Any] = {"num_inference_steps": 5, "output_type": "raw"}


def test_controlled_attention_has_the_maps_of_the_source_and_values_of_its_own(latent: Any) -> None:
    """softmax(Q K^T / sqrt d) V with matrices written out: Q and K of the first call, V of the second."""
    unet, seen = latent.unet, []
    module = next(m for name, m in unet.named_modules() if name.endswith("attn2"))

    def watch(module: Any, given: Any, more: Any, out: torch.Tensor) -> None:
        seen.append((given[0], more["encoder_hidden_states"], out))

    module.register_forward_hook(watch, with_kwargs=True)
    told = prompt_embeds(latent.tokenizer, latent.text_encoder, ["a red dress", "a blue bag"], torch.device("cpu"))
    z = torch.randn(2, *(1, unet.config.in_channels, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), AttentionControl(unet, 2, 0) as control:
        plain = unet(z[1], 300, encoder_hidden_states=told[1:]).sample
        control.record(0)
        unet(z[0], 300, encoder_hidden_states=told[:1])
        control.inject()
        controlled = unet(z[1], 300, encoder_hidden_states=told[1:]).sample
        control.rest()
        assert torch.equal(unet(z[1], 300, encoder_hidden_states=told[1:]).sample, plain)
        control.record(2)  # too late
        control.inject()
        assert torch.equal(unet(z[1], 300, encoder_hidden_states=told[1:]).sample, plain)
        assert not torch.allclose(controlled, plain, atol=1e-5)
        hidden, words, own, found = seen[1][0], seen[1][1], seen[2][1], seen[2][2]
        heads = module.heads
        q, k, v = module.to_q(hidden), module.to_k(words), module.to_v(own)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        maps = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        expected = module.to_out[0]((maps @ v).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(unet(z[1], 300, encoder_hidden_states=told[1:]).sample, plain)  # hooks are gone


def test_patches_are_told_apart_as_in_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 5, 3))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
    cosines = np.einsum("bid,bjd->bij", *unit) / 0.07
    expected = -(np.einsum("bii->bi", cosines) - np.log(np.exp(cosines).sum(-1))).mean(-1)
    found = patch_contrast(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    same = patch_contrast(torch.from_numpy(a), torch.from_numpy(a))
    assert (same < found).all()
    with pytest.raises(ValueError, match="at least two patches"):
        patch_contrast(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))


def test_measurements_outside_a_mask_are_those_that_nothing_within_it_changes() -> None:
    for operator in (POOL, Resample((32, 32), 4), Grey()):
        mask = torch.zeros(32, 32)
        mask[9:14, 20:30] = 1
        x, y = torch.rand(1, 3, 32, 32), operator.A(torch.zeros(1, 3, 32, 32))
        kept = outside(operator, y, (3, 32, 32), mask)
        change = operator.A(x + 100 * torch.rand(1, 3, 32, 32) * mask) - operator.A(x)
        assert (kept * change).abs().max() < 0.5  # of changes of up to 100
        assert 0.5 < float(kept.mean()) < 1
    pool = outside(POOL, POOL.A(torch.zeros(1, 3, 32, 32)), (3, 32, 32), mask)
    expected = torch.ones(8, 8)
    expected[2:4, 5:8] = 0
    assert torch.equal(pool[0, 0], expected)
    with pytest.raises(ValueError, match="leaves no measurement"):
        outside(POOL, torch.zeros(1, 3, 8, 8), (3, 32, 32), torch.ones(32, 32))
    with pytest.raises(ValueError, match="32 x 32 pixels"):
        outside(POOL, torch.zeros(1, 3, 8, 8), (3, 32, 32), torch.ones(8, 8))


@pytest.mark.parametrize(("guidance", "features"), [(1.0, False), (2.0, True)])
def test_evaluations_are_those_of_the_three_stages(
    latent: Any, pictures: Make, seeded: Make, guidance: float, features: bool
) -> None:
    """Restoration 5 (2 + 1) and 10 back, inversion 5, then 5 of the source and 5 of the target, tuned in 3 (or 5)."""
    rows = [0]
    latent.unet.register_forward_pre_hook(lambda module, given: rows.__setitem__(0, rows[0] + len(given[0])))
    y, seen = POOL.A(pictures(2, 32, 32)), []
    tokens = (lambda x: torch.nn.functional.avg_pool2d(x, 8).flatten(2).mT) if features else None
    made = edit_corrupted(
        latent, y, POOL, "a red dress", "a blue dress", guidance_scale=guidance, features=tokens,
        generator=seeded(0, 1), callback_on_step_end=lambda pipe, i, t, held: seen.append(i), **FEW,
    )  # fmt: skip
    branches, tuned = (1 if guidance == 1 else 2), (5 if features else 3)
    assert made.forward == rows[0] // 2 == 15 + 5 + 5 + branches * (5 + tuned)
    assert made.backward == 10 + branches * tuned
    assert seen == list(range(5))
    assert made.images.shape == made.restored.shape == (2, 3, 32, 32)
    assert made.trace.shape == (3, 2)
    for name, images in (("residual", made.images), ("residual_restored", made.restored)):
        exact = (y - torch.nn.functional.avg_pool2d(images, 4)).square().flatten(1).mean(1).sqrt()
        torch.testing.assert_close(getattr(made, name), exact, rtol=1e-4, atol=1e-6)


def test_a_picture_does_not_depend_on_its_batch_mates(latent: Any, pictures: Make, seeded: Make) -> None:
    y = POOL.A(pictures(2, 32, 32))
    sources, targets = ["a red dress", "a bag"], ["a blue dress", "a green bag"]
    both = edit_corrupted(latent, y, POOL, sources, targets, generator=seeded(3, 4), **FEW)
    alone = edit_corrupted(latent, y[1:], POOL, sources[1], targets[1], generator=[seeded(4)], **FEW)
    torch.testing.assert_close(alone.images[0], both.images[1], rtol=0, atol=1e-3)


def test_the_measurement_holds_the_edit_but_not_within_the_mask(latent: Any, pictures: Make, seeded: Make) -> None:
    y, mask = POOL.A(pictures(1, 32, 32)), torch.zeros(32, 32)
    mask[:, :16] = 1
    more = {"generator": seeded(0), "tuning": STSL(data_weight=3.0, probe="none"), **FEW}
    made = {}
    for name, options in (("free", {"measurement_steps": 0}), ("held", {"measurement_steps": 5}),
                          ("outside", {"measurement_steps": 5, "edit_mask": mask})):  # fmt: skip
        more["generator"].manual_seed(0)
        made[name] = edit_corrupted(latent, y, POOL, "a red dress", "a blue bag", **options, **more)
    assert made["held"].residual < made["free"].residual
    right = [(y - POOL.A(made[name].images))[..., 4:].square().mean() for name in ("free", "outside")]
    assert right[1] < right[0]
    torch.testing.assert_close(made["outside"].residual[0], right[1].sqrt(), rtol=1e-3, atol=1e-5)


def test_what_cannot_be_is_a_sentence(latent: Any, pixel: Any, pictures: Make) -> None:
    y = POOL.A(pictures(1, 32, 32))
    for options, says in (
        ({"cross_share": 1.5}, "cross_share is a share"),
        ({"measurement_steps": 9}, "0 to the 5 steps"),
        ({"output_type": "pli"}, "pil"),
        ({"edit_mask": torch.zeros(3, 3)}, "edit mask must have"),
    ):
        with pytest.raises(ValueError, match=says):
            edit_corrupted(latent, y, POOL, "a", "b", **{**FEW, **options})
    with pytest.raises(ValueError, match="2 prompts"):
        edit_corrupted(latent, y, POOL, ["a", "b"], "b", **FEW)
    with pytest.raises(TypeError, match="StableDiffusionRestorationPipeline"):
        edit_corrupted(pixel, y, POOL, "a", "b", **FEW)
    with pytest.raises(TypeError, match="linear"):
        edit_corrupted(latent, pictures(1, 32, 32), Jpeg(50), "a", "b", **FEW)


def test_a_dress_of_which_the_brightness_is_known_turns_blue(seeded: Make) -> None:
    """Of grey pictures: the judge finds the colour that was asked for, and the brightness stays nearer to what was
    measured than in an edit that the measurement does not tune."""
    import fewstep.assets
    from fewstep.eval.judge import Judge
    from fewstep.pipelines import generate, load
    from fewstep.pipelines.restoration import StableDiffusionRestorationPipeline

    folder = fewstep.assets.__path__[0]
    judge, drawn_by = Judge.from_pretrained(f"{folder}/models/garments-judge"), load("garments", device="cpu")
    sources = ["a red dress on a white background", "a red coat on a white background"]
    targets = [text.replace("red", "blue") for text in sources]
    drawn = generate(drawn_by, sources, steps=10, guidance=3.0, seed=500).images
    x = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in drawn]).float() / 127.5 - 1
    pipe, operator = StableDiffusionRestorationPipeline.from_pipe(drawn_by), Grey()
    pipe.set_progress_bar_config(disable=True)
    made = {
        steps: edit_corrupted(
            pipe, operator.A(x), operator, sources, targets, num_inference_steps=10, measurement_steps=steps,
            generator=seeded(0, 1), output_type="raw",
        )
        for steps in (0, 6)
    }  # fmt: skip
    colours = [judge.labels["colour"][i] for i in judge.answers(made[6].images)["colour"]]
    assert colours == ["blue", "blue"]
    assert [judge.labels["colour"][i] for i in judge.answers(made[6].restored)["colour"]] == ["red", "red"]
    assert (made[6].residual < made[0].residual).all()
