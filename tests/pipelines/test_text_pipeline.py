"""The text pipeline: exact laws, what is given stays, seeds, counted calls, windows, guidance."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import tiny_texts
import torch
from diffusers import AmusedScheduler
from scipy import stats

from fewstep.pipelines import MaskedTextPipeline, TextProgress, set_solver, token_scheduler
from fewstep.pipelines.text_solvers import solvers
from fewstep.pipelines.text_windows import windows
from fewstep.samplers import (
    DiscreteThetaScheduler,
    MaskedProcess,
    generators,
    run_tokens,
    token_method,
)
from fewstep.samplers.discrete import LogLinear
from fewstep.samplers.discrete.law import law_of_run, masked_conditionals

OURS = [name for name in solvers() if name != "confidence"]


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline(model: Any = None, tokenizer: Any = None, solver: str = "adams", **options: Any) -> Any:
    tokenizer = tokenizer or tiny_texts.characters()
    model = tiny_texts.modern(len(tokenizer)).double() if model is None else model
    own = {key: options.pop(key) for key in ("condition", "window") if key in options}
    return quiet(MaskedTextPipeline(model, tokenizer, token_scheduler(solver, **options), **own))


@pytest.fixture(scope="module")
def letters() -> Any:
    return tiny_texts.characters()


@pytest.fixture(scope="module")
def network(letters: Any) -> Any:
    return tiny_texts.modern(len(letters)).double()


@pytest.fixture
def pipe(network: Any, letters: Any) -> Any:
    return pipeline(network, letters)


class Counted:
    """Forward passes of a module, the rows and the longest sequence that it saw."""

    def __init__(self, module: Any) -> None:
        self.calls = self.rows = self.longest = 0
        self.handle = module.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, module: Any, args: Any, kwargs: Any) -> None:
        tokens = kwargs["input_ids"]
        self.calls, self.rows = self.calls + 1, self.rows + len(tokens)
        self.longest = max(self.longest, tokens.shape[1])

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


# -- laws ----------------------------------------------------------------------------------------------------------

N = 5_000


def chain(strength: float, length: int = 3, values: int = 3) -> torch.Tensor:
    step = torch.full((values, values), (1 - strength) / values, dtype=torch.float64)
    step += strength * torch.eye(values, dtype=torch.float64).roll(1, 1)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    for _ in range(length - 1):
        law = law[..., None] * step
    return law


def pvalue(tokens: list[torch.Tensor], law: torch.Tensor) -> float:
    values, length = law.shape[0], law.ndim
    numbers = (torch.stack(tokens) * values ** torch.arange(length - 1, -1, -1)).sum(1)
    seen = torch.bincount(numbers, minlength=values**length).double()
    expected = law.reshape(-1) * len(tokens)
    small = expected < 10
    if small.any():
        seen = torch.cat([seen[~small], seen[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
    return float(stats.chisquare(seen.numpy(), (expected * seen.sum() / expected.sum()).numpy()).pvalue)


def drawn(denoiser: Any, solver: str, length: int = 3, **request: Any) -> list[torch.Tensor]:
    """N texts over a, b, c from a function of the tokens."""
    pipe = pipeline(denoiser, tiny_texts.characters("abc"), solver, condition="none", window=length)
    request = {"length": length, "num_texts_per_prompt": N, "batch_size": N, **request}
    return pipe(generator=torch.Generator().manual_seed(5), output_type="tokens", **request).tokens


@pytest.mark.parametrize("solver", OURS)
def test_a_model_without_context_gives_its_product_law_at_any_number_of_steps(solver: str) -> None:
    """Chi-square over 27 texts at a false-alarm rate of 1e-5 a case."""
    each = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]], dtype=torch.float64)
    law = torch.einsum("a,b,c->abc", *each)
    assert pvalue(drawn(lambda x: each.log().expand(len(x), -1, -1), solver, num_inference_steps=2), law) > 1e-5


@pytest.mark.parametrize("solver", ["first-hitting", "adams"])
def test_one_call_a_token_draws_from_the_joint_law_exactly(solver: str) -> None:
    data = chain(0.8)
    denoiser = masked_conditionals(data)
    assert pvalue(drawn(lambda x: denoiser(x, 0.0).log(), solver, num_inference_steps=None), data) > 1e-5


@pytest.mark.parametrize(("solver", "calls"), [("trapezoidal", 2), ("rk2", 3), ("euler", 3)])
def test_few_calls_draw_from_the_law_of_the_method(solver: str, calls: int) -> None:
    denoiser = masked_conditionals(chain(0.7))
    plan = token_method(solver).plan(MaskedProcess(LogLinear(), mask=3), calls=calls)
    law = law_of_run(plan, denoiser, 3, 3)
    assert pvalue(drawn(lambda x: denoiser(x, 0.0).log(), solver, network_calls=calls), law) > 1e-5


def test_a_prompt_conditions_the_joint_law() -> None:
    data = chain(0.8)
    denoiser = masked_conditionals(data)
    tokens = drawn(lambda x: denoiser(x, 0.0).log(), "first-hitting", prompt="b", num_inference_steps=None)
    assert all(int(row[0]) == 1 for row in tokens)
    given = data[1] / data[1].sum()
    assert pvalue([row[1:] for row in tokens], given) > 1e-5


def test_temperature_and_nucleus_shape_the_law() -> None:
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def model(x: torch.Tensor) -> torch.Tensor:
        return p.log().expand(*x.shape, -1)

    sharp = (p**2 / (p**2).sum()).reshape(3)
    assert pvalue(drawn(model, "trapezoidal", 1, temperature=0.5, num_inference_steps=2), sharp) > 1e-5
    nucleus = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    tokens = drawn(model, "trapezoidal", 1, top_p=0.85, num_inference_steps=2)
    assert max(int(row) for row in tokens) == 1
    assert pvalue(tokens, nucleus) > 1e-5


def test_a_run_is_that_of_run_tokens(network: Any, letters: Any) -> None:
    pipe = pipeline(network, letters, "trapezoidal", theta=0.4)
    made = pipe("Romeo", num_inference_steps=6, generator=generators([3]))
    # a window's numbers come from a generator that the text's own one seeds
    seed = torch.randint(2**63 - 1, (1,), generator=generators([3])[0]).item()
    mask = letters.mask_token_id
    tokens = torch.full((1, tiny_texts.WINDOW), mask)
    tokens[0, :5] = torch.tensor(letters("Romeo")["input_ids"])
    never = torch.zeros(len(letters), dtype=torch.float64)
    never[letters.all_special_ids] = -math.inf
    with torch.no_grad():
        plan = token_method("trapezoidal", theta=0.4).plan(MaskedProcess(LogLinear(), mask=mask), steps=6)
        direct = run_tokens(
            lambda x, t: network(input_ids=x).logits + never,
            plan,
            tokens,
            [torch.Generator().manual_seed(seed)],
            time_aware=False,
        )
    assert torch.equal(made.tokens[0], direct.tokens[0])
    assert (made.calls, made.skipped) == (direct.calls, direct.skipped)


# -- what is given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", solvers())
def test_what_is_given_stays_and_no_mask_is_left(network: Any, letters: Any, solver: str) -> None:
    pipe = pipeline(network, letters, solver)
    made = pipe("To be", num_inference_steps=3, generator=generators([0, 1]), num_texts_per_prompt=2)
    assert [text[:5] for text in made.texts] == ["To be"] * 2
    assert [len(text) for text in made.texts] == [tiny_texts.WINDOW] * 2
    blanks = "be, or [MASK][MASK]t [MASK]o"
    text = pipe(infill=blanks, num_inference_steps=3, generator=generators([2])).texts[0]
    assert len(text) == 13
    assert (text[:7], text[9:11], text[12]) == ("be, or ", "t ", "o")
    for row in made.tokens:
        assert not set(row.tolist()) & set(letters.all_special_ids)


def test_blanks_have_the_sign_one_chooses(pipe: Any) -> None:
    as_token = pipe(infill="be [MASK][MASK] me", num_inference_steps=2, generator=generators([0])).texts
    assert pipe(infill="be __ me", blank="_", num_inference_steps=2, generator=generators([0])).texts == as_token


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_models_of_transformers_keep_their_special_tokens(kind: str, tmp_path: Any) -> None:
    tokenizer = tiny_texts.words(tmp_path)
    size = len(tokenizer)
    model = {"bert": tiny_texts.bert, "distilbert": tiny_texts.distilbert}.get(kind, lambda n: tiny_texts.roberta(n, 0))
    module = model(size)
    pipe = pipeline(module, tokenizer, "trapezoidal")
    assert pipe.room == tiny_texts.WINDOW - 2
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"]), with_kwargs=True)
    made = pipe(infill="to be or [MASK] to [MASK]", num_inference_steps=4, generator=generators([0]))
    handle.remove()
    assert len(seen) == made.calls > 0
    for tokens in seen:
        assert tokens[0, 0] == tokenizer.cls_token_id
        assert tokens[0, -1] == tokenizer.sep_token_id
    given = tokenizer("to be or [MASK] to [MASK]", add_special_tokens=False)["input_ids"]
    kept = [k for k, number in enumerate(given) if number != tokenizer.mask_token_id]
    assert made.tokens[0][kept].tolist() == [given[k] for k in kept]
    assert not set(made.tokens[0].tolist()) & set(tokenizer.all_special_ids)
    assert made.texts[0].startswith("to be or")


def test_special_tokens_are_drawn_only_if_asked(tmp_path: Any) -> None:
    tokenizer = tiny_texts.characters("ab", framed=True)
    end = tokenizer.eos_token_id

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full_like(x, end), len(tokenizer)) * 9.0

    pipe = pipeline(model, tokenizer, condition="none")
    without = pipe(length=8, num_inference_steps=2, generator=generators([0])).tokens[0]
    assert end not in without.tolist()
    with_ = pipe(length=8, num_inference_steps=2, generator=generators([0]), special_tokens=True).tokens[0]
    assert with_.tolist().count(end) >= 7
    assert tokenizer.mask_token_id not in with_.tolist()


# -- seeds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adams", "rk2", "first-hitting", "confidence"])
def test_a_text_depends_on_its_seed_and_not_on_its_batch(network: Any, letters: Any, solver: str) -> None:
    pipe = pipeline(network, letters, solver)
    prompts = ["To be", "Romeo", "A", "To be"]
    request: dict[str, Any] = {"num_inference_steps": 5, "length": 30}
    together = pipe(prompts, generator=generators([0, 1, 2, 3]), **request).texts
    for k, prompt in enumerate(prompts):
        assert pipe(prompt, generator=generators([k]), **request).texts == [together[k]]
    assert together[0] != together[3]
    assert pipe(prompts, generator=generators([0, 1, 2, 3]), batch_size=1, **request).texts == together


def test_one_generator_repeats_and_more_texts_only_add(pipe: Any) -> None:
    def texts(count: int) -> list[str]:
        source = torch.Generator().manual_seed(4)
        return pipe("A", num_inference_steps=3, num_texts_per_prompt=count, generator=source).texts

    assert texts(3) == texts(3)
    assert texts(3)[:2] == texts(2)
    assert len(set(texts(3))) == 3


def test_threads_do_not_meet(pipe: Any) -> None:
    def write(seed: int) -> list[str]:
        return pipe("A", num_inference_steps=5, generator=generators([seed])).texts

    alone = [write(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == alone
    assert pipe.scheduler.num_inference_steps is None


def test_dropout_is_off_and_the_mode_comes_back(letters: Any) -> None:
    model = tiny_texts.modern(len(letters)).double()
    model.config.mlp_dropout = 0.5
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    pipe = pipeline(model, letters)
    calm = pipe("A", num_inference_steps=3, generator=generators([0])).texts
    model.train()
    assert pipe("A", num_inference_steps=3, generator=generators([0])).texts == calm
    assert model.training


# -- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "planned"), [("adams", 12), ("trapezoidal", 24), ("rk2", 25), ("tau", 13), ("tweedie", 12)]
)
def test_calls_and_skipped_calls_make_the_plan(network: Any, letters: Any, solver: str, planned: int) -> None:
    pipe = pipeline(network, letters, solver)
    with Counted(network) as seen:
        made = pipe("To be, or not to be", num_inference_steps=12, generator=generators([0]))
    assert seen.calls == made.calls
    assert seen.rows == made.sequences
    assert made.calls + made.skipped == planned
    assert made.calls <= 5 + (planned - 24 if solver == "rk2" else 0) + (12 if solver == "rk2" else 1)
    assert made.skipped > 0


def test_the_batch_makes_no_more_sequences_than_its_texts_alone(network: Any, letters: Any) -> None:
    pipe = pipeline(network, letters, "trapezoidal")
    request: dict[str, Any] = {"prompt": "To be, or not to", "num_inference_steps": 8}
    together = pipe(num_texts_per_prompt=5, generator=generators(range(5)), **request)
    alone = [pipe(generator=generators([k]), **request) for k in range(5)]
    assert together.texts == [one.texts[0] for one in alone]
    assert together.sequences == sum(one.calls for one in alone)


def test_network_calls_are_what_was_asked_for(network: Any, letters: Any) -> None:
    for solver in OURS:
        made = pipeline(network, letters, solver)(network_calls=7, generator=generators([0]))
        assert made.calls + made.skipped == 7
    made = pipeline(network, letters, "first-hitting")("To be", num_inference_steps=None, generator=generators([0]))
    assert made.calls == tiny_texts.WINDOW - 5
    assert made.skipped == 0


def test_a_model_told_the_time_is_called_though_no_token_changed(letters: Any) -> None:
    size = len(letters)

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x.shape, size)

    timed = pipeline(model, letters)(infill="a[MASK]", num_inference_steps=20, generator=generators([3]))
    plain = pipeline(lambda x: model(x, x), letters)(
        infill="a[MASK]", num_inference_steps=20, generator=generators([3])
    )
    assert timed.texts == plain.texts
    assert plain.calls == 1
    assert timed.calls > 1
    assert timed.calls + timed.skipped == plain.calls + plain.skipped == 20


# -- the callback --------------------------------------------------------------------------------------------------


def test_the_callback_sees_the_text_appear_token_by_token(network: Any, letters: Any) -> None:
    pipe = pipeline(network, letters, "trapezoidal")
    heard: list[TextProgress] = []
    made = pipe(
        "To be", num_inference_steps=6, generator=generators([0, 1]), num_texts_per_prompt=2, callback=heard.append
    )
    assert [step.done for step in heard] == list(range(1, len(heard) + 1))
    assert {step.total for step in heard} == {12}
    assert all(a.time > b.time for a, b in pairwise(heard))
    for before, after in pairwise(heard):
        written = before.tokens != letters.mask_token_id
        assert torch.equal(before.tokens[written], after.tokens[written])  # what is written stays
    assert heard[-1].masks == [0, 0]
    assert heard[-1].texts() == made.texts
    assert heard[0].texts("#")[0].count("#") == heard[0].masks[0] > 0


def test_the_callback_sees_all_of_a_long_text(pipe: Any) -> None:
    heard: list[TextProgress] = []
    pipe("To be", length=50, num_inference_steps=4, generator=generators([0]), callback=heard.append)
    assert {step.tokens.shape for step in heard} == {(1, 50)}
    masks = [step.masks[0] for step in heard]
    assert masks == sorted(masks, reverse=True)
    assert masks[-1] == 0
    assert heard[-1].done <= heard[-1].total


def test_an_exception_of_the_callback_ends_the_run(pipe: Any) -> None:
    def stop(step: TextProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe("A", callback=stop)
    assert not pipe.scheduler.has_stored_state


# -- long texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "context"), [(8, 4), (8, 0), (8, 7), (1, 0), (40, 20)])
def test_windows_cover_every_mask_once_and_none_is_too_long(size: int, context: int) -> None:
    draw = torch.Generator().manual_seed(0)
    for length in (1, 7, 8, 9, 33):
        for share in (0.1, 0.5, 1.0):
            masked = torch.rand(length, generator=draw) < share
            found = windows(masked, min(size, length), min(context, min(size, length) - 1))
            assert sum(window.masks for window in found) == int(masked.sum())
            left = masked.clone()
            for begin, end, masks in found:
                assert 0 <= begin < end <= length
                assert end - begin == min(size, length)
                assert int(left[begin:end].sum()) == masks > 0
                left[begin:end] = False
            assert not left.any()
            assert [window.begin for window in found] == sorted(window.begin for window in found)


def test_a_text_longer_than_the_model_is_written_in_windows(network: Any, letters: Any) -> None:
    pipe = pipeline(network, letters, "trapezoidal")
    with Counted(network) as seen:
        made = pipe("To be", length=100, num_inference_steps=5, generator=generators([0]))
    assert len(made.texts[0]) == 100
    assert made.texts[0].startswith("To be")
    assert seen.longest == tiny_texts.WINDOW
    assert made.windows == 1 + math.ceil((100 - tiny_texts.WINDOW) / (tiny_texts.WINDOW // 2))
    assert made.calls + made.skipped == made.windows * 10
    first = pipe("To be", length=tiny_texts.WINDOW, num_inference_steps=5, generator=generators([0]))
    assert made.texts[0][: tiny_texts.WINDOW] == first.texts[0]  # the first window is that of a short text
    little = pipe("To be", length=100, num_inference_steps=5, context=4, generator=generators([0]))
    assert little.windows < made.windows


def test_blanks_of_a_long_text_are_filled_where_they_are(network: Any, letters: Any) -> None:
    text = "".join(tiny_texts.LETTERS[k % 26] for k in range(200))
    blanks = [3, 4, 90, 91, 199]
    asked = "".join("[MASK]" if k in blanks else c for k, c in enumerate(text))
    with Counted(network) as seen:
        made = pipeline(network, letters)(infill=asked, num_inference_steps=4, generator=generators([0]))
    assert len(made.texts[0]) == 200
    assert all(made.texts[0][k] == text[k] for k in range(200) if k not in blanks)
    assert made.windows == 3
    assert seen.longest == tiny_texts.WINDOW


def test_special_tokens_frame_every_window() -> None:
    tokenizer = tiny_texts.characters("ab ", longest=10, framed=True)
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return torch.zeros(*x.shape, len(tokenizer))

    pipe = pipeline(model, tokenizer, condition="none")
    assert pipe.room == 8
    made = pipe("ab", length=30, num_inference_steps=2, generator=generators([0]))
    assert len(made.tokens[0]) == 30
    for tokens in seen:
        assert tokens.shape[1] == 10
        assert (int(tokens[0, 0]), int(tokens[0, -1])) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


# -- guidance ------------------------------------------------------------------------------------------------------


def test_guidance_one_is_none_and_costs_nothing(pipe: Any, network: Any) -> None:
    request: dict[str, Any] = {"num_inference_steps": 4}
    plain = pipe("To be", generator=generators([0]), **request)
    with Counted(network) as seen:
        one = pipe("To be", generator=generators([0]), guidance_scale=1.0, **request)
    assert one.texts == plain.texts
    assert seen.rows == plain.sequences
    with Counted(network) as seen:
        two = pipe("To be", generator=generators([0]), guidance_scale=2.0, **request)
    assert two.calls == seen.calls == plain.calls  # both halves in one call
    assert two.sequences == seen.rows == 2 * two.calls


def test_guidance_zero_forgets_the_prompt(pipe: Any, letters: Any) -> None:
    to_be = pipe("To be", num_inference_steps=4, generator=generators([0]), guidance_scale=0.0).texts[0]
    romeo = pipe("Romeo", num_inference_steps=4, generator=generators([0]), guidance_scale=0.0).texts[0]
    assert to_be[5:] == romeo[5:]
    assert (to_be[:5], romeo[:5]) == ("To be", "Romeo")
    without = pipe("To be", num_inference_steps=4, generator=generators([0])).texts[0]
    other = pipe("Romeo", num_inference_steps=4, generator=generators([0])).texts[0]
    assert without[5:] != other[5:]


@pytest.mark.parametrize("prediction", ["logits", "score"])
def test_guidance_is_its_formula(prediction: str) -> None:
    """One token after one given token: the law is p_u^(1-g) p_c^g, normalised."""
    with_, without = torch.tensor([0.6, 0.3, 0.1]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    mask = 3

    def model(x: torch.Tensor) -> torch.Tensor:
        p = torch.where((x[:, :1] == mask)[..., None], without, with_).expand(*x.shape, -1)
        return 7 * p if prediction == "score" else p.log() - 2

    tokenizer = tiny_texts.characters("abc")
    pipe = pipeline(model, tokenizer, "tweedie", condition="none", window=2, prediction_type=prediction)
    made = pipe(
        "a", length=2, guidance_scale=2.5, num_inference_steps=1, num_texts_per_prompt=N, batch_size=N,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    law = without ** (1 - 2.5) * with_**2.5
    assert pvalue([row[1:] for row in made.tokens], law / law.sum()) > 1e-5


# -- models told the time, scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("sigma", "sigma"), ("t", "t"), ("timesteps", "t"), ("other", None)])
def test_models_are_told_sigma_or_time(name: str, expected: str | None, letters: Any) -> None:
    told: list[torch.Tensor] = []
    size = len(letters)
    space: dict[str, Any] = {"__name__": "told", "told": told, "torch": torch, "size": size}
    default = "" if expected else "=None"
    exec(
        f"def model(x, {name}{default}):\n"
        f"    if {name} is not None: told.append({name})\n"
        "    return torch.zeros(*x.shape, size)",
        space,
    )
    pipe = pipeline(space["model"], letters, "trapezoidal")
    pipe(length=10, num_inference_steps=3, generator=generators([0, 1]), num_texts_per_prompt=2)
    if expected is None:
        assert not told
        return
    times = torch.tensor([1, 5 / 6, 2 / 3, 1 / 2, 1 / 3, 1 / 6], dtype=torch.float64)
    want = -torch.log1p(-(1 - 1e-3) * times) if expected == "sigma" else times
    assert len(told) <= 6
    assert all(len(value) <= 2 and value.dtype == torch.float32 for value in told)
    torch.testing.assert_close(torch.stack([value[0] for value in told]).double(), want[: len(told)], rtol=1e-5, atol=0)


def test_scores_log_probabilities_and_logits_say_the_same(network: Any, letters: Any) -> None:
    def logits(x: torch.Tensor) -> torch.Tensor:
        return network(input_ids=x).logits

    outputs = {
        "logits": logits,
        "log_probs": lambda x: logits(x).log_softmax(-1),
        "score": lambda x: 0.3 * logits(x).softmax(-1),
    }
    texts = {
        kind: pipeline(model, letters, "trapezoidal", condition="none", prediction_type=kind)(
            "To be", num_inference_steps=6, generator=generators([0])
        ).texts
        for kind, model in outputs.items()
    }
    assert texts["logits"] == texts["log_probs"] == texts["score"]


def test_a_mask_beyond_the_tokenizer_is_that_of_the_scheduler() -> None:
    """GPT-2's tokenizer under RADD, SEDD and MDLM: the mask is one more than the vocabulary."""
    tokenizer = tiny_texts.characters("abc ", masked=False)
    mask = len(tokenizer)

    def model(x: torch.Tensor) -> torch.Tensor:
        assert int(x.max()) <= mask
        return torch.zeros(*x.shape, mask + 1)

    pipe = quiet(MaskedTextPipeline(model, tokenizer, DiscreteThetaScheduler(mask_token_id=mask), condition="none"))
    heard: list[str] = []
    made = pipe(
        infill="ab[MASK][MASK] c[MASK]", num_inference_steps=2, generator=generators([0]),
        callback=lambda step: heard.extend(step.texts("_")),
    )  # fmt: skip
    assert made.texts[0][:2] == "ab"
    assert made.texts[0][4:6] == " c"
    assert len(made.texts[0]) == 7
    assert all(len(text) == 7 for text in heard)


