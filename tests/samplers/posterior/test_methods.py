"""What holds exactly for posterior methods: data consistency, limits of one another, counts, seeds, and other loops."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise, product

import pytest
import torch

from fewstep.samplers import Grid, GridOptions, generators, make_grid, resolve, run
from fewstep.samplers.core import oracle
from fewstep.samplers.posterior import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    ChainMethod,
    DDNMPlus,
    DiffPIR,
    PosteriorMethod,
    REDDiff,
    posterior_method,
    posterior_methods,
    run_posterior,
    travel,
)
from fewstep.samplers.posterior.operators import (
    AveragePool,
    CircularBlur,
    GaussianBlur,
    Grey,
    Identity,
    Jpeg,
    Mask,
    Resample,
    compose,
    motion_kernel,
)
from fewstep.samplers.posterior.spectral import budget
from fewstep.samplers.posterior.stepping import ddim_share
from problems import PROCESSES

H, W = 12, 18
NAMES = [name for name, cls in posterior_methods().items() if cls.space == "pixel"]
CHAINS = [name for name in NAMES if issubclass(posterior_methods()[name], ChainMethod)]
KINDS = ["vp", "flow", "edm"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(process, steps: int = 6):
    return make_grid(process, steps, GridOptions(spacing="logsnr"))


def network(process, h: int = H, w: int = W):
    """Three smooth pictures, blurred into a mixture."""
    return oracle.mixture(process, 0.6 * draw(3, 3 * h * w, seed=11), torch.full((3,), 0.4, dtype=torch.float64))


def solve(method, operator, y, kind="vp", steps=6, **options):
    process = PROCESSES[kind]()
    options.setdefault("generator", generators(range(len(y))))
    return run_posterior(network(process), method, process, grid(process, steps), operator, y, **options)


OPERATORS = {
    "bicubic": Resample((H, W), 3),
    "pool": AveragePool(3, (H, W)),
    "mask": Mask((draw(H, W, seed=2) > 0).double()),
    "grey": Grey(),
    "identity": Identity(),
    "mild blur": GaussianBlur((H, W), 0.5, 5),
    "circular": CircularBlur(motion_kernel(3, seed=1) * 0.3 + 0.7 * torch.eye(3)[1].outer(torch.eye(3)[1]), (H, W)),
    "mask and pool": compose(Mask((draw(H, W, seed=2) > 0).double()), AveragePool(3, (H, W))),
}


PROJECTING = ["ddnm", "ddnm-2m", "ddnm-plus", "ddrm", "diffpir", "diffpir-2m"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "operator"), [pair for pair in product(PROJECTING, OPERATORS) if pair != ("ddrm", "mask and pool")]
)
def test_without_noise_the_measurement_is_met(name, operator, kind):
    a = OPERATORS[operator]
    y = a.A(draw(2, 3, H, W).clamp(-1, 1))
    result = solve(posterior_method(name), a, y, kind)
    assert (a.A(result.sample) - y).norm() < 1e-4 * y.norm()
    if operator == "mask":
        known = a.mask.value.expand_as(y) > 0
        torch.testing.assert_close(result.sample[known], y[known], rtol=0, atol=0 if name != "ddrm" else 1e-12)
    assert (result.residual < 1e-4).all()


@pytest.mark.parametrize("name", ["ddnm", "ddnm-plus", "ddrm", "diffpir", "moment-matching"])
def test_the_identity_gives_the_measurement_back_in_one_step(name):
    y = draw(2, 3, H, W)
    torch.testing.assert_close(solve(posterior_method(name), Identity(), y, steps=1).sample, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operator", ["bicubic", "mask", "mask and pool"])
def test_ddnm_plus_without_noise_is_ddnm(operator):
    a = OPERATORS[operator]
    y = a.A(draw(2, 3, H, W))
    assert torch.equal(solve(DDNMPlus(), a, y).sample, solve(DDNM(), a, y).sample)
    travelling = {"travel_length": 2, "travel_repeats": 2}
    assert torch.equal(solve(DDNMPlus(**travelling), a, y).sample, solve(DDNM(**travelling), a, y).sample)


def test_noise_let_in_and_noise_drawn_make_up_the_level():
    s = torch.tensor([1e-3, 0.05, 0.2, 0.5, 1.0], dtype=torch.float64)
    process = PROCESSES["vp"]()
    for t in (10, 200, 700):
        node = process.at(t)
        for sigma_y in (0.02, 0.3):
            plan = budget(s, node, sigma_y, 0.85)
            total = (node.alpha * plan.gain * sigma_y / s) ** 2 + plan.fresh**2
            torch.testing.assert_close(total, torch.full_like(s, node.sigma**2), rtol=1e-12, atol=0)
    assert budget(torch.tensor([0.0, 1.0]), node, 0.1, 0.85).active.tolist() == [False, True]


@pytest.mark.parametrize("operator", ["identity", "mask"])
def test_scalar_and_spectral_forms_agree_where_every_singular_value_is_one(operator):
    a = OPERATORS[operator]
    y = a.A(draw(2, 3, H, W))
    found = [solve(DDNMPlus(form=form), a, y, sigma_y=0.1).sample for form in ("spectral", "scalar")]
    torch.testing.assert_close(*found)


def test_ddrm_is_the_spectral_form_of_ddnm_plus():
    a = OPERATORS["bicubic"]
    y = a.A(draw(2, 3, H, W))
    pair = [solve(m, a, y, sigma_y=0.1).sample for m in (DDRM(), DDNMPlus(form="spectral"))]
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
def test_without_a_measurement_the_prior_is_sampled(name, kind, sigma_y):
    """A = 0: the plain stochastic DDIM loop, written out here, with the same noise."""
    method, process = posterior_method(name), PROCESSES[kind]()
    y = torch.zeros(2, 3, H, W, dtype=torch.float64)
    result = solve(method, Mask(torch.zeros(H, W)), y, kind, sigma_y=sigma_y)
    gens = generators(range(2))
    noise = lambda: torch.stack([torch.randn(3, H, W, generator=g) for g in gens]).double()  # noqa: E731
    points, denoiser = grid(process), network(process)
    first = points.nodes[0]
    x = noise() * math.hypot(first.alpha, first.sigma)
    for node, to in zip(points.nodes[:-1], points.nodes[1:], strict=True):
        x0 = denoiser.posterior_mean(x, node)
        eps = (x - node.alpha * x0) / node.sigma
        x = to.alpha * x0
        if to.sigma > 0:
            fresh = method.share(node, to)
            x = x + to.sigma * math.sqrt(1 - fresh**2) * eps
            x = x + to.sigma * fresh * noise() if fresh else x
    torch.testing.assert_close(result.sample, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["exponential-adams", "dpm++ 3m", "ghvb", "adams-bashforth", "lml"])
@pytest.mark.parametrize("kept", ["network", "implied"])
def test_without_a_measurement_a_step_sampler_is_itself(kind, sampler, kept):
    """A = 0 and no fresh noise: the same as the core's own loop with that method."""
    process = PROCESSES[kind]()
    method = DDNM(step_sampler=sampler, renoise=0.0, kept_noise=kept)
    start = draw(2, 3, H, W, seed=4) * grid(process).nodes[0].ratio if kind == "edm" else draw(2, 3, H, W, seed=4)
    found = solve(method, Mask(torch.zeros(H, W)), torch.zeros_like(start), kind, start=start).sample
    plain = run(network(process), resolve(sampler).method, process, grid(process), start)
    torch.testing.assert_close(found, plain.sample, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", ["exponential-adams", "dpm++ 1s"])
def test_stochastic_multistep_is_sde_dpm_solver(sampler):
    """eta = 1 and A = 0: the published formula of SDE-DPM-Solver++ (1 and 2M, midpoint), written out."""
    process = PROCESSES["vp"]()
    method = DDNM(step_sampler=sampler, eta=1.0)
    points, denoiser = grid(process, 16), network(process)
    y = torch.zeros(1, 3, H, W, dtype=torch.float64)
    found = solve(method, Mask(torch.zeros(H, W)), y, steps=16, generator=generators([3])).sample
    g = torch.Generator().manual_seed(3)
    x, before, h_before = torch.randn(3, H, W, generator=g)[None].double(), None, 0.0
    for node, to in zip(points.nodes[:-1], points.nodes[1:], strict=True):
        x0 = denoiser.posterior_mean(x, node)
        if to.sigma == 0:
            x = x0
            break
        h = to.lambda_ - node.lambda_
        share = 1 - math.exp(-2 * h)
        new = to.sigma / node.sigma * math.exp(-h) * x + to.alpha * share * x0
        if before is not None and sampler != "dpm++ 1s":
            new = new + 0.5 * to.alpha * share * (x0 - before) * h / h_before
        x = new + to.sigma * math.sqrt(share) * torch.randn(3, H, W, generator=g)[None].double()
        before, h_before = x0, h
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("renoise", [0.0, 0.6])
def test_a_first_order_step_sampler_is_the_plain_move(renoise):
    a = OPERATORS["bicubic"]
    y = a.A(draw(2, 3, H, W))
    for kept in ("network", "implied"):
        pair = [
            solve(DDNM(step_sampler=s, renoise=renoise, kept_noise=kept), a, y).sample for s in ("ddim", "dpm++ 1s")
        ]
        torch.testing.assert_close(*pair)


def test_fresh_noise_and_velocity_extrapolation_do_not_go_together():
    y = draw(1, 3, H, W)
    with pytest.raises(ValueError, match="fresh noise"):
        solve(DDNM(step_sampler="ghvb"), Identity(), y)
    with pytest.raises(ValueError, match="noise budget"):
        DDNMPlus(step_sampler="ghvb")
    with pytest.raises(ValueError, match="by itself"):
        DDRM(step_sampler="dpm++ 2m")


@pytest.mark.parametrize(
    ("calls", "length", "repeats", "expected"),
    [(100, 10, 3, 280), (250, 10, 3, 730), (250, 10, 10, 2410), (100, 1, 1, 100), (7, 9, 3, 7)],
)
def test_calls_of_time_travel(calls, length, repeats, expected):
    moves = travel(calls, length, repeats)
    assert sum(not move.up for move in moves) == expected
    assert all(a.end == b.start for a, b in pairwise(moves))
    assert moves[0].start == 0
    assert moves[-1].end == calls


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_counted_and_known_beforehand(name):
    options = {"travel_length": 2, "travel_repeats": 3} if name in CHAINS else {}
    method, process = posterior_method(name, **options), PROCESSES["vp"]()
    seen = []
    inner = network(process)

    def counted(x, t):
        seen.append(t)
        return inner(x, t)

    a = OPERATORS["bicubic"]
    y = a.A(draw(2, 3, H, W))
    result = run_posterior(counted, method, process, grid(process), a, y, sigma_y=0.1, generator=generators([0, 1]))
    cost = method.cost(method.plan(process, grid(process)))
    assert result.forward == len(seen) == cost.forward
    assert result.backward == cost.backward if name != "moment-matching" else 0 < result.backward <= cost.backward
    assert (result.backward > 0) == method.gradient
    down = 6 + 2 * 2 * 2 if name in CHAINS else 6
    assert result.trace.shape == (down, 2)
    assert torch.isfinite(result.trace).all()
    torch.testing.assert_close(result.residual.double(), (a.A(result.sample) - y).flatten(1).square().mean(1).sqrt(),
                               rtol=1e-5, atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, "ddnm-2m"])
