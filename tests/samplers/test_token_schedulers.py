"""The token schedulers in diffusers' pipelines, as they come, with small random models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AmusedImg2ImgPipeline,
    AmusedInpaintPipeline,
    AmusedPipeline,
    AmusedScheduler,
    DiffusionGemmaPipeline,
    DiffusionPipeline,
    LLaDA2Pipeline,
    UVit2DModel,
    VQModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
)

from fewstep.samplers import (
    DiscreteAdamsBashforthScheduler,
    DiscreteTauLeapingScheduler,
    DiscreteThetaScheduler,
    FirstHittingScheduler,
)

MASK = 31
ONE_CALL = [DiscreteAdamsBashforthScheduler, DiscreteTauLeapingScheduler, FirstHittingScheduler]
EVERY = [*ONE_CALL, DiscreteThetaScheduler]


class _Tokenizer:
    """Numbers for words, as much of a tokenizer as the aMUSEd pipelines read."""

    model_max_length = 8

    def __call__(self, text, **options):
        count = 1 if isinstance(text, str) else len(text)
        return SimpleNamespace(input_ids=torch.ones(count, self.model_max_length, dtype=torch.long))


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    transformer = UVit2DModel(
        hidden_size=16, use_bias=False, hidden_dropout=0.0, cond_embed_dim=16, micro_cond_encode_dim=2,
        micro_cond_embed_dim=10, encoder_hidden_size=16, vocab_size=MASK + 1, codebook_size=MASK - 7, in_channels=16,
        block_out_channels=16, num_res_blocks=1, downsample=False, upsample=False, block_num_heads=2,
        num_hidden_layers=1, num_attention_heads=2, attention_dropout=0.0, intermediate_size=16, layer_norm_eps=1e-6,
        ln_elementwise_affine=True,
    ).eval()  # fmt: skip
    vqvae = VQModel(
        act_fn="silu", block_out_channels=[8], down_block_types=["DownEncoderBlock2D"], in_channels=3,
        latent_channels=8, layers_per_block=1, norm_num_groups=8, num_vq_embeddings=MASK - 7, out_channels=3,
        sample_size=8, up_block_types=["UpDecoderBlock2D"], mid_block_add_attention=False, lookup_from_codebook=True,
    ).eval()  # fmt: skip
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=16, intermediate_size=16, projection_dim=16, num_attention_heads=2, num_hidden_layers=1,
            vocab_size=8, max_position_embeddings=8, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )
    ).eval()  # fmt: skip
    return {"transformer": transformer, "vqvae": vqvae, "text_encoder": text, "tokenizer": None}


def _amused(kind, parts, scheduler):
    pipe = kind(**parts, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    pipe.tokenizer = _Tokenizer()
    pipe.seen = []
    forward = parts["transformer"].forward

    def counted(*args, **kwargs):
        pipe.seen.append(args[0].clone())
        return forward(*args, **kwargs)

    return pipe, counted


@pytest.mark.parametrize("kind", EVERY)
def test_amused_pipeline_runs_and_leaves_no_mask(parts, kind, monkeypatch):
    pipe, counted = _amused(AmusedPipeline, parts, kind.from_config(AmusedScheduler(MASK).config))
    monkeypatch.setattr(parts["transformer"], "forward", counted)
    ticks = []
    tokens = pipe(
        "x", height=8, width=8, num_inference_steps=3, output_type="latent", generator=torch.Generator().manual_seed(0),
        callback=lambda *a: ticks.append(a[0]), callback_steps=1,
    ).images  # fmt: skip
    assert tokens.shape == (1, 8, 8)
    assert int(tokens.max()) < MASK - 7
    assert len(pipe.seen) == 3 * pipe.scheduler.order
    assert len(ticks) == 3
    masks = [int((seen[0] == MASK).sum()) for seen in pipe.seen]
    assert masks[0] == 64
    assert masks == sorted(masks, reverse=True)
    assert not pipe.scheduler.has_stored_state


def test_amused_image_to_image_starts_in_the_middle(parts, monkeypatch):
    picture = Image.new("RGB", (8, 8), (200, 30, 90))
    clean = None
    for strength, expected in ((0.5, 4), (0.375, 3)):  # an odd number of calls starts at a corrector
        pipe, counted = _amused(AmusedImg2ImgPipeline, parts, DiscreteThetaScheduler(MASK))
        monkeypatch.setattr(parts["transformer"], "forward", counted)
        out = pipe(
            "x", image=picture, strength=strength, num_inference_steps=4, output_type="latent", guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        monkeypatch.undo()
        assert len(pipe.seen) == expected
        assert int(out.max()) < MASK
        first = pipe.seen[0]
        share = (first == MASK).float().mean().item()
        level = pipe.scheduler.timesteps[8 - expected].item()  # log-linear: the mask ratio is the time
        assert abs(share - level) < 4 * (level * (1 - level) / 64) ** 0.5
        clean = parts["vqvae"].quantize(parts["vqvae"].encode(_tensor(picture)).latents)[2][2].reshape(1, 8, 8)
        kept = first != MASK
        assert torch.equal(first[kept], clean[kept])
        assert torch.equal(out[kept], clean[kept])


def _tensor(picture):
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor(vae_scale_factor=1, do_normalize=False).preprocess(picture)


def test_amused_inpainting_keeps_the_rest(parts, monkeypatch):
    picture, mask = Image.new("RGB", (8, 8), (200, 30, 90)), Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    for kind in EVERY:
        pipe, counted = _amused(AmusedInpaintPipeline, parts, kind(MASK))
        monkeypatch.setattr(parts["transformer"], "forward", counted)
        out = pipe(
            "x", image=picture, mask_image=mask, strength=1.0, num_inference_steps=2, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        monkeypatch.undo()
        assert int((pipe.seen[0][0] == MASK).sum()) == 32
        assert int(out.max()) < MASK
        assert torch.equal(out[0, :, 4:], pipe.seen[0][0][:, 4:])


def test_a_saved_pipeline_comes_back_with_its_scheduler(parts, tmp_path):
    scheduler = DiscreteThetaScheduler(MASK, theta=0.4, noise_schedule="cosine")
    scheduler.save_pretrained(tmp_path / "one")
    again = DiscreteThetaScheduler.from_pretrained(tmp_path / "one").config
    assert all(again[k] == v for k, v in scheduler.config.items() if not k.startswith("_"))
    pipe = LLaDA2Pipeline(model=parts["text_encoder"], scheduler=scheduler, tokenizer=None)
    pipe.save_pretrained(tmp_path / "pipe")
    back = DiffusionPipeline.from_pretrained(tmp_path / "pipe")
    assert type(back.scheduler) is DiscreteThetaScheduler
    assert back.scheduler.config.theta == 0.4


class _Chain(torch.nn.Module):
    """A block model whose law is known: positions of the block are independent of the tokens, values 0 .. 3."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.calls, self.device = logits, 0, torch.device("cpu")

    def forward(self, x, attention_mask=None, position_ids=None):
        self.calls += 1
        return SimpleNamespace(logits=self.logits.expand(*x.shape, -1).clone())


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [
        (DiscreteThetaScheduler(4), 5),
        (DiscreteThetaScheduler(4), 4),
        (DiscreteThetaScheduler(4, algorithm="rk2"), 5),
        (DiscreteThetaScheduler(4, stage_probability="rate"), 4),
        (DiscreteAdamsBashforthScheduler(4), 4),
        (DiscreteTauLeapingScheduler(4, method="tau"), 4),
        (FirstHittingScheduler(4), 4),
    ],
)
def test_llada2_pipeline_counts_calls_and_samples_the_law(scheduler, calls):
    """2 blocks of 8 tokens, 128 sequences: frequencies within 5 standard errors, a false-alarm rate below 1e-5."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    model = _Chain(torch.log(torch.cat([p, torch.tensor([0.9])])))  # the mask has a column, which must not be drawn
    pipe = LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    prompt = torch.full((128, 3), 2)
    out = pipe(
        input_ids=prompt, gen_length=13, block_length=8, num_inference_steps=calls, temperature=1.0,
        editing_threshold=None, eos_early_stop=False, mask_token_id=4, output_type="seq",
        generator=torch.Generator().manual_seed(0),
    ).sequences  # fmt: skip
    assert out.shape == (128, 13)
    assert int(out.max()) <= 3
    assert model.calls <= 2 * calls
    if not isinstance(scheduler, DiscreteAdamsBashforthScheduler | FirstHittingScheduler):
        assert model.calls == 2 * calls
    share = torch.bincount(out.flatten(), minlength=4) / out.numel()
    assert bool(((share - p).abs() < 5 * (p * (1 - p) / out.numel()).sqrt()).all())


def test_llada2_pipeline_ends_at_the_end_token():
    model = _Chain(torch.tensor([0.0, 30.0, 0.0, 0.0, 0.0]))
    pipe = LLaDA2Pipeline(model=model, scheduler=DiscreteThetaScheduler(4), tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    pipe(
        input_ids=torch.zeros(2, 2, dtype=torch.long), gen_length=30, block_length=8, num_inference_steps=4,
        temperature=1.0, editing_threshold=None, eos_token_id=1, mask_token_id=4, output_type="seq",
    )  # fmt: skip
    assert model.calls == 4  # one block of four


class _Processor:
    """As much of a processor as the pipeline reads."""

    eos_token_id = None

    def apply_chat_template(self, messages, **options):
        return {"input_ids": torch.tensor([[3, 4, 5]])}


@pytest.mark.parametrize("kind", [DiscreteAdamsBashforthScheduler, DiscreteTauLeapingScheduler, DiscreteThetaScheduler])
def test_diffusion_gemma_pipeline_makes_the_calls_asked_for(kind):
    """A real DiffusionGemma with random weights, uniform noise, two canvases of six tokens."""
    torch.manual_seed(0)
    text = DiffusionGemmaTextConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
        num_experts=2, top_k_experts=1, moe_intermediate_size=8, max_position_embeddings=64, global_head_dim=8,
        num_global_key_value_heads=1,
    )  # fmt: skip
    vision = Gemma4VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, patch_size=4,
    )  # fmt: skip
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=6)
    model = DiffusionGemmaForBlockDiffusion(config).eval()
    pipe = DiffusionGemmaPipeline(model=model, scheduler=kind(process="uniform"), processor=_Processor())
    pipe.set_progress_bar_config(disable=True)
    for steps in (3, 4):
        calls = []
        hook = model.register_forward_hook(lambda *a, calls=calls: calls.append(1))
        out = pipe(
            prompt="x", gen_length=12, num_inference_steps=steps, temperature=1.0, confidence_threshold=None,
            output_type="seq", generator=torch.Generator().manual_seed(0),
        ).sequences  # fmt: skip
        hook.remove()
        assert len(calls) == 2 * steps
        assert out.shape == (1, 12)
        assert 0 <= int(out.min()) <= int(out.max()) < 24
    with pytest.raises(ValueError, match="temperature must be above 0"):
        pipe(prompt="x", gen_length=6, num_inference_steps=2, output_type="seq")  # the pipeline's default is greedy


# -- contract


def _logits(b=2, length=6, v=5, seed=0):
    return torch.randn(b, length, v, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", EVERY)
def test_same_seeds_same_tokens_whatever_the_batch(kind):
    def run(rows):
        scheduler = kind(5)
        scheduler.set_timesteps(4)
        x = torch.full((len(rows), 6), 5)
        g = [torch.Generator().manual_seed(r) for r in rows]
        for t in scheduler.timesteps:
            x = scheduler.step(_logits()[rows], t, x, generator=g).prev_sample
        return x

    both = run([0, 1])
    assert torch.equal(both, torch.cat([run([0]), run([1])]))
    assert int(both.max()) < 5


def test_stored_state_holds_only_what_is_still_masked():
    scheduler = DiscreteThetaScheduler(5)
    scheduler.set_timesteps(2)
    x = torch.full((2, 600), 5)
    x = scheduler.step(_logits(2, 600).half(), scheduler.timesteps[0], x).prev_sample
    (kept,) = scheduler._state.past
    assert kept.output.dtype == torch.float16
    assert len(kept.rows) == int((x == 5).sum()) < 1200
    scheduler.step(_logits(2, 600).half(), scheduler.timesteps[1], x)
    assert not scheduler.has_stored_state


def test_timesteps_interleave_the_two_stages():
    scheduler = DiscreteThetaScheduler(5, theta=0.25)
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == pytest.approx([1.0, 0.875, 0.5, 0.375])
    scheduler = DiscreteThetaScheduler(5, stage_probability="rate")
    scheduler.set_timesteps(2)
    assert len(scheduler.timesteps) == 5
    assert scheduler.timesteps[-1].item() == pytest.approx(1e-3)


def test_configurations_travel_between_the_classes():
    theta = DiscreteThetaScheduler(7, noise_schedule="cosine", temperature=0.9)
    for kind in ONE_CALL:
        other = kind.from_config(theta.config)
        assert (other.config.mask_token_id, other.config.noise_schedule, other.config.temperature) == (7, "cosine", 0.9)
        assert DiscreteThetaScheduler.from_config(other.config).config.noise_schedule == "cosine"
    assert DiscreteThetaScheduler.from_config(AmusedScheduler(9).config).config.mask_token_id == 9


def test_preview_fills_the_masks_and_leaves_the_stream_alone():
    scheduler = DiscreteTauLeapingScheduler(5)
    scheduler.set_timesteps(4)
    out = scheduler.step(_logits(), scheduler.timesteps[0], torch.full((2, 6), 5))
    done = out.prev_sample != 5
    assert int(out.pred_original_sample.max()) < 5
    assert torch.equal(out.pred_original_sample[done], out.prev_sample[done])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DiscreteThetaScheduler(5, theta=0.0), r"theta must be in \(0, 1\], got 0.0"),
        (lambda: DiscreteThetaScheduler(5, theta=1.2), r"theta must be in \(0, 1\]"),
        (lambda: DiscreteThetaScheduler(5, theta=1.0), "exact intervals"),
        (lambda: DiscreteThetaScheduler(5, algorithm="rk3"), "did you mean 'rk2'"),
        (lambda: DiscreteThetaScheduler(5, process="mask"), "did you mean 'masked'"),
        (lambda: DiscreteThetaScheduler(5, noise_schedule="cosin"), "did you mean 'cosine'"),
        (lambda: DiscreteThetaScheduler(5, temperature=0.0), "temperature must be above 0"),
        (lambda: DiscreteThetaScheduler(5, t_end=2.0), "t_end"),
        (lambda: DiscreteThetaScheduler(-1), "mask_token_id"),
        (lambda: DiscreteTauLeapingScheduler(5, method="twedie"), "did you mean 'tweedie'"),
        (lambda: DiscreteAdamsBashforthScheduler(5, lag=1.5), "lag must be a whole number"),
        (lambda: FirstHittingScheduler(process="uniform"), "first-hitting sampling is for masks"),
        (lambda: DiscreteThetaScheduler(5).set_timesteps(0), "at least 1, got 0"),
    ],
)
def test_bad_options_are_answered_with_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_bad_calls_are_answered_with_a_sentence():
    x = torch.full((2, 6), 5)
    with pytest.raises(ValueError, match="call set_timesteps before the first step"):
        DiscreteThetaScheduler(5).step(_logits(), 1.0, x)
    scheduler = DiscreteThetaScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="needs a mask token"):
        scheduler.step(_logits(), 1.0, x)
    scheduler = DiscreteThetaScheduler(5)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="shape"):
        scheduler.step(_logits(3), 1.0, x)
    with pytest.raises(ValueError, match="NaN"):
        scheduler.step(_logits() * float("nan"), 1.0, x)
    with pytest.raises(ValueError, match="not one of this run"):
        scheduler.step(_logits(), 0.9, x)
    with pytest.raises(ValueError, match="3 generators"):
        scheduler.step(_logits(), 1.0, x, generator=[torch.Generator()] * 3)
    with pytest.raises(TypeError, match="int64"):
        scheduler.step(_logits(), 1.0, x.int())
    only_mask = DiscreteThetaScheduler(0)
    only_mask.set_timesteps(2)
    with pytest.raises(ValueError, match="vocabulary is wrong"):
        only_mask.step(_logits(v=1), 1.0, torch.zeros(2, 6, dtype=torch.long))


@pytest.mark.parametrize("made", [DiscreteAdamsBashforthScheduler, DiscreteTauLeapingScheduler])
def test_neighbours_in_a_picture_are_not_revealed_at_one_call(made):
    """Tokens (B, H, W) are spread over the plane; of eight neighbours none is closer in order than 0.185."""
    scheduler = made(mask_token_id=3, reveals="spread", steps_are_model_calls=True)
    scheduler.set_timesteps(8)
    sample = torch.full((4, 16, 16), 3)
    output = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    new = scheduler.step(output, scheduler.timesteps[0], sample, generator=torch.Generator().manual_seed(1)).prev_sample
    shown = new != 3
    assert 0 < int(shown.sum()) < 4 * 64
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        both = shown & shown.roll((-down, -right), (1, 2))
        assert not both[:, :-1, 1:-1].any()


def test_only_tweedie_has_reveals_of_its_own_choice():
    with pytest.raises(ValueError, match="is for 'tweedie'"):
        DiscreteTauLeapingScheduler(mask_token_id=3, method="euler", reveals="spread")
