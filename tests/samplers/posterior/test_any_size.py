"""Pictures larger than the network's window: layouts, the canvas, mask-shift and hierarchical restoration.

The prior is a Gaussian random field with covariance S^2 exp(-(|dx| + |dy|) / L), whose denoiser is exact for windows of
every size: what a window alone can know. The same field on the whole picture is what windows are compared with.
"""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.samplers import GridOptions, generators, make_grid
from fewstep.samplers.core.oracle import _as_prediction
from fewstep.samplers.posterior import (
    WindowedDenoiser,
    Windows,
    posterior_method,
    reduced_problem,
    run_canvas,
    run_hir,
    run_msr,
    run_posterior,
    seam_ratio,
    windows_cost,
)
from fewstep.samplers.posterior.inset import Inset, Replicate, blockmeans, inset
from fewstep.samplers.posterior.local import restriction
from fewstep.samplers.posterior.msr import usual_margin
from fewstep.samplers.posterior.operators import (
    AveragePool,
    Dense,
    GaussianBlur,
    Grey,
    Identity,
    Jpeg,
    Mask,
    MirrorBlur,
    Resample,
    compose,
    motion_kernel,
)
from fewstep.samplers.posterior.windows import Box
from problems import PROCESSES

LENGTH, SCALE = 4.0, 0.5
H, W, P = 64, 96, 32


class Field:
    """E[x0 | x] of the random field on pictures of any size."""

    def __init__(self, process) -> None:
        self.process, self.made, self.largest = process, {}, 0

    def line(self, n: int):
        if n not in self.made:
            k = torch.arange(n, dtype=torch.float64)
            self.made[n] = torch.linalg.eigh(torch.exp(-(k[:, None] - k).abs() / LENGTH))
        return self.made[n]

    def __call__(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        self.largest = max(self.largest, len(x))
        node = self.process.at(timestep)
        (lh, uh), (lw, uw) = self.line(x.shape[-2]), self.line(x.shape[-1])
        variance = (SCALE**2 * lh[:, None] * lw).to(x)
        uh, uw = uh.to(x), uw.to(x)
        gain = node.alpha * variance / (node.alpha**2 * variance + node.sigma**2)
        return _as_prediction(self.process, node, x, uh @ (gain * (uh.T @ x @ uw)) @ uw.T)

    def draw(self, *shape: int, seed: int = 0) -> torch.Tensor:
        (lh, uh), (lw, uw) = self.line(shape[-2]), self.line(shape[-1])
        return SCALE * (uh * lh.sqrt()) @ noise(*shape, seed=seed) @ (uw * lw.sqrt()).T


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PROCESS = PROCESSES["vp"]()
GRID = make_grid(PROCESS, 12, GridOptions(spacing="logsnr"))
FIELD = Field(PROCESS)
TRUTH = FIELD.draw(4, 1, H, W)
HOLE = torch.ones(H, W)
HOLE[16:51, 21:70] = 0
SOME = noise(H, W, seed=5) > 0
LOCAL = {
    "identity": Identity(),
    "mask": Mask(SOME),
    "pool": AveragePool(4, (H, W)),
    "bicubic": Resample((H, W), 2),
    "area": Resample((H, W), 4, kernel="area"),
    "gaussian blur": GaussianBlur((H, W), 1.0, 7),
    "motion blur": MirrorBlur(motion_kernel(5), (H, W)),
    "mask, pool": compose(Mask(SOME), AveragePool(2, (H, W))),
}


def solve(runner, operator, y, method="ddnm", window=P, seeds=None, **options):
    found = posterior_method(method) if isinstance(method, str) else method
    options.setdefault("generator", generators(seeds or range(len(y))))
    return runner(FIELD, found, PROCESS, GRID, operator, y, window=window, **options)


def plain(operator, y, method="ddnm", **options):
    found = posterior_method(method)
    return run_posterior(FIELD, found, PROCESS, GRID, operator, y, generator=generators(range(len(y))), **options)


@pytest.mark.parametrize("size", [(256, 256), (512, 768), (1024, 1268), (300, 257), (2160, 3840), (257, 1000)])
def test_windows_are_as_many_as_published_and_cover_every_pixel(size):
    windows = Windows.covering(size, 256)
    expected = math.prod(math.ceil(side / 128) - 1 for side in size)
    assert len(windows) == len(list(windows)) == expected
    covered = torch.zeros(size, dtype=torch.int32)
    for box in windows:
        assert box.size == (256, 256)
        assert min(box.top, box.left) >= 0
        assert box.bottom <= size[0]
        assert box.right <= size[1]
        box.of(covered).add_(1)
    assert covered.min() >= 1


@pytest.mark.parametrize("kind", ["tapered", "uniform"])
def test_weights_of_windows_sum_to_one_everywhere(kind):
    windows = Windows.covering((70, 45), 16, (11, 7))
    vertical, horizontal = windows.weights(kind)
    total = torch.zeros(windows.size, dtype=torch.float64)
    for i, box in enumerate(windows):
        row, column = divmod(i, len(windows.columns))
        box.of(total).add_(vertical[row][:, None] * horizontal[column])
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-14, atol=0)
    assert all((part == 1).all() for part in Windows.covering((16, 16), 16).weights(kind))