def test_a_picture_does_not_depend_on_its_batch_mates(name):
    method = posterior_method(name, **({"travel_repeats": 2} if name in CHAINS else {}))
    a = OPERATORS["bicubic"]
    y = a.A(draw(3, 3, H, W))
    options = {"sigma_y": 0.05, "steps": 4}
    together = solve(method, a, y, generator=generators([5, 6, 7]), **options).sample
    turned = solve(method, a, y[[2, 0, 1]], generator=generators([7, 5, 6]), **options).sample
    alone = solve(method, a, y[1:2], generator=generators([6]), **options).sample
    torch.testing.assert_close(turned, together[[2, 0, 1]], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-7, atol=1e-7)
    again = solve(method, a, y, generator=generators([5, 6, 7]), **options).sample
    assert torch.equal(again, together)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("name", NAMES)
def test_float32_follows_float64(name):
    a = OPERATORS["bicubic"]
    y = a.A(draw(1, 3, H, W))
    pair = [solve(posterior_method(name), a, v, sigma_y=0.05, steps=4).sample for v in (y, y.float(), y.half())]
    assert pair[1].dtype == pair[2].dtype == torch.float32
    assert (pair[0] - pair[1]).norm() < 1e-3 * pair[0].norm()


def test_several_samples_of_one_measurement():
    a = OPERATORS["pool"]
    y = a.A(draw(1, 3, H, W))
    result = solve(DDNM(), a, y, generator=generators([0, 1, 2]))
    assert result.sample.shape == (3, 3, H, W)
    torch.testing.assert_close(a.A(result.sample), y.expand(3, -1, -1, -1))
    assert result.sample.std(0).mean() > 0.01


