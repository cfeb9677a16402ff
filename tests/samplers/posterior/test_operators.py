"""Every operator: adjoint, pseudo-inverse, proximal map, null space; in both precisions, on odd sizes and batches."""

from __future__ import annotations

import pytest
import torch

from fewstep.samplers.posterior.operators import (
    AveragePool,
    CircularBlur,
    Dense,
    GaussianBlur,
    Grey,
    Identity,
    Jpeg,
    LinearOperator,
    Mask,
    MirrorBlur,
    Resample,
    as_operator,
    cgls,
    compose,
    conjugate_gradients,
    crop_canvas,
    load_operator,
    motion_kernel,
    pad_canvas,
    symmetric_measurement,
    unit_measurement,
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def holes(h: int, w: int, share: float = 0.4, seed: int = 3) -> torch.Tensor:
    return (torch.rand(h, w, generator=torch.Generator().manual_seed(seed)) > share).double()


class Decolorize:
    """An object in deepinv's manner: a decomposition with one column, and a proximal map that drops the null space."""

    mask = torch.tensor(0.4472, dtype=torch.float64)
    _w = torch.tensor([0.2989, 0.5870, 0.1140], dtype=torch.float64)[:, None, None]

    def __init__(self) -> None:
        self.mask = self._w.norm()

    def A(self, x):
        return (x * self._w.to(x)).sum(1, keepdim=True)

    def A_adjoint(self, y):
        return y * self._w.to(y)

    def V_adjoint(self, x):
        return self.A(x) / self.mask.to(x)

    def V(self, c):
        return self.A_adjoint(c) / self.mask.to(c)

    def U(self, c):
        return c

    def U_adjoint(self, y):
        return y

    def prox_l2(self, z, y, gamma):
        return self.V(self.V_adjoint(z))


class OnlyForward:
    """A linear map that says nothing about itself."""

    def A(self, x):
        return x[..., ::2, :] + 0.5 * x[..., ::2, :].roll(1, -1)


OPERATORS: dict[str, LinearOperator] = {
    "identity": Identity(),
    "mask": Mask(holes(15, 21)),
    "mask per channel": Mask(torch.stack([holes(15, 21, seed=s) for s in range(3)])),
    "grey": Grey(),
    "mean": Grey.mean(),
    "pool": AveragePool(3, (15, 21)),
    "bicubic 4": Resample((15, 21), 4),
    "bicubic 2": Resample((16, 16), 2),
    "lanczos 3": Resample((15, 21), 3, "lanczos"),
    "area 2.5": Resample((15, 21), 2.5, "area"),
    "gaussian": GaussianBlur((15, 21), 0.6, 5),
    "wide gaussian": GaussianBlur((15, 21), 0.5, 61),
    "circular": CircularBlur(motion_kernel(5, seed=1), (15, 21)),
    "circular even": CircularBlur(motion_kernel(7, seed=2), (16, 14)),
    "mirror": MirrorBlur(torch.tensor([[0.0, 0.1, 0.0], [0.05, 0.6, 0.1], [0.0, 0.15, 0.0]]), (15, 21)),
    "dense": Dense(draw(40, 3 * 15 * 21, seed=8) / 30, (3, 15, 21)),
    "holes, then pool": compose(Mask(holes(15, 21)), AveragePool(3, (15, 21))),
    "grey, then blur, then bicubic": compose(Grey(), GaussianBlur((15, 21), 0.5, 5), Resample((15, 21), 2)),
    "foreign svd": as_operator(Decolorize()),
    "derived adjoint": as_operator(OnlyForward(), draw(1, 3, 8, 21), (3, 15, 21)),
}


def picture(operator: LinearOperator, batch: int = 2, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return draw(batch, 3, *(operator.size or (15, 21)), seed=seed, dtype=dtype)


both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
every = pytest.mark.parametrize("name", list(OPERATORS))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


@every
@both
def test_adjoint(name, dtype):
    operator = OPERATORS[name]
    x = picture(operator, dtype=dtype)
    y = operator.A(x)
    v = draw(*y.shape, seed=1, dtype=dtype)
    assert y.dtype == v.dtype == operator.A_adjoint(v).dtype == dtype
    left, right = (y * v).sum(), (x * operator.A_adjoint(v)).sum()
    assert abs(left - right) < (1e-5 if dtype == torch.float32 else 1e-12) * y.norm() * v.norm()


@every
@both
def test_pseudo_inverse(name, dtype):
    """A A+ A = A, and A+ A is an orthogonal projector."""
    operator = OPERATORS[name]
    x, z = picture(operator, dtype=dtype), picture(operator, seed=4, dtype=dtype)
    near = 1e-4 if dtype == torch.float32 else 1e-5
    y = operator.A(x)
    px, pz = operator.A_dagger(y), operator.A_dagger(operator.A(z))
    assert relative(operator.A(px), y) < near
    assert relative(operator.A_dagger(operator.A(px)), px) < near
    assert abs((px * z).sum() - (x * pz).sum()) < near * x.norm() * z.norm()
    projected = operator.project(z, y)
    assert relative(operator.A(projected), y) < near
    assert relative(operator.project(projected, y), projected) < near


@every
@both
@pytest.mark.parametrize("gamma", [0.3, 40.0])
def test_prox_is_the_minimum_and_keeps_the_null_space(name, dtype, gamma):
    operator = OPERATORS[name]
    z = picture(operator, dtype=dtype)
    y = operator.A(picture(operator, seed=5, dtype=dtype)) + 0.1
    y = operator.A(operator.A_dagger(y))
    found = operator.prox_l2(z, y, gamma)
    gradient = gamma * operator.A_adjoint(operator.A(found) - y) + found - z
    assert gradient.norm() < (2e-5 if dtype == torch.float32 else 2e-6) * gamma * z.norm()
    moved = found - z
    assert moved.norm() > 0
    assert relative(operator.A_dagger(operator.A(moved)), moved) < 1e-3


@every
def test_rows_of_a_batch_do_not_meet(name):
    operator = OPERATORS[name]
    x = picture(operator, batch=3)
    y = operator.A(x)
    for k in range(3):
        torch.testing.assert_close(operator.A(x[k : k + 1])[0], y[k], rtol=1e-12, atol=1e-12)
        if not isinstance(operator, Mask):
            torch.testing.assert_close(operator.A_dagger(y[k : k + 1])[0], operator.A_dagger(y)[k])


@every
def test_measurements_of_both_ranges_agree(name):
    operator = OPERATORS[name]
    x = picture(operator).clamp(-1, 1)
    y01 = operator.A((x + 1) / 2)
    torch.testing.assert_close(symmetric_measurement(operator, y01, x), operator.A(x))
    torch.testing.assert_close(unit_measurement(operator, operator.A(x), x), y01)


@every
def test_half_precision_is_computed_in_single(name):
    operator = OPERATORS[name]
    x = picture(operator).half()
    y = operator.A(x)
    assert y.dtype == torch.half
    torch.testing.assert_close(y, operator.A(x.float()).half())
    assert operator.A_adjoint(y).dtype == torch.half
    assert torch.isfinite(operator.prox_l2(x, y, 2.0)).all()


@pytest.mark.parametrize("name", [name for name, op in OPERATORS.items() if op.spectrum(picture(op)) is not None])
def test_spectrum_is_the_operator_s(name):
    """U S V^T = A, and what V does not span A does not see."""
    operator = OPERATORS[name]
    shape = (3, *(operator.size or (15, 21)))
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)[::7].reshape(-1, *shape)
    spectrum = operator.spectrum(basis)
    assert spectrum is not None
    again = spectrum.spread(spectrum.s * spectrum.analyse(basis))
    torch.testing.assert_close(again, operator.A(basis), rtol=1e-9, atol=1e-9)
    x = picture(operator)
    inner = spectrum.synthesise(torch.where(spectrum.s > 1e-9, 1.0, 0.0) * spectrum.analyse(x))
    torch.testing.assert_close(operator.A(inner), operator.A(x), rtol=1e-9, atol=1e-9)


def test_norm_by_power_iteration_is_the_largest_singular_value():
    matrix = draw(12, 48, seed=1)
    plain = as_operator(type("M", (), {"A": lambda s, x: x.flatten(1) @ matrix.T,
                                       "A_adjoint": lambda s, y: (y @ matrix).reshape(-1, 3, 4, 4)})())  # fmt: skip
    largest = float(torch.linalg.svdvals(matrix)[0])
    assert plain.norm(draw(1, 3, 4, 4)) == pytest.approx(largest, rel=0.02)
    assert Dense(matrix, (3, 4, 4)).norm(draw(1, 3, 4, 4)) == pytest.approx(largest, rel=1e-12)


def test_chained_pseudo_inverses_are_not_the_joint_one():
    """Mask, then pooling by 4: off by 0.38 for a random mask of 60 %, exact for a box that keeps to the blocks."""
    box = torch.ones(64, 64)
    box[16:48, 16:40] = 0
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    for mask, off in ((holes(64, 64), 0.38), (box, 0.0)):
        first, then = Mask(mask), AveragePool(4, (64, 64))
        joint = compose(first, then)
        y = joint.A(x)
        chained = first.A_dagger(then.A_dagger(y))
        assert relative(joint.A(chained), y) == pytest.approx(off, abs=0.03)
        assert relative(joint.A(joint.A_dagger(y)), y) < 1e-6


def test_prox_tends_to_the_projection():
    for name in ("pool", "bicubic 4", "mask", "grey", "circular"):
        operator = OPERATORS[name]
        z, y = picture(operator), operator.A(picture(operator, seed=9))
        torch.testing.assert_close(operator.prox_l2(z, y, 1e9), operator.project(z, y), rtol=1e-4, atol=1e-4)


def test_truncation_keeps_noise_out_of_a_deblurring():
    blur = GaussianBlur((64, 64), 3.0)
    x = draw(1, 1, 64, 64)
    noisy = blur.A(x) + 0.05 * draw(1, 1, 64, 64, seed=2)
    assert blur.A_dagger(noisy, 1e-5).norm() > 100 * x.norm()
    assert blur.A_dagger(noisy, 3e-2).norm() < x.norm()


def test_conjugate_gradients_solve_each_row():
    a = draw(6, 6)
    a = a @ a.T + torch.eye(6, dtype=torch.float64)
    b = draw(4, 6, seed=1)
    b[2] = 0
    torch.testing.assert_close(conjugate_gradients(lambda v: v @ a, b, 1e-12), torch.linalg.solve(a, b.T).T)
    m, y = draw(4, 9, seed=2), draw(3, 4, seed=3)
    torch.testing.assert_close(cgls(lambda x: x @ m.T, lambda r: r @ m, y, 1e-12), y @ torch.linalg.pinv(m).T)


def test_canvas_of_a_symmetric_blur_is_the_mirrored_blur():
    """On a canvas wider than the kernel the circle does not matter: cropped, it is the mirrored border."""
    kernel = GaussianBlur((9, 9), 1.0, 5).vertical.matrix.value  # any symmetric numbers
    kernel = torch.outer(*(torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64) / 16,) * 2)
    x = draw(2, 3, 15, 21)
    canvas = pad_canvas(x, 6)
    wide = CircularBlur(kernel, (27, 33)).A(canvas)
    torch.testing.assert_close(crop_canvas(wide, 6), MirrorBlur(kernel, (15, 21)).A(x))
    torch.testing.assert_close(crop_canvas(canvas, 6), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(torch.full((3, 3), 0.5)), "threshold"),
        (lambda: Mask(torch.ones(3)), "shape"),
        (lambda: AveragePool(4, (10, 8)), "divided"),
        (lambda: Resample((8, 8), 2, "bicubc"), "did you mean 'bicubic'"),
        (lambda: Resample((8, 8)), "either"),
        (lambda: Resample((8, 8), to=(9, 8)), "enlarges"),
        (lambda: Resample((100_000, 8), 2), "8192"),
        (lambda: GaussianBlur((8, 8), -1.0), "sigma"),
        (lambda: GaussianBlur((8, 8), 1.0, 4), "odd"),
        (lambda: CircularBlur(torch.ones(2, 3), (8, 8)), "odd"),
        (lambda: CircularBlur(torch.full((3, 3), float("nan")), (8, 8)), "finite"),
        (lambda: MirrorBlur(torch.zeros(3, 3), (8, 8)), "sum"),
        (lambda: Jpeg(0), "quality"),
        (lambda: Grey([1.0]), "two"),
        (lambda: Dense(torch.ones(2, 5), (1, 2, 2)), "columns"),
        (lambda: motion_kernel(4), "odd"),
        (lambda: load_operator("nothing"), "module:function"),
        (lambda: load_operator("no_such_module:f"), "cannot be loaded"),
        (lambda: load_operator("math:no_such"), "has no"),
        (lambda: Identity().prox_l2(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2), -1.0), "gamma"),
        (lambda: GaussianBlur((8, 8)).A(torch.ones(1, 3, 8, 9)), "8 x 8"),
        (lambda: AveragePool(2, (8, 8)).A_dagger(torch.ones(1, 3, 8, 8)), "4 x 4"),
        (lambda: Grey().A(torch.ones(1, 4, 8, 8)), "channels"),
    ],
)
def test_bad_input_is_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_object_without_a_is_refused():
    with pytest.raises(TypeError, match="A\\(x\\)"):
        as_operator(3)