def test_seam_ratio_finds_a_step_of_known_height():
    windows = Windows.covering((8, 32), (8, 16), (8, 8))
    ramp = torch.arange(32.0).expand(1, 1, 8, 32).clone()
    down = torch.arange(8.0)[:, None]
    assert seam_ratio(ramp + 0 * down, windows) == pytest.approx(1.0)
    ramp[..., 16:] += 2.0  # borders lie before columns 8, 16 and 24: steps 1, 3, 1
    assert seam_ratio(ramp, windows) == pytest.approx(5 / 3)
    ramp[..., 24:] += 4.0  # windows of a sequence end before columns 16 and 24: steps 3, 5; elsewhere 1
    assert seam_ratio(ramp, windows, sequence=True) == pytest.approx(4.0)
    ramp[..., 14:] += 1.0  # and 2 pixels earlier, where they leave a margin: steps 2 and 1, elsewhere 28 times 1, 3, 5
    assert seam_ratio(ramp, windows, margin=2, sequence=True) == pytest.approx(1.5 / ((27 + 3 + 5) / 29))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Windows.covering((64, 64), 16, 20), "stride must be 1 to 16"),
        (lambda: Windows.covering((64, 64), 0), "window must be at least 1"),
        (lambda: Windows((8, 64), (16, 16), (8, 8)), "smaller than a window"),
        (lambda: Windows.covering((64, 64), 16).weights("taperd"), "tapered"),
        (lambda: WindowedDenoiser(FIELD, Windows.covering((64, 64), 16), batch=0), "at least one window"),
    ],
)
def test_bad_layouts_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_windowed_prediction_is_the_mean_over_windows_and_bounded_in_memory():
    windows, x = Windows.covering((H, W), P), noise(2, 1, H, W, seed=1)
    field, total, count = Field(PROCESS), torch.zeros(2, 1, H, W).double(), torch.zeros(H, W).double()
    found = WindowedDenoiser(field, windows, batch=4, weights="uniform")
    result = found(x, 300.0)
    for box in windows:
        box.of(total).add_(FIELD(box.of(x), 300.0))
        box.of(count).add_(1)
    torch.testing.assert_close(result, total / count)
    assert field.largest == 4
    assert found.evaluations == len(windows)


@pytest.mark.parametrize("batch", [1, 5])
def test_gradients_through_windows_are_those_of_the_whole_map(batch):
    windows, v = Windows.covering((40, 48), 16), noise(2, 1, 40, 48, seed=2)
    x = noise(2, 1, 40, 48, seed=3).requires_grad_(True)
    (found,) = torch.autograd.grad(WindowedDenoiser(FIELD, windows, batch)(x, 200.0), x, v)
    # the map is linear and self-adjoint up to its weights: compare with finite differences along a direction
    u = noise(2, 1, 40, 48, seed=4)
    tiled = WindowedDenoiser(FIELD, windows, 8)
    with torch.no_grad():
        slope = (tiled(x + u, 200.0) - tiled(x - u, 200.0)) / 2
    torch.testing.assert_close((found * u).sum(), (slope * v).sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*(name for name in LOCAL if name != "motion blur"), "hole", "sr4"])