def test_diffpir_tends_to_the_projection_as_the_noise_vanishes():
    a = OPERATORS["bicubic"]
    y = a.A(draw(1, 3, H, W))
    pair = [solve(DiffPIR(), a, y, sigma_y=s).sample for s in (0.0, 1e-6)]
    torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5)
    node = PROCESSES["vp"]().at(500)
    assert DiffPIR(prior_weight=3.0).gamma(node, 0.1) == pytest.approx(node.ratio**2 / (3 * 0.01))
    assert DiffPIR().gamma(node, 0.0) == math.inf


def test_red_diff_is_adam_on_the_published_loss():
    """Three steps of torch's Adam on w <eps - n, mu> / d + |y - A mu|^2 / (2 m), with the same noise."""
    process, a = PROCESSES["vp"](), OPERATORS["bicubic"]
    y = a.A(draw(1, 3, H, W))
    method, points = REDDiff(), grid(process, 3)
    found = solve(method, a, y, steps=3, generator=generators([2])).sample
    g = torch.Generator().manual_seed(2)
    torch.randn(3, H, W, generator=g)  # the start's, which the method has no use for
    mu = a.A_dagger(y, 0.03).requires_grad_(True)
    adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99))
    for node in points.nodes[:-1]:
        n = torch.randn(3, H, W, generator=g)[None].double()
        with torch.no_grad():
            x = node.alpha * mu + node.sigma * n
            eps = (x - node.alpha * network(process).posterior_mean(x, node)) / node.sigma
        adam.zero_grad()
        loss = 0.25 * node.ratio * ((eps - n) * mu).mean() + 0.5 * (y - a.A(mu)).square().mean()
        loss.backward()
        adam.step()
    torch.testing.assert_close(found, mu.detach(), rtol=1e-6, atol=1e-6)


