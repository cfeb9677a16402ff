"""Injected features are those that were recorded, at the projections, and no hook stays behind."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fewstep.pipelines.editing import FeatureStore, Injection
from fewstep.pipelines.editing.injection import Block, FeatureInjector
from fewstep.pipelines.editing.models import edit_model
from fewstep.pipelines.editing.strategy import parse_blocks, parse_strategy


def hooks(module: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


class Run:
    """Two inputs of a pipeline's denoiser."""

    def __init__(self, pipe: Any) -> None:
        self.model = edit_model(pipe)
        self.told = self.model.condition(["a red boot"], 1.0)
        self.other = self.model.condition(["grey"], 1.0)
        generator = torch.Generator().manual_seed(0)
        width = self.model.cells((32, 32))[0]
        planes = torch.randn(1, pipe.vae.config.latent_channels, width, width, generator=generator)
        self.x = self.model.pack(planes)
        self.y = self.model.pack(planes.flip(-1))
        self.tokens = self.model.image_tokens(self.x)

    def __call__(self, x: torch.Tensor, told: Any = None) -> torch.Tensor:
        return self.model.velocity(x, 0.7, (told or self.told).cond, (32, 32), 1.0)

    def injector(self, injection: Injection, store: FeatureStore) -> FeatureInjector:
        return FeatureInjector(self.model.blocks(), injection, store, self.tokens)


def test_strategies_act_in_the_order_of_the_method() -> None:
    assert parse_strategy("add_q replace_v") == ("replace_v", "add_q")
    assert parse_strategy("replace_q,add_k + replace_k") == ("replace_k", "add_k", "replace_q")
    assert parse_strategy("none") == parse_strategy("") == ()
    with pytest.raises(ValueError, match="unknown strategy 'replace-v', did you mean 'replace_v'"):
        parse_strategy("replace-v")
    assert Injection("add_q replace_v").tensors == "qv"


def test_blocks_are_ranges_and_lists() -> None:
    assert parse_blocks(None, 3) == parse_blocks("all", 3) == (0, 1, 2)
    assert parse_blocks("20-22, 37", 38) == (20, 21, 22, 37)
    assert parse_blocks([3, 1], 4) == (1, 3)
    with pytest.raises(ValueError, match="numbered 0 to 37; there is no block 38"):
        parse_blocks("20-38", 38)
    for wrong in ("some", "", []):
        with pytest.raises(ValueError, match="blocks are all, a range"):
            parse_blocks(wrong, 4)


def test_the_published_settings_are_one_noise_level() -> None:
    """Section 5.3 of the method: N = 8 with 1 step and N = 15 with 2 steps are the same window at 512 pixels."""
    shift = torch.tensor(0.63).exp()
    for steps, inject in ((8, 1), (15, 2)):
        t = torch.linspace(1, 0, steps + 1).double()
        edges = (shift * t / (1 + (shift - 1) * t)).tolist()
        assert Injection(until_sigma=0.92).window(edges) == inject
        assert Injection(steps=inject).window(edges) == inject
    edges = [1.0, 0.5, 0.0]
    assert (
        Injection("none").window(edges) == Injection(strength=0).window(edges) == Injection(steps=0).window(edges) == 0
    )
    assert Injection(until_sigma=0.0).window(edges) == 2
    with pytest.raises(ValueError, match="3 steps of injection are more than the 2"):
        Injection(steps=3).window(edges)


def test_windows_are_read_from_words() -> None:
    assert Injection.parse("2").steps == Injection.parse("2 steps").steps == 2
    assert Injection.parse("0.9").until_sigma == Injection.parse("sigma 0.9").until_sigma == 0.9
    for wrong in ("much", "-1", "1.5"):
        with pytest.raises(ValueError, match="noise level"):
            Injection.parse(wrong)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"strategy": "replace"}, "unknown strategy"),
        ({"steps": -1}, "at least 0"),
        ({"until_sigma": 1.0}, "noise level"),
        ({"steps": 1, "until_sigma": 0.5}, "not by both"),
        ({"scope": "images"}, "did you mean 'image'"),
        ({"strength": 2.0}, "strength"),
        ({"ratios": (1.0, 1.0)}, "three factors"),
    ],
)
def test_bad_injections_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Injection(**fields)


@pytest.mark.parametrize("strategy", ["replace_v", "replace_v replace_k replace_q"])
def test_a_run_that_gets_its_own_features_is_unchanged(pipe: Any, strategy: str) -> None:
    run = Run(pipe)
    own = run(run.x)
    store = FeatureStore()
    with run.injector(Injection(strategy), store) as injector:
        injector.at("record")
        assert torch.equal(run(run.x), own)
        injector.at("inject")
        assert torch.equal(run(run.x), own)
        assert not torch.equal(run(run.y), own)
        assert injector.hits == 2 * injector.recorded > 0
        injector.at("off")
        assert injector.misses == 0
    assert hooks(run.model.denoiser) == 0