def test_an_operator_by_name():
    found = load_operator("fewstep.samplers.posterior.operators:AveragePool", 2, (8, 8))
    assert isinstance(found, AveragePool)
    assert as_operator(torch.tanh).A(torch.zeros(1, 1, 2, 2)).sum() == 0


def test_an_operator_of_a_broken_module_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "broken_operator.py").write_text("1 / 0")
    (tmp_path / "raising_operator.py").write_text("def make():\n    raise KeyError('kernel')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'broken_operator:make' cannot be loaded: ZeroDivisionError: division"):
        load_operator("broken_operator:make")
    with pytest.raises(ValueError, match="'raising_operator:make' cannot be made: KeyError: 'kernel'"):
        load_operator("raising_operator:make")
    with pytest.raises(ValueError, match="cannot be made: TypeError"):
        load_operator("raising_operator:make", 3)


def test_residuals_count_what_was_measured():
    mask = holes(15, 21)
    known = float(mask.sum()) * 3
    y = torch.ones(2, 3, 15, 21, dtype=torch.float64)
    assert Mask(mask).count(y).tolist() == [known, known]
    inner = type("Inpainting", (), {k: lambda s, x: x * s.mask for k in ("A", "A_adjoint")}
                 | {k: lambda s, x: x for k in ("U", "U_adjoint", "V", "V_adjoint")} | {"mask": mask})  # fmt: skip
    assert as_operator(inner()).count(y).tolist() == [known, known]
    assert float(Identity().count(y)) == 3 * 15 * 21