def test_dps_is_a_step_and_a_gradient():
    """One step by autograd through the whole expression."""
    process, a = PROCESSES["vp"](), OPERATORS["bicubic"]
    y = a.A(draw(2, 3, H, W))
    start = draw(2, 3, H, W, seed=9)
    for loss in ("norm", "squared"):
        found = solve(DPS(step_size=0.4, loss=loss), a, y, steps=1, start=start).sample
        node = grid(process, 1).nodes[0]
        x = start.clone().requires_grad_(True)
        x0 = network(process).posterior_mean(x, node)
        norms = (y - a.A(x0)).flatten(1).norm(dim=1)
        (norms if loss == "norm" else norms**2).sum().backward()
        torch.testing.assert_close(found, x0.detach() - 0.4 * x.grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["dps", "red-diff", "daps"])
def test_nonlinear_operators_where_a_gradient_is_enough(name):
    jpeg = Jpeg(30)
    x = draw(1, 3, H, W).clamp(-1, 1)
    options = {"step_size": 3.0} if name == "dps" else {"rate": 0.2} if name == "red-diff" else {"langevin_steps": 30}
    result = solve(posterior_method(name, **options), jpeg, jpeg.A(x), sigma_y=0.05, steps=15)
    plain = solve(DDNM(eta=1.0), Mask(torch.zeros(H, W)), torch.zeros_like(x), steps=15).sample
    assert result.residual[0] < 0.8 * (jpeg.A(plain) - jpeg.A(x)).square().mean().sqrt()


def test_guidance_lowers_the_misfit():
    a = OPERATORS["pool"]
    y = a.A(draw(2, 3, H, W))
    plain = solve(DDNM(eta=1.0), Mask(torch.zeros(H, W)), torch.zeros(2, 3, H, W, dtype=torch.float64)).sample
    without = (a.A(plain) - y).flatten(1).square().mean(1).sqrt()
    for name in NAMES:
        options = {"step_size": 3.0} if name == "dps" else {}  # 0.3 is for a thousand steps
        result = solve(posterior_method(name, **options), a, y, sigma_y=0.05, steps=20)
        assert (result.residual < without).all(), name
        assert name == "red-diff" or (result.residual < result.trace[0]).all(), name  # that one begins at A+ y