def test_replaced_values_give_the_attention_computed_by_hand(flux: Any) -> None:
    """One single-stream block: softmax(QK) of the live run, V of the recorded one."""
    block = flux.transformer.single_transformer_blocks[0].attn
    generator = torch.Generator().manual_seed(1)
    live, source = torch.randn(2, 1, 6, block.query_dim, generator=generator)
    store = FeatureStore()
    with torch.no_grad(), FeatureInjector([Block("attn", block)], Injection("replace_v"), store, 4) as injector:
        injector.at("record")
        block(source)
        injector.at("inject")
        found = block(live)

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (block.heads, -1))

        q, k = (norm(heads(to(live))) for norm, to in ((block.norm_q, block.to_q), (block.norm_k, block.to_k)))
        injector.at("off")
        v = heads(block.to_v(source))
        by_hand = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2).flatten(2)
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_strategies_compute_what_they_say(flux: Any) -> None:
    block = Block("attn", flux.transformer.single_transformer_blocks[0].attn)
    generator = torch.Generator().manual_seed(1)
    live, source = torch.randn(2, 1, 6, block.attention.query_dim, generator=generator)
    seen: dict[str, torch.Tensor] = {}

    def tapped(injection: Injection, tensor: str) -> torch.Tensor:
        module, _ = block.tap(tensor)
        with torch.no_grad(), FeatureInjector([block], injection, FeatureStore(), 4) as injector:
            handle = module.register_forward_hook(lambda m, i, out: seen.update(out=out))
            injector.at("record")
            block.attention(source)
            seen["source"] = seen["out"]
            injector.at("off")
            block.attention(live)
            seen["own"] = seen["out"]
            injector.at("inject")
            block.attention(live)
            handle.remove()
        return seen["out"]

    for tensor in "qkv":
        ratios = tuple(2.0 if name == tensor else 5.0 for name in "qkv")
        found = tapped(Injection(f"add_{tensor}", ratios=ratios), tensor)
        assert torch.allclose(found, seen["own"] + 2 * seen["source"])
        assert torch.allclose(tapped(Injection(f"replace_{tensor}", ratios=ratios), tensor), 2 * seen["source"])
        both = tapped(Injection(f"add_{tensor} replace_{tensor}"), tensor)
        assert torch.allclose(both, 2 * seen["source"])
        half = tapped(Injection(f"replace_{tensor}", strength=0.5), tensor)
        assert torch.allclose(half, (seen["own"] + seen["source"]) / 2)
        image = tapped(Injection(f"replace_{tensor}", scope="image"), tensor)
        assert torch.equal(image[:, :2], seen["own"][:, :2])  # text comes first
        assert torch.equal(image[:, 2:], seen["source"][:, 2:])


def test_hooks_are_gone_after_an_exception(pipe: Any) -> None:
    run = Run(pipe)
    before = run(run.x)
    with contextlib.suppress(RuntimeError), run.injector(Injection("replace_v add_q"), FeatureStore()):
        assert hooks(run.model.denoiser) > 0
        raise RuntimeError
    assert hooks(run.model.denoiser) == 0
    assert torch.equal(run(run.x), before)


def test_a_length_that_differs_is_refused(flux: Any) -> None:
    """Attention itself would take keys and values of two lengths without a word."""
    run, store = Run(flux), FeatureStore()
    with run.injector(Injection(), store) as injector:
        injector.at("record")
        run(run.x)
        injector.at("inject")
        with pytest.raises(ValueError, match="text length of both runs must be the same"):
            run.model.velocity(run.x[:, :4], 0.7, run.told.cond, (16, 16), 1.0)


def test_a_missing_partner_is_counted_and_runs_unchanged(flux: Any) -> None:
    run = Run(flux)
    own = run(run.x)
    with run.injector(Injection(), FeatureStore()) as injector:
        injector.at("inject", 0, "edge")
        assert torch.equal(run(run.x), own)
        assert (injector.hits, injector.misses) == (0, 1)


def test_branches_of_guidance(sd3: Any) -> None:
    run, store = Run(sd3), FeatureStore()
    for branches, changed in (("both", True), ("cond", False)):
        with run.injector(Injection(branches=branches), store) as injector:
            injector.at("record", branch="cond")
            run(run.x)
            injector.at("inject", branch="uncond")
            assert torch.equal(run(run.y), run(run.y))
            assert (injector.hits > 0) is changed


def test_fused_projections_are_refused(flux: Any) -> None:
    flux.transformer.fuse_qkv_projections()
    try:
        with pytest.raises(ValueError, match="unfuse_qkv_projections"):
            Run(flux).injector(Injection(), FeatureStore())
    finally:
        flux.transformer.unfuse_qkv_projections()
    Run(flux).injector(Injection(), FeatureStore())


def test_other_threads_are_left_alone(flux: Any) -> None:
    import threading

    run, store = Run(flux), FeatureStore()
    found = []
    with run.injector(Injection(), store) as injector:
        injector.at("record")
        thread = threading.Thread(target=lambda: found.append(run(run.y)))
        thread.start()
        thread.join()
        assert len(store) == 0
    assert torch.equal(found[0], run(run.y))


def test_a_compiled_network_is_refused(flux: Any) -> None:
    """Its graphs would not know the hooks."""
    import copy
    from contextlib import ExitStack

    from fewstep.pipelines.editing.leg import injector_of

    for compiled in (torch.compile(flux.transformer), copy.deepcopy(flux.transformer)):
        if not hasattr(compiled, "_orig_mod"):
            compiled.compile()
        run = Run(flux)
        run.model.denoiser = compiled
        with pytest.raises(ValueError, match="compiled network"), ExitStack() as stack:
            injector_of(stack, run.model, Injection(), FeatureStore(), run.x)
