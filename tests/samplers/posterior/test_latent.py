"""Latent methods with linear coders and exact priors: closed forms, other methods in other coordinates, counts."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from posteriors import Mixture, sliced_wasserstein, surely_less

from fewstep.samplers import GridOptions, generators, make_grid
from fewstep.samplers.core import oracle
from fewstep.samplers.core.grid import CLEAN, Grid
from fewstep.samplers.posterior import (
    DDNM,
    DPS,
    P2L,
    PSLD,
    STSL,
    Counted,
    DiffPIR,
    Draws,
    LatentDDNM,
    LatentDPS,
    Prior,
    Problem,
    posterior_method,
    posterior_methods,
    run_posterior,
)
from fewstep.samplers.posterior.operators import AveragePool, Dense, Jpeg, Mask
from fewstep.samplers.posterior.stsl import PRESETS, STEPS
from fewstep.samplers.posterior.trace_probe import probe_step, probed_trace, score
from problems import PROCESSES

D, M, SIGMA_Y = 8, 4, 0.1
RNG = np.random.default_rng(0)
MEANS, SCALES = RNG.uniform(-1, 1, (8, D)), RNG.uniform(0.05, 0.4, (8, D))
MIXTURE = Mixture.diagonal(np.ones(8) / 8, MEANS, SCALES)
MATRIX = RNG.standard_normal((M, D))
MATRIX /= np.linalg.svd(MATRIX)[1][0]
TURN = torch.from_numpy(np.linalg.qr(RNG.standard_normal((D, D)))[0])  # an orthogonal decoder
TALL = torch.from_numpy(RNG.standard_normal((12, D))) / 4  # pictures larger than latents
WIDE = torch.from_numpy(RNG.standard_normal((M, 12))) / 4  # what is measured of them
LATENT = [name for name, cls in posterior_methods().items() if cls.space == "latent"]
KINDS = ["vp", "flow", "edm"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coders(matrix: torch.Tensor):
    """x = M z and z = M^+ x on flattened samples of shape (1, 1, n)."""
    back = torch.linalg.pinv(matrix)
    return {
        "decode": lambda z: (z.flatten(1) @ matrix.to(z).T)[:, None, None],
        "encode": lambda x: (x.flatten(1) @ back.to(x).T)[:, None, None],
    }


def points(process, steps: int = 6):
    return make_grid(process, steps, GridOptions(spacing="logsnr"))


def network(process):
    return oracle.mixture(process, torch.from_numpy(MEANS), torch.from_numpy(SCALES))


def gaussian(process):
    return oracle.gaussian(process, torch.linspace(-0.5, 0.5, D).double(), torch.linspace(0.3, 1.2, D).double())


TALL_CASE = {"operator": Dense(WIDE, (1, 1, 12)), **coders(TALL), "shape": (1, 1, D)}
TURNED_CASE = {"operator": Dense(torch.from_numpy(MATRIX) @ TURN.T, (1, 1, D)), **coders(TURN), "shape": (1, 1, D)}


def solve(method, y, kind="vp", steps=6, prior=network, case=TALL_CASE, **options):
    process = PROCESSES[kind]()
    options = {**case, "generator": generators(range(len(y))), **options}
    operator, grid = options.pop("operator"), options.pop("grid", None) or points(process, steps)
    return run_posterior(prior(process), method, process, grid, operator, y, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
@pytest.mark.parametrize("kept", ["network", "implied"])
def test_decode_project_encode_is_the_pixel_method_in_turned_coordinates(kind, sigma_y, kept):
    """An orthogonal decoder T: A' = A T, for which the null space and the proximal map turn with it."""
    y = draw(2, M, seed=3)
    latent = LatentDDNM(latent_weight=1.0, clip_picture=False, eta=1.0, kept_noise=kept)
    found = solve(latent, y, kind, case=TURNED_CASE, sigma_y=sigma_y).sample
    pixel = DDNM(eta=1.0, kept_noise=kept)
    if sigma_y:
        pixel = _ancestral_diffpir(kept)
    turned = {"operator": Dense(torch.from_numpy(MATRIX), (1, 1, D))}
    plain = solve(pixel, y, kind, case=turned, sigma_y=sigma_y).sample
    torch.testing.assert_close(found, plain, rtol=1e-7, atol=1e-7)