def test_hooks_come_before_and_after_the_data():
    a, y = OPERATORS["mask"], OPERATORS["mask"].A(draw(1, 3, H, W))
    pasted = draw(1, 3, H, W, seed=8)
    seen = []

    def before(x0, node):
        seen.append(node.ratio)
        return torch.zeros_like(x0)

    method = DDNM()
    emptied = solve(method, a, y, before=before)
    assert seen == [node.ratio for node in grid(PROCESSES["vp"]()).nodes[:-1]]
    torch.testing.assert_close(emptied.sample, y)
    over = torch.zeros(H, W, dtype=torch.float64)
    over[:, :4] = 1
    kept = solve(method, a, y, after=lambda x0, node: over * pasted + (1 - over) * x0).sample
    assert torch.equal(kept[..., :4], pasted[..., :4])
    known = (a.mask.value * (1 - over)).expand_as(y) > 0
    assert torch.equal(kept[known], y[known])


def test_clipping_comes_before_the_data():
    a = OPERATORS["pool"]
    y = a.A(draw(1, 3, H, W)) * 0 + 3.0
    result = solve(DDNM(), a, y, clip=True)
    torch.testing.assert_close(a.A(result.sample), y)


def test_a_callback_sees_every_move_and_may_replace_the_sample():
    a = OPERATORS["pool"]
    y = a.A(draw(1, 3, H, W))
    seen = []
    method = DDNM(travel_length=2, travel_repeats=2)
    solve(method, a, y, callback=lambda i, moved: seen.append((i, moved.x0 is None)))
    moves = method.plan(PROCESSES["vp"](), grid(PROCESSES["vp"]())).moves
    assert seen == [(i, move.up) for i, move in enumerate(moves)]
    swapped = solve(DDNM(), a, y, callback=lambda i, moved: torch.ones_like(moved.x))
    assert torch.equal(swapped.sample, torch.ones_like(swapped.sample))