def test_canvas_meets_the_data_of_the_whole_picture(name):
    operator = {**LOCAL, "hole": Mask(HOLE), "sr4": Resample((H, W), 4)}[name]
    y = operator.A(TRUTH)
    result = solve(run_canvas, operator, y, posterior_method("ddnm", rcond=1e-4))
    off = (y - operator.A(result.sample)).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
    assert off.max() < 1e-4
    assert result.forward == 12 * len(Windows.covering((H, W), P))


@pytest.mark.parametrize("name", ["sr4", "hole", "mask", "pool"])
def test_canvas_shows_no_seams_and_agrees_with_a_network_of_that_size(name):
    operator = {**LOCAL, "hole": Mask(HOLE), "sr4": Resample((H, W), 4)}[name]
    y = operator.A(TRUTH)
    tiled, whole = solve(run_canvas, operator, y).sample, plain(operator, y).sample
    windows, period = Windows.covering((H, W), P), 4 if name == "pool" else 1
    ratio = seam_ratio(tiled, windows, period)
    assert ratio <= 1.05
    assert ratio == pytest.approx(seam_ratio(whole, windows, period), abs=0.01)
    assert (tiled - whole).square().mean().sqrt() < 0.05 * SCALE
    mean = solve(run_canvas, operator, y, weights="uniform").sample
    assert seam_ratio(mean, windows, period) > ratio + 0.03  # what the tapered weights are for


@pytest.mark.parametrize("method", ["dps", "pigdm", "diffpir", "daps", "red-diff", "ddrm", "ddnm-2m"])
def test_canvas_runs_any_method(method):
    operator = AveragePool(4, (40, 48))
    y = operator.A(TRUTH[:2, :, :40, :48])
    field = Field(PROCESS)
    grid = make_grid(PROCESS, 6, GridOptions(spacing="logsnr"))
    found = posterior_method(method)
    result = run_canvas(
        field, found, PROCESS, grid, operator, y, window=16, batch=4, sigma_y=0.05, generator=generators([0, 1])
    )
    cost = windows_cost(found, PROCESS, grid, Windows.covering((40, 48), 16))
    assert torch.isfinite(result.sample).all()
    assert field.largest <= 4
    assert (result.forward, result.backward) == (cost.forward, cost.backward)


def test_canvas_takes_latents_and_warm_starts():
    operator, z = AveragePool(4, (80, 96)), noise(1, 1, 40, 48, seed=6)
    y = operator.A(TRUTH[:1, :, :40, :48].repeat_interleave(2, 2).repeat_interleave(2, 3))
    coder = {
        "decode": lambda v: v.repeat_interleave(2, 2).repeat_interleave(2, 3),
        "encode": lambda v: blockmeans(v, 2),
    }
    node = GRID.nodes[0]
    start = node.alpha * TRUTH[:1, :, :40, :48] + node.sigma * z
    for method in ("ddnm-latent", "latent-dps"):
        options = {"shape": (1, 40, 48), "start": start, **coder}
        tiled, whole = solve(run_canvas, operator, y, method, **options), plain(operator, y, method, **options)
        assert (tiled.sample - whole.sample).square().mean().sqrt() < 0.05 * SCALE
        assert (tiled.forward, tiled.backward) == (4 * whole.forward, 4 * whole.backward)  # 2 x 2 windows
    with pytest.raises(ValueError, match="do not fill windows"):
        solve(run_canvas, operator, y, "latent-dps", shape=(1, 10, 48), **coder)
    with pytest.raises(ValueError, match=r"shape .* of the canvas"):
        solve(run_canvas, Identity(), TRUTH[:1, :, :5, :5], window=16, start=TRUTH[:1, :, :5, :5])


@pytest.mark.parametrize("runner", [run_canvas, run_msr])
@pytest.mark.parametrize("method", ["ddnm", "diffpir", "dps", "daps"])
def test_one_window_is_the_plain_method_bit_for_bit(runner, method):
    operator = AveragePool(4, (P, P))
    y = operator.A(TRUTH[..., :P, :P]).float()
    result, expected = solve(runner, operator, y, method, sigma_y=0.1), plain(operator, y, method, sigma_y=0.1)
    assert torch.equal(result.sample, expected.sample)
    assert torch.equal(result.trace, expected.trace)
    assert torch.equal(result.residual, expected.residual)
    assert (result.forward, result.backward) == (expected.forward, expected.backward)


