"""Invert, reconstruct, edit: with small random pipelines of the three families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.pipelines import FeatureMemory, Injection, edit, flow_edit, invert, load_inversion, reconstruct
from fewstep.pipelines.editing.masks import latent_mask
from fewstep.pipelines.editing.models import edit_model

SOURCE, TARGET = "a red boot", "a grey bag"
CALLS = {"fireflow": (5, 5), "midpoint": (8, 8), "euler": (4, 4), "uni-inv": (5, 4), "exact": (4, 3)}


def hooks(module: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or pipe.unet


@pytest.mark.parametrize("solver", CALLS)
def test_equal_prompts_reconstruct(pipe: Any, picture: np.ndarray, solver: str) -> None:
    inversion = invert(pipe, picture, SOURCE, steps=4, solver=solver, size="own")
    back = reconstruct(pipe, inversion)
    assert (inversion.calls, back.calls) == CALLS[solver]
    same = edit(pipe, inversion, SOURCE, "none", guidance=1.0)
    assert (same.pixels == back.pixels).all()
    if solver == "exact":
        assert back.latent_error[0] < 1e-5
    else:
        closer = reconstruct(pipe, invert(pipe, picture, SOURCE, steps=32, solver=solver, size="own"))
        assert closer.latent_error[0] < 0.5 * back.latent_error[0]
        if hasattr(pipe, "transformer"):  # the random U-Net is rough in time, and 32 steps are few for it
            assert closer.latent_error[0] < (0.2 if solver == "euler" else 0.05)


def test_second_order_beats_first_at_equal_calls(flux: Any, picture: np.ndarray) -> None:
    errors = {}
    for solver, steps in (("fireflow", 16), ("euler", 17)):
        inversion = invert(flux, picture, SOURCE, steps=steps, solver=solver, size="own")
        errors[solver] = reconstruct(flux, inversion).latent_error[0]
    assert errors["fireflow"] < 0.5 * errors["euler"]


def test_warm_start_saves_a_call(flux: Any, picture: np.ndarray) -> None:
    inversion = invert(flux, picture, SOURCE, steps=4, size="own")
    cold, warm = reconstruct(flux, inversion), reconstruct(flux, inversion, warm=True)
    assert (cold.calls, warm.calls) == (5, 4)
    assert warm.latent_error[0] < 2 * cold.latent_error[0] + 0.05


def test_default_injection_has_the_counts_of_the_method(flux: Any, picture: np.ndarray) -> None:
    """Section 5.3 with B = 1 block: stored = inject B (+ B if inject = N), hits = inject B, misses = B."""
    for inject, stored, hits, misses in ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 1), (4, 5, 4, 1)):
        injection = Injection(steps=inject)
        inversion = invert(flux, picture, SOURCE, steps=4, size="own", injection=injection)
        assert len(inversion.features) == stored
        done = edit(flux, inversion, TARGET)
        assert (done.hits, done.misses, done.recorded) == (hits, misses, 0)
        assert hooks(flux.transformer) == 0


def test_what_the_network_said_of_the_picture_is_not_put_into_noise(flux: Any, picture: np.ndarray) -> None:
    """With one interval the two openings lie in it, one at sigma 0 and one at 1: only the middle is put back."""
    for steps, skip in ((1, 0), (4, 3)):
        done = edit(flux, invert(flux, picture, SOURCE, steps=steps, skip=skip, size="own"), TARGET)
        assert (done.hits, done.misses) == (1, 1)


def test_injection_moves_the_edit(pipe: Any, picture: np.ndarray) -> None:
    inversion = invert(pipe, picture, SOURCE, steps=4, size="own", injection=Injection(steps=4))
    free, held = edit(pipe, inversion, TARGET, "none"), edit(pipe, inversion, TARGET)
    assert (free.pixels != held.pixels).any()
    assert held.hits > 0
    assert (free.hits, free.misses) == (0, 0)


def test_features_that_were_not_recorded_are_recorded_again(pipe: Any, picture: np.ndarray) -> None:
    wanted = Injection("add_q replace_v", steps=2)
    had = invert(pipe, picture, SOURCE, steps=4, size="own", injection=wanted)
    none = invert(pipe, picture, SOURCE, steps=4, size="own", injection=Injection("none"))
    assert len(none.features) == 0
    first, second = edit(pipe, had, TARGET, wanted), edit(pipe, none, TARGET, wanted)
    assert (first.pixels == second.pixels).all()
    assert first.recorded == 0
    assert second.recorded == len(had.features)
    assert second.calls - first.calls == 2  # the middles of two intervals
    assert len(none.features) == 0


def test_a_saved_inversion_is_the_fresh_one(pipe: Any, picture: np.ndarray, tmp_path: Path) -> None:
    rgba = np.dstack([picture, np.full((32, 32), 200, np.uint8)])
    inversion = invert(pipe, rgba, SOURCE, steps=3, size="own", injection=Injection("add_q", steps=2))
    inversion.save(tmp_path / "kept.safetensors")
    for memory in (None, FeatureMemory("disk", folder=tmp_path / "features")):
        again = load_inversion(tmp_path / "kept.safetensors", memory)
        assert torch.equal(again.latents.sample, inversion.latents.sample)
        assert torch.equal(again.path, inversion.path)
        assert again.injection == inversion.injection
        assert again.edges == inversion.edges
        assert again.frames == inversion.frames
        fresh, kept = edit(pipe, inversion, TARGET), edit(pipe, again, TARGET)
        assert (np.asarray(fresh.image) == np.asarray(kept.image)).all()
        assert fresh.hits == kept.hits > 0
        assert (reconstruct(pipe, again).pixels == reconstruct(pipe, inversion).pixels).all()


def test_where_features_are_kept_changes_nothing(flux: Any, picture: np.ndarray, tmp_path: Path) -> None:
    images = []
    for memory in (FeatureMemory("device"), FeatureMemory("host"), FeatureMemory("disk", folder=tmp_path)):
        inversion = invert(flux, picture, SOURCE, steps=2, size="own", memory=memory, injection=Injection(steps=2))
        images.append(np.asarray(edit(flux, inversion, TARGET).image))
        if memory.place == "disk":
            assert len(list(tmp_path.rglob("*.safetensors"))) == 3
            assert inversion.memory.endswith("on disk")
    assert (images[0] == images[1]).all()
    assert (images[0] == images[2]).all()


def test_a_budget_that_is_too_small_is_said_and_leaves_nothing(flux: Any, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="more than the budget of 100 B"):
        invert(flux, picture, SOURCE, steps=2, size="own", memory=FeatureMemory("host", "100B"))
    assert hooks(flux.transformer) == 0


@pytest.mark.parametrize("solver", ["fireflow", "midpoint", "euler", "uni-inv", "rf-inversion", "exact"])
def test_a_mask_keeps_what_is_outside(pipe: Any, picture: np.ndarray, solver: str) -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:24] = True
    inversion = invert(pipe, picture, SOURCE, steps=4, solver=solver, size="own")
    done = edit(pipe, inversion, TARGET, "none", mask=mask)
    out = np.asarray(done.image)
    assert (out[~mask] == picture[~mask]).all()
    assert (out[mask] != picture[mask]).any()
    if solver != "rf-inversion":  # the latents themselves are the picture's outside, to rounding
        model = edit_model(pipe)
        outside = latent_mask(mask.astype(np.float32), inversion.frames[0], model.cells((32, 32))) == 0
        whole = _latents(pipe, inversion, mask)
        kept = model.unpack(inversion.latents.source, (32, 32))
        apart = (whole - kept).abs()[outside.expand_as(kept)]
        assert float(apart.max()) < 1e-4


def _latents(pipe: Any, inversion: Any, mask: np.ndarray) -> torch.Tensor:
    """Latents of an edit with a mask, seen on their way into the decoder."""
    model, seen = edit_model(pipe), []
    handle = pipe.vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    decode, pipe.vae.decode = pipe.vae.decode, lambda z, **more: (seen.append(z), decode(z, **more))[1]
    try:
        edit(pipe, inversion, TARGET, "none", mask=mask)
    finally:
        handle.remove()
        del pipe.vae.decode
    shift, scale = model._scale
    return (seen[0] - shift) * scale


def test_blending_can_be_kept_to_a_window_of_noise_levels(flux: Any, picture: np.ndarray) -> None:
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    inversion = invert(flux, picture, SOURCE, steps=4, size="own")
    free = edit(flux, inversion, TARGET, "none")
    never = edit(flux, inversion, TARGET, "none", mask=mask, blend=(0.0, 0.0))
    always = edit(flux, inversion, TARGET, "none", mask=mask)
    late = edit(flux, inversion, TARGET, "none", mask=mask, blend=(0.0, 0.5))
    assert (never.pixels == free.pixels).all()
    assert not np.array_equal(late.pixels, always.pixels)
    assert not np.array_equal(late.pixels, free.pixels)
    with pytest.raises(ValueError, match="lowest and the highest noise level"):
        edit(flux, inversion, TARGET, mask=mask, blend=(0.5, 0.2))


def test_pictures_of_a_batch_do_not_meet(pipe: Any, picture: np.ndarray) -> None:
    other = 255 - picture[::-1]
    both = invert(pipe, [picture, other], [SOURCE, TARGET], steps=2, size="own")
    done = edit(pipe, both, [TARGET, SOURCE])
    alone = edit(pipe, invert(pipe, other, TARGET, steps=2, size="own"), SOURCE)
    assert len(done.images) == 2
    assert np.allclose(done.pixels[1], alone.pixels[0], atol=1e-5)
    with pytest.raises(ValueError, match="2 masks do not fit 1 pictures"):
        edit(pipe, invert(pipe, other, TARGET, steps=1, size="own"), SOURCE, mask=[picture, picture])


def test_any_picture_comes_back_in_its_size(pipe: Any, tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (45, 61, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgba).save(tmp_path / "a.png", exif=exif)
    done = edit(pipe, invert(pipe, tmp_path / "a.png", SOURCE, steps=1), TARGET)
    assert done.image.size == (45, 61)  # upright
    assert (np.asarray(done.image)[..., 3] == np.rot90(rgba, -1)[..., 3]).all()


def test_skipping_steps_keeps_more(flux: Any, picture: np.ndarray) -> None:
    apart = []
    for skip in (0, 3, 6):
        inversion = invert(flux, picture, SOURCE, steps=8, skip=skip, size="own", injection=Injection("none"))
        assert inversion.steps == 8 - skip
        assert inversion.calls == 9 - skip
        apart.append(edit(flux, inversion, TARGET).latent_error[0])
    assert apart[2] < apart[0]


def test_progress_is_told(flux: Any, picture: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    inversion = invert(flux, picture, SOURCE, steps=2, size="own", progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    with pytest.raises(KeyboardInterrupt):
        edit(flux, inversion, TARGET, progress=_interrupt)
    assert hooks(flux.transformer) == 0


def _interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_the_pipeline_is_left_as_it_was(pipe: Any, picture: np.ndarray) -> None:
    scheduler, config = pipe.scheduler, dict(pipe.scheduler.config)
    attributes = set(vars(pipe))
    inversion = invert(pipe, picture, SOURCE, steps=2, size="own")
    edit(pipe, inversion, TARGET)
    assert pipe.scheduler is scheduler
    assert dict(pipe.scheduler.config) == config
    assert set(vars(pipe)) == attributes
    assert hooks(denoiser(pipe)) == 0


def test_an_inversion_of_another_model_is_refused(flux: Any, sd3: Any, picture: np.ndarray) -> None:
    inversion = invert(flux, picture, SOURCE, steps=1, size="own")
    with pytest.raises(ValueError, match="made with another model"):
        edit(sd3, inversion, TARGET)
    with pytest.raises(ValueError, match="made with another model"):
        reconstruct(sd3, inversion)


def test_another_text_encoder_is_noticed(flux: Any, picture: np.ndarray) -> None:
    inversion = invert(flux, picture, SOURCE, steps=1, size="own")
    weight = flux.text_encoder_2.shared.weight
    with torch.no_grad():
        weight += 1
        with pytest.raises(ValueError, match="other embeddings of its source prompt"):
            reconstruct(flux, inversion)
        weight -= 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"solver": "firefly"}, "did you mean 'fireflow'"),
        ({"solver": "euler", "eta": 0.5}, "euler has no field 'eta'"),
        ({"skip": 2}, "skip must be below the 2 steps"),
        ({"guidance": float("nan")}, "guidance must be a finite number"),
        ({"size": "33x33"}, "the nearest is 32x32"),
        ({"injection": Injection(steps=3)}, "3 steps of injection"),
        ({"injection": Injection(blocks="7")}, "no block 7"),
        ({"source_prompt": ["a", "b"]}, "2 texts as the source prompt do not fit 1 pictures"),
        ({"source_prompt": 3}, "must be a text"),
        ({"seed": -1, "solver": "rf-inversion"}, "seed must be at least 0"),
        ({"seed": 0.5, "solver": "rf-inversion"}, "seed must be a whole number"),
        ({"injection": Injection(blocks="0-99999999999")}, "no block 99999999999"),
        ({"solver": "exact", "skip": 1}, "at least 2 intervals"),
    ],
)
def test_bad_requests_are_refused(flux: Any, picture: np.ndarray, changes: dict[str, Any], sentence: str) -> None:
    request = {"source_prompt": SOURCE, "steps": 2, "size": "own", **changes}
    with pytest.raises(ValueError, match=sentence):
        invert(flux, picture, **request)


def test_bad_edits_are_refused(flux: Any, picture: np.ndarray) -> None:
    inversion = invert(flux, picture, SOURCE, steps=1, size="own")
    with pytest.raises(ValueError, match="unknown strategy 'replace_w', did you mean"):
        edit(flux, inversion, TARGET, "replace_w")
    with pytest.raises(ValueError, match="pixels and the picture 32x32"):
        edit(flux, inversion, TARGET, mask=np.ones((16, 16)))
    with pytest.raises(TypeError, match="a strategy is a text"):
        edit(flux, inversion, TARGET, 3)  # type: ignore[arg-type]


def test_pictures_of_several_sizes_need_one(flux: Any, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one size in the model"):
        invert(flux, [picture, picture[:16]], SOURCE, steps=1, size="own")
    assert len(invert(flux, [picture, picture[:16]], SOURCE, steps=1, size=32).pictures) == 2


def test_numbers_that_are_not_finite_are_not_made_into_pictures(sd3: Any, picture: np.ndarray) -> None:
    bias = sd3.transformer.proj_out.bias
    with torch.no_grad():
        before = bias.clone()
        bias.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="not finite"):
            invert(sd3, picture, SOURCE, steps=1, size="own")
        bias.copy_(before)


def test_broken_files_are_refused(flux: Any, picture: np.ndarray, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    inversion = invert(flux, picture, SOURCE, steps=1, size="own")
    with pytest.raises(ValueError, match=r"kept in a \.safetensors file"):
        inversion.save(tmp_path / "kept.pt")
    with pytest.raises(FileNotFoundError, match="there is no inversion"):
        load_inversion(tmp_path / "none.safetensors")
    path = tmp_path / "kept.safetensors"
    inversion.save(path)
    inversion.save(tmp_path / "K.SAFETENSORS")
    assert (tmp_path / "K.SAFETENSORS").read_bytes() == path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        inversion.save("~/home.safetensors")
        assert load_inversion("~/home.safetensors").prompts == (SOURCE,)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="can be read"):
        load_inversion(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no inversion"):
        load_inversion(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"fewstep_inversion": '{"version": 1}'})
    with pytest.raises(ValueError, match="is damaged"):
        load_inversion(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"fewstep_inversion": '{"version": 99}'})
    with pytest.raises(ValueError, match="version 99 of the format"):
        load_inversion(path)


def test_half_precision_keeps_its_features_and_a_float32_state(flux: Any, picture: np.ndarray) -> None:
    import copy

    half = copy.deepcopy(flux).to(torch.bfloat16)
    inversion = invert(half, picture, SOURCE, steps=4, size="own")
    assert {tensor.dtype for tensor in inversion.features.tensors().values()} == {torch.bfloat16}
    assert inversion.latents.sample.dtype == torch.float32
    assert reconstruct(half, inversion).latent_error[0] < 0.3


def test_a_picture_far_larger_than_the_model_is_refused_before_memory_is_spent(flux: Any) -> None:
    with pytest.raises(ValueError, match="4096x4096 pixels are more than 16 times what this model was made"):
        invert(flux, np.zeros((8, 8, 3), np.uint8), SOURCE, steps=1, size=4096)
    large = invert(flux, np.zeros((8, 8, 3), np.uint8), SOURCE, steps=1, size=128)  # 16 times, exactly
    assert large.size == (128, 128)


def test_networks_rest_after_the_decoder(flux: Any, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """With offloading hooks bring the decoder back; whoever calls it after they were told to rest leaves it there."""
    order: list[str] = []
    handle = flux.vae.decoder.register_forward_hook(lambda *_: order.append("decoded"))
    monkeypatch.setattr(type(flux), "maybe_free_model_hooks", lambda self: order.append("freed"))
    try:
        inversion = invert(flux, picture, SOURCE, steps=2, size="own")
        edit(flux, inversion, TARGET)
        reconstruct(flux, inversion)
        flow_edit(flux, picture, SOURCE, TARGET, steps=2, size="own")
    finally:
        handle.remove()
    assert order[-1] == "freed"
    assert [order[i + 1] for i, what in enumerate(order) if what == "decoded"] == ["freed"] * 3