# -- the scheduler -------------------------------------------------------------------------------------------------


def test_a_scheduler_is_swapped_in_one_line(pipe: Any) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("diffusers.configuration_utils")
    logger.addHandler(handler)
    pipe.scheduler = DiscreteThetaScheduler.from_config(pipe.scheduler.config, theta=0.3)
    logger.removeHandler(handler)
    assert not said  # no warning of the fields that the other scheduler had
    made = pipe("A", num_inference_steps=4, generator=generators([0]))
    assert made.calls + made.skipped == 8
    pipe.scheduler = AmusedScheduler(mask_token_id=pipe.mask_token_id)
    made = pipe("A", num_inference_steps=4, generator=generators([0]))
    assert made.calls == 4
    assert made.texts[0][0] == "A"


def test_a_solver_keeps_what_belongs_to_the_model(pipe: Any) -> None:
    pipe.scheduler = DiscreteThetaScheduler(
        mask_token_id=pipe.mask_token_id,
        noise_schedule="cosine",
        prediction_type="log_probs",
        temperature=0.3,
        top_p=0.9,
    )
    set_solver(pipe, "tweedie", final_fill="argmax")
    config = pipe.scheduler.config
    assert (config.mask_token_id, config.noise_schedule, config.prediction_type) == (
        pipe.mask_token_id,
        "cosine",
        "log_probs",
    )
    assert (config.method, config.final_fill) == ("tweedie", "argmax")
    assert (config.temperature, config.top_p) == (0.3, 0.9)