def test_a_decoder_stands_between_samples_and_pictures():
    """Latents half as large as pictures, decoded by replication: DPS is told the latent's shape."""
    process = PROCESSES["vp"]()
    decode = lambda z: z.repeat_interleave(2, -2).repeat_interleave(2, -1)  # noqa: E731
    a = OPERATORS["bicubic"]
    y = a.A(decode(draw(1, 3, H // 2, W // 2)))
    inner = network(process, H // 2, W // 2)
    common = {"generator": generators([0]), "decode": decode, "encode": decode}
    with pytest.raises(ValueError, match="latent sample"):
        run_posterior(inner, DPS(), process, grid(process), a, y, **common)
    result = run_posterior(inner, DPS(), process, grid(process), a, y, shape=(3, H // 2, W // 2), **common)
    assert result.sample.shape == (1, 3, H // 2, W // 2)
    torch.testing.assert_close(result.residual.double(), (a.A(decode(result.sample)) - y).square().mean().sqrt()[None],
                               rtol=1e-5, atol=1e-7)  # fmt: skip


def test_methods_say_what_they_need():
    y = draw(1, 3, H, W)
    with pytest.raises(TypeError, match="linear"):
        solve(DDNM(), Jpeg(50), y)
    with pytest.raises(TypeError, match="linear"):
        solve(DAPS(draw="exact"), Jpeg(50), y)
    both = OPERATORS["mask and pool"]
    with pytest.raises(ValueError, match="singular value"):
        solve(DDRM(), both, both.A(y))
    with pytest.raises(ValueError, match="scalar"):
        solve(DDNMPlus(form="spectral"), both, both.A(y), sigma_y=0.1)
    for form in ("auto", "scalar"):
        with pytest.raises(ValueError, match="use diffpir or pigdm"):
            solve(DDNMPlus(form=form), both, both.A(y), sigma_y=0.1)
    solve(DDNMPlus(singular_value=1 / 3), both, both.A(y), sigma_y=0.1)
    solve(DDNMPlus(), both, both.A(y))
    bicubic = OPERATORS["bicubic"]
    with pytest.raises(ValueError, match="differ"):
        solve(DDNMPlus(form="scalar"), bicubic, bicubic.A(y), sigma_y=0.1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dps"])
def test_methods_of_pixels_take_no_decoder(name):
    a = OPERATORS["bicubic"]
    same = {"decode": lambda z: z, "encode": lambda x: x, "shape": (3, H, W)}
    with pytest.raises(ValueError, match="takes no decoder; use dps"):
        solve(posterior_method(name), a, a.A(draw(1, 3, H, W)), **same)


def test_the_noise_of_dps_goes_with_a_clamped_estimate():
    """Data around 1.6, clamped at 1: the deterministic walk ends where all estimates are, at 1."""
    process = PROCESSES["vp"]()
    mean = torch.full((3 * H * W,), 1.6, dtype=torch.float64)
    inner = oracle.gaussian(process, mean, torch.full_like(mean, 0.1))
    a, y = OPERATORS["identity"], torch.zeros(2, 3, H, W, dtype=torch.float64)
    result = run_posterior(
        inner, DPS(step_size=0, eta=0), process, grid(process, 40), a, y, generator=generators(range(2)), clip=True
    )
    assert abs(result.sample.mean() - 1) < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.full((1, 3, H, W), float("nan"))}, "finite"),
        ({"y": torch.zeros(1, 3, H, W, dtype=torch.uint8)}, "floating-point"),
        ({"y": torch.zeros(0, 3, H, W)}, "at least one"),
        ({"sigma_y": -0.1}, "sigma_y"),
        ({"sigma_y": math.nan}, "sigma_y"),
        ({"y": torch.zeros(2, 3, H, W), "generator": generators([0, 1, 2])}, "3 samples"),
        ({"generator": []}, "at least one"),
        ({"start": torch.zeros(0, 3, H, W)}, "at least one sample"),
        ({"start": torch.zeros(2, 3, H, W), "generator": generators([0])}, "start has 2 samples and there are 1"),
        ({"y": torch.zeros(1, 3, H, W + 1)}, "12 x 18"),
        ({"y": torch.zeros(1, 1, H, W), "start": torch.zeros(1, 3, H, W)}, "y has"),
    ],
)
def test_bad_measurements_are_refused(change, message):
    given = {"y": torch.zeros(1, 3, H, W), **change}
    with pytest.raises(ValueError, match=message):
        solve(DDNM(), OPERATORS["mask"], given.pop("y"), **given)


def test_a_grid_towards_noise_is_refused():
    process = PROCESSES["vp"]()
    up = Grid(grid(process).nodes[::-1])
    with pytest.raises(ValueError, match="other way"):
        run_posterior(network(process), DDNM(), process, up, Identity(), draw(1, 3, H, W))


def test_a_run_that_diverges_says_so():
    with pytest.raises(ValueError, match="diverged"):
        solve(DPS(step_size=1e30, loss="squared"), Identity(), draw(1, 3, H, W).float())


@pytest.mark.parametrize("kept", ["network", "implied"])
def test_a_pasted_part_keeps_its_noise(kept):
    """What a hook puts in place of the estimate moves with a first-order step sampler as with the plain move."""
    a = OPERATORS["pool"]
    y = a.A(draw(1, 3, H, W))
    pasted = draw(1, 3, H, W, seed=8)
    pair = [
        solve(DDNM(step_sampler=s, kept_noise=kept, renoise=0.5), a, y, after=lambda x0, node: (x0 + pasted) / 2).sample
        for s in ("ddim", "dpm++ 1s")
    ]
    torch.testing.assert_close(*pair)


def test_a_multistep_formula_starts_again_after_a_jump():
    process, method = PROCESSES["vp"](), posterior_method("ddnm-2m", travel_length=2, travel_repeats=2)
    plan = method.plan(process, grid(process))
    assert any(move.up for move in plan.moves)
    for before, after, step in zip(plan.moves, plan.moves[1:], plan.steps[1:], strict=False):
        if before.up:
            assert step.index == 0
            assert step.plan.grid.nodes[0] == grid(process).nodes[after.start]
        elif not after.up:
            assert step.index == after.start - after.segment


def test_ancestral_share_is_the_variance_of_the_ddpm_posterior():
    process = PROCESSES["vp"]()
    node, to = process.at(700), process.at(650)
    bar, bar_to = node.alpha**2, to.alpha**2
    variance = (1 - bar_to) / (1 - bar) * (1 - bar / bar_to)
    assert ddim_share(node, to, 1.0) * to.sigma == pytest.approx(math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_methods_are_frozen_and_stateless(name):
    method = posterior_method(name)
    assert isinstance(method, PosteriorMethod)
    field = dataclasses.fields(method)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, field, 1)
    assert method == posterior_method(name)