@pytest.mark.parametrize("runner", [run_canvas, run_msr, run_hir])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (13, 50)])
def test_pictures_smaller_than_a_window(runner, size):
    truth = TRUTH[:2, :, : size[0], : size[1]]
    result = solve(runner, Identity(), truth, window=16)
    torch.testing.assert_close(result.sample, truth)
    if size[0] % 2 == 0 or size[0] == 1:
        return
    mask = Mask(SOME[: size[0], : size[1]])
    found = solve(runner, mask, mask.A(truth), window=16).sample
    assert torch.equal(mask.A(found), mask.A(truth))
    assert found.shape == truth.shape


@pytest.mark.parametrize("name", ["pool", "mask", "gaussian blur"])
def test_msr_never_changes_finished_pixels_and_finishes_all(name):
    operator, seen = LOCAL[name], []
    y = operator.A(TRUTH)

    def told(k, canvas, finished):
        assert k == len(seen)
        if seen:
            before, held = seen[-1]
            assert torch.equal(canvas[..., held], before[..., held])
            assert (finished >= held).all()
        seen.append((canvas.clone(), finished.clone()))

    result = solve(run_msr, operator, y, "diffpir", sigma_y=0.02, on_window=told)
    canvas, finished = seen[-1]
    assert finished.all()
    assert torch.equal(result.sample, canvas)
    windows = Windows.covering((H, W), P)
    assert len(seen) == len(windows)
    assert result.forward == windows_cost(posterior_method("diffpir"), PROCESS, GRID, windows).forward
    assert result.trace.shape == (12 * len(windows), 4)


@pytest.mark.parametrize("name", ["identity", "mask", "pool", "area", "mask, pool"])
def test_msr_meets_block_data_exactly(name):
    operator = LOCAL[name]
    y = operator.A(TRUTH)
    result = solve(run_msr, operator, y)
    assert (y - operator.A(result.sample)).norm() / y.norm() < 1e-4
    assert result.residual.max() < 1e-4


def test_msr_meets_data_over_borders_nearly():
    operator = LOCAL["bicubic"]
    y = operator.A(TRUTH)
    result = solve(run_msr, operator, y)
    assert (y - operator.A(result.sample)).norm() / y.norm() < 0.01