def _ancestral_diffpir(kept):
    """DiffPIR with the fresh noise of ancestral sampling."""

    class Ancestral(DiffPIR):
        def share(self, node, to):
            return DDNM(eta=1.0).share(node, to)

    return Ancestral(kept_noise=kept)


@pytest.mark.parametrize("name", ["latent-dps", "psld", "p2l"])
def test_first_terms_are_dps_on_the_combined_operator(name):
    """y - A D z is a pixel problem with the operator A D, whatever the decoder."""
    fields = {
        "latent-dps": {"step_size": 0.3},
        "psld": {"data_weight": 0.3, "gluing_weight": 0.0},
        "p2l": {"step_size": 0.3, "every": 0},
    }
    y = draw(2, M, seed=3)
    for eta, loss in ((0.0, "norm"), (0.8, "squared")):
        found = solve(posterior_method(name, eta=eta, loss=loss, **fields[name]), y)
        joint = {"operator": Dense(WIDE @ TALL, (1, 1, D))}
        plain = solve(DPS(step_size=0.3, eta=eta, loss=loss), y, case=joint)
        torch.testing.assert_close(found.sample, plain.sample, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(found.trace, plain.trace, rtol=1e-5, atol=1e-6)


def test_psld_without_gluing_is_latent_dps():
    y = draw(2, M, seed=3)
    assert torch.equal(solve(PSLD(gluing_weight=0), y).sample, solve(LatentDPS(), y).sample)


def test_the_gluing_term_is_the_published_one():
    """One step, by autograd through the whole expression with matrices written out."""
    process = PROCESSES["vp"]()
    y, start = draw(2, M, seed=3), draw(2, 1, 1, D, seed=9)
    found = solve(PSLD(data_weight=0.7, gluing_weight=0.4, rcond=0), y, steps=1, start=start).sample
    z = start.clone().requires_grad_(True)
    node = points(process, 1).nodes[0]
    z0 = network(process).posterior_mean(z, node).flatten(1)
    x = z0 @ TALL.T
    held = x + (y - x @ WIDE.T) @ torch.linalg.pinv(WIDE).T
    glued = (held @ torch.linalg.pinv(TALL).T - z0).norm(dim=1)
    (0.7 * (y - x @ WIDE.T).norm(dim=1) + 0.4 * glued).sum().backward()
    torch.testing.assert_close(found.flatten(1), z0.detach() - z.grad.flatten(1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_proximal_step_is_the_closed_form(weight):
    """x = (A^T A + w)^-1 (A^T y + w D z0) in numpy; the projection for w = 0."""
    process = PROCESSES["vp"]()
    y, start = draw(2, M, seed=3), draw(2, 1, 1, D, seed=9)
    found = solve(P2L(step_size=0, prox_weight=weight, rcond=0), y, steps=1, start=start).sample.flatten(1).numpy()
    a, b = WIDE.numpy(), TALL.numpy()
    x = network(process).posterior_mean(start, points(process, 1).nodes[0]).flatten(1).numpy() @ b.T
    if weight:
        x = np.linalg.solve(a.T @ a + weight * np.eye(12), a.T @ y.numpy().T + weight * x.T).T
    else:
        x = x + (y.numpy() - x @ a.T) @ np.linalg.pinv(a).T
    np.testing.assert_allclose(found, x @ np.linalg.pinv(b).T, rtol=1e-7, atol=1e-7)


def test_the_proximal_step_comes_every_so_often_and_last():
    process = PROCESSES["vp"]()
    for every, due in ((8, [8, 16, 20]), (10, [10, 20]), (0, []), (30, [20])):
        plan = P2L(every=every).plan(process, points(process, 20))
        assert [n + 1 for n, step in enumerate(plan.steps) if step.due] == due


# ---- STSL


def first_order_loop(y, start, steps, inner, weight, process):
    """Gradient at z, then DDIM from the moved z: written out with autograd and no noise."""
    z, denoiser = start, network(process)
    for node, to in pairwise(points(process, steps).nodes):
        for _ in range(inner):
            z = z.detach().requires_grad_(True)
            x0 = denoiser.posterior_mean(z, node).flatten(1)
            loss = (y - x0 @ TALL.T @ WIDE.T).norm(dim=1)
            z = z.detach() - weight * torch.autograd.grad(loss.sum(), z)[0]
        x0 = denoiser.posterior_mean(z, node)
        z = to.alpha * x0 + to.sigma * (z - node.alpha * x0) / node.sigma
    return z


@pytest.mark.parametrize("inner", [1, 3])
def test_stsl_without_the_trace_is_the_first_order_sampler(inner):
    y, start = draw(2, M, seed=3), draw(2, 1, 1, D, seed=9)
    plain = first_order_loop(y, start, 6, inner, 0.2, PROCESSES["vp"]())
    common = {"inner_steps": inner, "data_weight": 0.2, "eta": 0.0}
    found = [
        solve(STSL(**common, **fields), y, start=start)
        for fields in ({"hessian_weight": 0.0}, {"hessian_weight": 0.0, "probe": "unit"},
                       {"hessian_weight": 0.02, "probe": "none"})
    ]  # fmt: skip
    torch.testing.assert_close(found[0].sample, plain, rtol=1e-8, atol=1e-8)
    for other in found[1:]:
        assert torch.equal(other.sample, found[0].sample)  # bit for bit
        assert other.forward == found[0].forward == 6 * (inner + 1)
    joint = solve(STSL(**common), y, start=start, case={**TALL_CASE, "operator": Dense(WIDE, (1, 1, 12))})
    assert torch.equal(joint.sample, found[0].sample)


@pytest.mark.parametrize("probe", ["unit", "relative"])
def test_the_trace_changes_nothing_for_a_gaussian_prior(probe):
    """Its Hessian is constant. Fresh noise is the same with and without the term."""
    y = draw(2, M, seed=3)
    pair = [
        solve(STSL(hessian_weight=weight, probe=probe, data_weight=0.2), y, prior=gaussian).sample
        for weight in (0.0, 5.0)
    ]
    torch.testing.assert_close(*pair, rtol=0, atol=1e-6)
    moved = solve(STSL(hessian_weight=5.0, probe=probe, data_weight=0.2), y).sample
    assert not torch.allclose(
        moved, solve(STSL(probe=probe, data_weight=0.2), y).sample, atol=1e-3
    )  # a mixture's is not


@pytest.mark.parametrize("inner", [1, 5, 100])
def test_inner_steps_are_the_closed_form(inner):
    """Gaussian prior, squared loss: with G = A D J the residual after K steps is (1 - 2 l G G^T)^K r."""
    process, weight = PROCESSES["vp"](), 0.3
    y, z, node = draw(2, M, seed=3), draw(2, 1, 1, D, seed=9), process.at(400)
    method = STSL(inner_steps=inner, data_weight=weight, loss="squared", probe="none")
    problem = Problem(Dense(WIDE, (1, 1, 12)), y, 0.0, **coders(TALL))
    plan = method.plan(process, Grid((node, CLEAN)))
    found = method.estimate(plan.steps[0], z, Prior(gaussian(process), process), problem, Draws())
    variance = np.linspace(0.3, 1.2, D) ** 2
    joint = WIDE.numpy() @ TALL.numpy()
    g = joint * (node.alpha * variance / (node.alpha**2 * variance + node.sigma**2))
    off = y.numpy() - gaussian(process).posterior_mean(z, node).flatten(1).numpy() @ joint.T
    left = off @ np.linalg.matrix_power(np.eye(M) - 2 * weight * g @ g.T, inner)
    exact = z.flatten(1).numpy() + (off - left) @ np.linalg.pinv(g).T
    np.testing.assert_allclose(found.x.flatten(1).numpy(), exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(y.numpy() - found.x0.flatten(1).numpy() @ joint.T, left, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.residual.numpy(), np.sqrt((off**2).mean(1)), rtol=1e-5)


def exact_score(process, node):
    mean = network(process).posterior_mean
    return lambda x: (node.alpha * mean(x, node) - x) / node.sigma**2


def test_the_surrogate_loss_is_the_published_one():
    """One inner step: d/dz of l |r| + (h / d) n^T (s(z + n) - s(z)), with the same n."""
    process = PROCESSES["vp"]()
    y, z, node = draw(2, M, seed=3), draw(2, 1, 1, D, seed=9), process.at(300)
    problem = Problem(Dense(WIDE, (1, 1, 12)), y, 0.0, **coders(TALL))
    for probe, delta in (("unit", 1.0), ("relative", 0.3 * node.sigma)):
        method = STSL(data_weight=0.4, hessian_weight=0.7, probe=probe)
        prior = Prior(network(process), process)
        found, residual = method.inner_step(node, z, prior, problem, Draws(generators([4, 5])))
        n = torch.stack([torch.randn(1, 1, D, generator=g) for g in generators([4, 5])]).double()
        leaf = z.clone().requires_grad_(True)
        s, x0 = exact_score(process, node), network(process).posterior_mean(leaf, node)
        r = y - x0.flatten(1) @ TALL.T @ WIDE.T
        trace = (n * (s(leaf + delta * n) - s(leaf))).flatten(1).sum(1) / (delta * D)
        (0.4 * r.norm(dim=1) + 0.7 * trace).sum().backward()
        torch.testing.assert_close(found, z - leaf.grad, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(residual, r.detach(), rtol=1e-7, atol=1e-7)
        assert (prior.forward, prior.backward) == (2, 1)


def test_probes_of_a_quadratic_find_the_trace():
    """Gaussian prior, any delta: probes sqrt(d) e_i average to the trace exactly, random ones within their error."""
    process = PROCESSES["vp"]()
    node = process.at(300)
    scores = lambda x: score(node, x, gaussian(process).posterior_mean(x, node))  # noqa: E731
    variance = torch.linspace(0.3, 1.2, D).double() ** 2
    hessian = -1 / (node.alpha**2 * variance + node.sigma**2)
    z = draw(1, 1, 1, D, seed=9)
    basis = math.sqrt(D) * torch.eye(D, dtype=torch.float64).reshape(D, 1, 1, D)
    normal = draw(20000, 1, 1, D, seed=2)
    for delta in (1e-3, 0.3, 1.0, 5.0):
        along = probed_trace(basis, scores(z), scores(z + delta * basis), delta)
        assert float(along.mean()) == pytest.approx(float(hessian.mean()), rel=1e-9)
        found = probed_trace(normal, scores(z), scores(z + delta * normal), delta)
        squares = float(hessian.square().sum())
        error = math.sqrt(2 * squares / D**2 / 20000)  # variance of n^T H n is 2 |H|^2
        assert abs(float(found.mean() - hessian.mean())) < 4 * error
        # its excess kurtosis is 12 tr H^4 / (tr H^2)^2, and (kurtosis - 1) / 4N the relative variance of a deviation
        off = math.sqrt((2 + 12 * float(hessian.pow(4).sum()) / squares**2) / (4 * 20000))
        assert float(found.std()) == pytest.approx(error * math.sqrt(20000), rel=4 * off)


@pytest.mark.parametrize("t", [300, 500, 900])
def test_relative_probes_find_the_exact_trace_and_its_gradient_in_a_mixture(t):
    """Against the Jacobian of the score by automatic differentiation.

    By Stein's lemma probes of length delta average to the trace of the Hessian averaged over a Gaussian of that width:
    both means are compared within four standard errors of their difference. The gradient is that of the trace itself.
    """
    process = PROCESSES["vp"]()
    means, scales = torch.from_numpy(MEANS[:2]), torch.from_numpy(SCALES[:2])
    node = process.at(t)
    mean = oracle.mixture(process, means, scales).posterior_mean
    scores = lambda x: score(node, x, mean(x, node))  # noqa: E731
    z = (node.alpha * means.mean(0) + 0.3 * node.sigma * draw(D, seed=1)).reshape(1, 1, 1, D)
    of = lambda v: torch.trace(torch.func.jacrev(lambda u: scores(u.reshape(1, 1, 1, D)).flatten())(v)) / D  # noqa: E731
    slope = torch.func.grad(of)(z.flatten())
    count = 20000
    normal = draw(count // 2, 1, 1, D, seed=2)
    normal = torch.cat([normal, -normal])
    delta = probe_step("relative", 0.3, node)
    assert delta == pytest.approx(0.3 * node.sigma)
    leaf = z.expand(count, 1, 1, D).clone().requires_grad_(True)
    found = probed_trace(normal, scores(leaf), scores(leaf + delta * normal), delta)
    gradient = torch.autograd.grad(found.mean(), leaf)[0].sum(0).flatten()
    around = torch.vmap(of)(z.flatten() + delta * draw(2000, D, seed=3))
    pairs = found.detach().unflatten(0, (2, -1)).mean(0)  # of a probe and its mirror image
    error = math.sqrt(float(pairs.var()) / len(pairs) + float(around.var()) / len(around))
    assert abs(float(pairs.mean() - around.mean())) < 4 * error
    assert float(torch.nn.functional.cosine_similarity(gradient, slope, dim=0)) > 0.95


def test_presets_are_those_of_the_specification():
    paper = STSL.preset("paper")
    assert (STEPS, paper.inner_steps, paper.hessian_weight, paper.probe) == (50, 5, 0.02, "unit")
    assert (paper.eta, paper.data_weight, paper.gluing_weight, paper.init) == (0.0, 1.0, 0.0, "forward")
    assert paper.lift == "adjoint"
    assert paper == posterior_method("stsl-paper")
    ours = STSL.preset()
    assert ours == STSL() == posterior_method("stsl")
    assert (ours.hessian_weight, ours.inner_steps, ours.eta, ours.loss) == (0.0, 2, 1.0, "norm")
    assert (ours.probe, ours.probe_scale) == ("relative", 0.3)
    assert STSL.preset("paper", hessian_weight=0).inner_steps == 5
    assert set(PRESETS) == {"default", "paper"}
    assert (PSLD().data_weight, PSLD().gluing_weight, PSLD().eta) == (1.0, 0.1, 0.0)
    box = posterior_method("psld-box")
    assert (box.data_weight, box.gluing_weight) == (0.1, 0.01)
    assert (P2L().step_size, P2L().prox_weight, P2L().every) == (0.05, 1.0, 8)
    assert (LatentDDNM().latent_weight, LatentDDNM().picture_weight) == (0.5, 1.0)
    assert posterior_method("decode-project-encode") == LatentDDNM()


def test_evaluations_of_the_published_runs():
    """2TK + T = 550 forward, TK + T = 300 without the second term, TK = 250 backward."""
    process = PROCESSES["vp"]()
    for method, forward, backward in (
        (STSL.preset("paper"), 550, 250),
        (STSL.preset("paper", hessian_weight=0), 300, 250),
        (STSL.preset("paper", probe="none"), 300, 250),
        (STSL(), 150, 100),
        (STSL(init="ddim-inversion"), 200, 100),
        (PSLD(), 50, 50),
        (LatentDDNM(), 50, 0),
    ):
        cost = method.cost(method.plan(process, points(process, STEPS)))
        assert (cost.forward, cost.backward) == (forward, backward)


VARIANTS = [
    *[(name, {}) for name in LATENT],
    ("stsl-paper", {}),
    ("stsl", {"hessian_weight": 0.01, "gluing_weight": 0.1}),
    ("stsl", {"init": "ddim-inversion"}),
    ("stsl", {"init": "noise"}),
    ("stsl", {"travel_length": 2, "travel_repeats": 2, "step_sampler": "exponential-adams"}),
    ("psld", {"gluing_weight": 0.0}),
    ("p2l", {"every": 2, "travel_repeats": 2}),
    ("p2l", {"every": 0}),
]


@pytest.mark.parametrize(("name", "fields"), VARIANTS)
def test_every_evaluation_is_counted_and_known_beforehand(name, fields):
    """Of the network, and of both coders, backward passes too."""
    method, process = posterior_method(name, **fields), PROCESSES["vp"]()
    calls, inner = [], network(process)

    def counting(x, t):
        calls.append(t)
        return inner(x, t)

    made = coders(TALL)
    decode, encode = Counted(made["decode"]), Counted(made["encode"])
    result = solve(method, draw(2, M, seed=3), prior=lambda _: counting,
                   case={**TALL_CASE, "decode": decode, "encode": encode})  # fmt: skip
    plan = method.plan(process, points(process))
    cost, coder = method.cost(plan), method.coder_cost(plan)
    assert result.forward == len(calls) == cost.forward
    assert result.backward == cost.backward
    assert (cost.backward > 0) == method.gradient
    assert (decode.forward - 1, encode.forward) == (coder.decode, coder.encode)  # one decoding for the final residual
    assert (decode.backward, encode.backward) == (coder.decode_backward, coder.encode_backward)
    assert result.trace.shape == (sum(not move.up for move in plan.moves), 2)
    assert torch.isfinite(result.trace).all()
    made_y = (made["decode"](result.sample).flatten(1) @ WIDE.T - draw(2, M, seed=3)).square().mean(1).sqrt()
    torch.testing.assert_close(result.residual.double(), made_y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "fields"), VARIANTS)
def test_a_sample_does_not_depend_on_its_batch_mates(name, fields):
    method, y = posterior_method(name, **fields), draw(3, M, seed=3)
    together = solve(method, y, steps=4, generator=generators([5, 6, 7])).sample
    turned = solve(method, y[[2, 0, 1]], steps=4, generator=generators([7, 5, 6])).sample
    alone = solve(method, y[1:2], steps=4, generator=generators([6])).sample
    torch.testing.assert_close(turned, together[[2, 0, 1]], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-7, atol=1e-7)
    assert torch.equal(solve(method, y, steps=4, generator=generators([5, 6, 7])).sample, together)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("name", [*LATENT, "stsl-paper"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_data_lower_the_misfit(name, kind):
    """Below that of the prior alone with the same noise, and below where it began."""
    y = (torch.from_numpy(MIXTURE.draw(4, np.random.default_rng(2))) @ TALL.T @ WIDE.T).double()
    fields = {"p2l": {"step_size": 0.5}, "stsl-paper": {"data_weight": 0.3}, "stsl": {"data_weight": 0.3}}
    result = solve(posterior_method(name, **fields.get(name, {})), y, kind, steps=20)
    alone = solve(LatentDPS(step_size=0), y, kind, steps=20)
    assert result.residual.mean() < alone.residual.mean()
    assert result.residual.mean() < result.trace[0].mean()


@pytest.mark.parametrize("name", LATENT)
def test_float32_follows_float64(name):
    y = draw(1, M, seed=3)
    pair = [solve(posterior_method(name), v, steps=4).sample for v in (y, y.float())]
    assert pair[1].dtype == torch.float32
    assert (pair[0] - pair[1]).norm() < 1e-3 * pair[0].norm()


def test_coders_of_half_precision_are_cast():
    made = coders(TALL)
    half = {
        "decode": lambda z: made["decode"](z.bfloat16()),
        "encode": lambda x: made["encode"](x.bfloat16()),
    }
    y = draw(1, M, seed=3).float()
    for name in LATENT:
        result = solve(posterior_method(name), y, steps=3, case={**TALL_CASE, **half})
        assert result.sample.dtype == torch.float32


def test_the_start_is_the_noised_encoding():
    """alpha E(clip(A^+ y)) + sigma n, or with A^T; inversion of it by DDIM is exact for a single point."""
    process, y = PROCESSES["vp"](), 3 * draw(2, M, seed=3)
    node, a, b = points(process).nodes[0], WIDE, torch.linalg.pinv(TALL)
    noise = draw(2, 1, 1, D, seed=4)
    problem = Problem(Dense(WIDE, (1, 1, 12)), y, 0.0, **coders(TALL))
    for lift, matrix in (("pseudo-inverse", torch.linalg.pinv(a)), ("adjoint", a.T)):
        method = STSL(lift=lift, rcond=0)
        found = method.start(method.plan(process, points(process)), problem, noise)
        exact = node.alpha * (y @ matrix.T).clamp(-1, 1) @ b.T + node.sigma * noise.flatten(1)
        torch.testing.assert_close(found.flatten(1), exact)
    found = STSL(init="noise").start(STSL().plan(process, points(process)), problem, noise)
    torch.testing.assert_close(found, noise * math.hypot(node.alpha, node.sigma))


def test_inversion_comes_back():
    """Up by DDIM and down again without data: near the start, and the same for every seed."""
    y = 0.3 * draw(1, M, seed=3).expand(2, -1)
    method = STSL(init="ddim-inversion", data_weight=0, eta=0)
    found = solve(method, y, steps=100, prior=gaussian).sample
    assert torch.equal(found[0], found[1])
    start = (y @ torch.linalg.pinv(WIDE).T).clamp(-1, 1) @ torch.linalg.pinv(TALL).T
    assert (found.flatten(1) - start).norm() < 0.1 * start.norm()
    given = draw(2, 1, 1, D, seed=8)
    again = solve(method, y, steps=100, prior=gaussian, start=given).sample
    assert (again - given).norm() < 0.1 * given.norm()


def test_an_identity_without_noise_gives_the_measurement():
    """A = 1 and an orthogonal decoder: the picture is y, within the length of the last gradient steps."""
    case = {"operator": Dense(torch.eye(D).double(), (1, 1, D)), **coders(TURN), "shape": (1, 1, D)}
    x = torch.from_numpy(MIXTURE.draw(2, np.random.default_rng(4)))
    y = x @ TURN.T
    method = STSL(inner_steps=20, loss="squared", data_weight=0.1)
    result = solve(method, y, steps=30, prior=gaussian, case=case)
    picture = case["decode"](result.sample).flatten(1)
    assert (picture - y).abs().max() < 0.02
    assert (result.residual < 0.02).all()


def test_forward_operators_will_do_without_an_adjoint():
    """A decoder by replication and a JPEG: only gradients of A are asked for."""
    process, jpeg = PROCESSES["vp"](), Jpeg(30)
    decode = lambda z: z.repeat_interleave(2, -2).repeat_interleave(2, -1)  # noqa: E731
    encode = lambda x: torch.nn.functional.avg_pool2d(x, 2)  # noqa: E731
    prior = oracle.mixture(process, 0.5 * draw(3, 3 * 8 * 8, seed=1), torch.full((3,), 0.4, dtype=torch.float64))
    y = jpeg.A(decode(0.5 * draw(1, 3, 8, 8, seed=2)).clamp(-1, 1))
    case = {"operator": jpeg, "decode": decode, "encode": encode, "shape": (3, 8, 8)}
    plain = solve(LatentDPS(step_size=0), y, prior=lambda _: prior, case=case, steps=15)
    for method in (STSL(init="noise"), PSLD(gluing_weight=0), LatentDPS()):
        result = solve(method, y, prior=lambda _: prior, case=case, steps=15)
        assert result.residual[0] < 0.9 * plain.residual[0]
    for method, advice in ((STSL(), "init to 'noise'"), (STSL(init="noise", gluing_weight=1), "gluing_weight to 0"),
                           (PSLD(), "gluing_weight to 0"), (P2L(), "linear"), (LatentDDNM(), "linear")):  # fmt: skip
        with pytest.raises(TypeError, match=advice):
            solve(method, y, prior=lambda _: prior, case=case)


def test_pictures_and_masks():
    """A decoder by replication, (4, h, w) to (3, 2h, 2w), for an inpainting and an average."""
    process = PROCESSES["vp"]()
    mix = draw(3, 4, seed=6) / 2
    decode = lambda z: torch.einsum("ij,bjhw->bihw", mix.to(z), z).repeat_interleave(2, -2).repeat_interleave(2, -1)  # noqa: E731
    back = torch.linalg.pinv(mix)
    encode = lambda x: torch.einsum("ij,bjhw->bihw", back.to(x), torch.nn.functional.avg_pool2d(x, 2))  # noqa: E731
    prior = oracle.mixture(process, 0.6 * draw(3, 4 * 6 * 4, seed=1), torch.full((3,), 0.4, dtype=torch.float64))
    for operator in (Mask((draw(12, 8, seed=2) > 0).double()), AveragePool(4, (12, 8))):
        y = operator.A(decode(0.5 * draw(1, 4, 6, 4, seed=2)).clamp(-1, 1))
        case = {"operator": operator, "decode": decode, "encode": encode, "shape": (4, 6, 4)}
        alone = solve(LatentDPS(step_size=0), y, prior=lambda _: prior, case=case, steps=15).residual
        for name in LATENT:
            fields = {"step_size": 0.5} if name == "p2l" else {}
            result = solve(posterior_method(name, **fields), y, prior=lambda _: prior, case=case, steps=15)
            assert result.sample.shape == (1, 4, 6, 4)
            assert result.residual[0] < alone[0], name


def distance(method, steps: int, cases: int = 16, count: int = 64) -> np.ndarray:
    """Sliced Wasserstein distances to exact posteriors over their spread, (cases,), latents turned by the decoder."""
    process, rng = PROCESSES["vp"](), np.random.default_rng(5)
    y = MIXTURE.draw(cases, rng) @ MATRIX.T + SIGMA_Y * rng.standard_normal((cases, M))
    result = solve(
        method, torch.from_numpy(y).repeat_interleave(count, 0), case=TURNED_CASE, sigma_y=SIGMA_Y,
        generator=torch.Generator().manual_seed(0), grid=make_grid(process, steps, GridOptions(spacing="trailing")),
    )  # fmt: skip
    samples, found = result.sample.reshape(cases, count, D).numpy(), []
    for k in range(cases):
        exact = MIXTURE.given(MATRIX, y[k], SIGMA_Y)
        draws = exact.draw(count, np.random.default_rng(100 + k))
        found.append(sliced_wasserstein(samples[k], draws, np.random.default_rng(1)) / exact.spread)
    return np.array(found)


def test_what_helps_in_a_mixture_is_the_inner_loop_with_fresh_noise():
    """50 levels, step sizes tuned: our default, several inner steps with DDIM, and those with the published term."""
    tuned = {"data_weight": 1.0, "loss": "squared"}
    ours = distance(STSL(**tuned), 50)
    first = distance(STSL.preset("paper", hessian_weight=0, **tuned), 50)
    paper = distance(STSL.preset("paper", **tuned), 50)
    assert surely_less(ours, first)
    assert surely_less(first, paper)


def test_the_network_s_noise_is_the_one_to_keep_between_projections():
    kept = {kept: distance(LatentDDNM(clip_picture=False, kept_noise=kept), 60) for kept in ("network", "implied")}
    assert surely_less(kept["network"], kept["implied"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STSL.preset("papr"), "did you mean 'paper'"),
        (lambda: STSL(inner_steps=0), "at least 1"),
        (lambda: STSL(probe="units"), "one of"),
        (lambda: STSL(hessian_weight=-0.1), "at least 0"),
        (lambda: STSL(data_weight=math.nan), "data_weight"),
        (lambda: posterior_method("sttl"), "did you mean 'stsl'"),
        (lambda: P2L(every=-1), "at least 0"),
        (lambda: LatentDDNM(latent_weight=1.2), "in \\[0, 1\\]"),
        (lambda: solve(STSL(), draw(1, M), case={**TALL_CASE, "decode": None}), "decoder and an encoder"),
        (lambda: solve(STSL(), draw(1, M), case={**TALL_CASE, "shape": None}), "shape of one latent"),
        (lambda: solve(STSL(), draw(1, M), case={**TALL_CASE, "encode": lambda x: x}), "the encoder makes latents"),
        (
            lambda: solve(LatentDPS(), draw(1, M), case={**TALL_CASE, "decode": torch.no_grad()(TALL_CASE["decode"])}),
            "has no gradient",
        ),
        (lambda: solve(LatentDPS(), draw(1, 1)), "makes measurements of"),
        (lambda: solve(STSL(data_weight=1e200, loss="squared"), draw(1, M)), "diverged"),
    ],
)
def test_what_cannot_work_is_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", LATENT)
def test_hooks_and_callbacks(name):
    y, pasted, seen = draw(1, M, seed=3), draw(1, 1, 1, D, seed=8), []
    method = posterior_method(name)
    if method.gradient and name != "stsl":
        method = dataclasses.replace(method, **{"data_weight" if name == "psld" else "step_size": 0.0})
    if name == "psld":
        method = dataclasses.replace(method, gluing_weight=0.0)
    over = torch.zeros(D).double()
    over[:3] = 1
    result = solve(method, y, after=lambda x0, node: over * pasted + (1 - over) * x0,
                   callback=lambda i, moved: seen.append(i))  # fmt: skip
    assert torch.equal(result.sample[..., :3], pasted[..., :3])
    assert seen == list(range(6))