@pytest.mark.parametrize(("name", "period"), [("pool", 4), ("mask", 1), ("bicubic", 2), ("hole", 1)])
def test_msr_shows_no_seams_by_default(name, period):
    """At most 1.05 at both ends of the margin: where windows finish, and where what they left fades out.

    A picture of which blocks or every second row is measured shows them, restored as a whole or in windows; borders are
    compared with lines at the same place within a block.
    """
    operator = {**LOCAL, "hole": Mask(HOLE)}[name]
    truth = FIELD.draw(8, 1, H, W, seed=3)
    y, windows = operator.A(truth), Windows.covering((H, W), P)
    made = solve(run_msr, operator, y).sample
    assert max(seam_ratio(made, windows, period, margin, sequence=True) for margin in (0, P // 4)) <= 1.05


def test_a_margin_is_made_of_whole_blocks_and_has_room():
    operator = LOCAL["pool"]
    y, laid = operator.A(TRUTH), Windows.covering((H, W), P)
    for margin in (1, 3, None):  # 4 pixels, 4 and 8
        made = solve(run_msr, operator, y, margin=margin)
        assert (y - operator.A(made.sample)).norm() / y.norm() < 1e-4
    assert usual_margin(laid, 1) == usual_margin(laid, 4) == P // 4
    assert usual_margin(laid, 3) == 6
    assert usual_margin(laid, 16) == 0  # half of the overlap is less than a block
    assert usual_margin(Windows.covering((H, W), P, 28), 1) == 2
    assert restriction(LOCAL["area"]).block == restriction(operator).block == 4
    assert restriction(LOCAL["mask, pool"]).block == 2
    assert restriction(LOCAL["bicubic"]).block == restriction(LOCAL["gaussian blur"]).block == 1


@pytest.mark.parametrize("name", LOCAL)
def test_a_window_sees_its_part_of_y_and_settles_pixels_on_which_nothing_else_depends(name):
    operator = LOCAL[name]
    local, other = restriction(operator), noise(1, 1, H, W, seed=8)
    for box in (Box(0, 0, P, P), Box(16, 48, P, P), Box(32, 64, P, P)):
        found, seen = local.at(box)
        expected = seen.of(operator.A(TRUTH))
        torch.testing.assert_close(found.A(box.of(TRUTH)), expected, rtol=1e-5, atol=1e-6)
        changed = other.clone()
        box.of(changed).copy_(box.of(TRUTH[:1]))
        torch.testing.assert_close(seen.of(operator.A(changed)), expected[:1], rtol=1e-5, atol=1e-6)
        settled, moved = box.common(local.settled(seen)), other.clone()
        assert min(settled.size) > 0
        settled.of(moved).add_(1.0)
        effect = operator.A(moved) - operator.A(other)
        seen.of(effect).zero_()
        assert effect.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("operator", "options", "says"),
    [
        (Resample((H, W), 4), {}, "overlap by less than twice"),
        (Resample((H, W), 4), {"window": 12}, "reaches further than a window"),
        (AveragePool(4, (H, W)), {"window": 30}, "cuts the blocks of 4 x 4"),
        (Dense(noise(5, H * W), (1, H, W)), {}, "take the canvas mode"),
        (Identity(), {"stride": 40}, "stride must be"),
        (Identity(), {"margin": 20}, "margin of 20"),
        (Identity(), {"start": torch.zeros(4, 1, 3, 3)}, "shape .* of the canvas"),
        (Identity(), {"method": "psld"}, "works on pixels"),
    ],
)
def test_msr_says_what_it_cannot_do(operator, options, says):
    with pytest.raises(ValueError, match=says):
        solve(run_msr, operator, operator.A(TRUTH), **options)


@pytest.mark.parametrize("mode", ["canvas", "msr"])
@pytest.mark.parametrize("name", ["pool", "hole"])
def test_hir_keeps_both_constraints_where_they_agree(mode, name):
    operator = LOCAL["pool"]
    if name == "hole":
        hole = torch.ones(H, W)
        hole[16:50, 22:70] = 0  # no block of 2 x 2 is cut
        operator = Mask(hole)
    y, semantic = operator.A(TRUTH), blockmeans(TRUTH, 2)
    result = solve(run_hir, operator, y, semantic=semantic, fade=0.0, mode=mode)
    assert (y - operator.A(result.sample)).norm() / y.norm() < 1e-4
    torch.testing.assert_close(blockmeans(result.sample, 2), semantic, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["canvas", "msr"])
def test_hir_makes_its_own_first_stage(mode):
    operator = Mask(HOLE)
    y = operator.A(TRUTH)
    result = solve(run_hir, operator, y, mode=mode)
    assert torch.equal(operator.A(result.sample), y)
    method = posterior_method("ddnm")
    both = [
        windows_cost(method, PROCESS, GRID, Windows.covering(size, P)).forward for size in ((H, W), (H // 2, W // 2))
    ]
    assert result.forward == sum(both)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", ["identity", "pool", "area", "hole"])
def test_the_reduced_problem_is_true_of_block_means(name, factor):
    operator = Mask(torch.ones(H, W).index_fill(0, torch.arange(20, 40), 0)) if name == "hole" else LOCAL[name]
    less = reduced_problem(operator, operator.A(TRUTH), 0.3, (H, W), factor)
    torch.testing.assert_close(less.operator.A(blockmeans(TRUTH, factor)), less.y, rtol=1e-6, atol=1e-7)
    assert less.sigma_y == (0.3 / factor if name == "identity" else 0.3)


@pytest.mark.parametrize("size", [(H, W), (H - 1, W - 3)])
@pytest.mark.parametrize("factor", [2, 3])
def test_the_reduced_operator_measures_pictures_that_are_flat_in_blocks(size, factor):
    for operator in (Resample(size, 2), MirrorBlur(motion_kernel(5), size), GaussianBlur(size, 1.0, 7), Jpeg(50)):
        small = noise(1, 3, -(-size[0] // factor), -(-size[1] // factor), seed=3) / 4
        flat = small.repeat_interleave(factor, 2).repeat_interleave(factor, 3)[..., : size[0], : size[1]]
        y = operator.A(flat)
        less = reduced_problem(operator, y, 0.0, size, factor)
        torch.testing.assert_close(less.operator.A(small), y, rtol=1e-6, atol=1e-7)


def test_hir_restores_odd_sizes_and_refuses_what_it_cannot_do():
    operator = Mask(HOLE[:61, :75])
    y = operator.A(TRUTH[..., :61, :75])
    assert torch.equal(operator.A(solve(run_hir, operator, y).sample), y)
    for options, says in (
        ({"factor": 0}, "factor of reduction"),
        ({"fade": 2.0}, "share of the steps"),
        ({"mode": "msrr"}, "msr"),
        ({"before": lambda x0, node: x0}, "sets 'before' itself"),
        ({"semantic": torch.zeros(4, 1, 5, 5)}, "semantic picture must have"),
        ({"mode": "msr", "window": 15}, "divisible by the factor"),
        ({"method": "psld"}, "works on pixels"),
    ):
        with pytest.raises(ValueError, match=says):
            solve(run_hir, operator, y, **options)


@pytest.mark.parametrize(
    "inner",
    [Resample((6, 9), 3), Mask(SOME[:6, :9]), Grey([0.5, 0.5]), None, MirrorBlur(motion_kernel(3), (6, 9))],
    ids=lambda inner: getattr(inner, "name", "crop"),
)
def test_an_inset_operator_has_the_matrix_of_a_crop_and_its_pseudo_inverse(inner):
    operator, n = Inset(inner, (8, 11), Box(1, 2, 6, 9)), 2 * 8 * 11
    matrix = operator.A(torch.eye(n).double().reshape(n, 2, 8, 11)).flatten(1).T
    y = operator.A(noise(1, 2, 8, 11)) + 0.1
    b, z = y.flatten(), noise(1, 2, 8, 11, seed=1)
    torch.testing.assert_close(operator.A_adjoint(y).flatten(), matrix.T @ b)
    normal = torch.eye(n).double() + 0.7 * matrix.T @ matrix
    expected = torch.linalg.solve(normal, z.flatten() + 0.7 * matrix.T @ b)
    torch.testing.assert_close(operator.prox_l2(z, y, 0.7).flatten(), expected, rtol=1e-5, atol=1e-6)
    if not isinstance(inner, MirrorBlur):
        torch.testing.assert_close(operator.A_dagger(y).flatten(), torch.linalg.pinv(matrix) @ b)
        found = operator.spectrum(y)
        torch.testing.assert_close(found.spread(found.s * found.analyse(z)), operator.A(z))
    outside = torch.ones(8, 11, dtype=torch.bool)
    outside[1:7, 2:11] = False
    assert torch.equal(operator.project(z, y)[..., outside], z[..., outside])


def test_replication_is_the_pseudo_inverse_of_block_means():
    x, operator = noise(1, 2, 3, 4), Replicate(3, (3, 4))
    matrix = operator.A(torch.eye(24).double().reshape(24, 2, 3, 4)).flatten(1).T
    y = noise(1, 2, 9, 12, seed=2)
    torch.testing.assert_close(operator.A_dagger(y), blockmeans(y, 3))
    torch.testing.assert_close(operator.A_dagger(y).flatten(), torch.linalg.pinv(matrix) @ y.flatten())
    torch.testing.assert_close(blockmeans(operator.A(x), 3), x)
    assert inset(operator, (3, 4), (3, 4)) is operator


@pytest.mark.parametrize("runner", [run_canvas, run_msr, run_hir])
def test_bad_measurements_are_refused_before_the_network_is_asked(runner):
    field = Field(PROCESS)
    for y, says in ((torch.full((1, 1, H, W), math.nan), "not finite"), (torch.zeros(1, 1, H, W).int(), "floating")):
        with pytest.raises(ValueError, match=says):
            runner(field, posterior_method("ddnm"), PROCESS, GRID, Identity(), y, window=P)
    assert field.largest == 0
