"""Streaming moments: against numpy, in parts and in any order; files of ours and of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.eval import Statistics
from fewstep.eval.reservoir import hash_of_index


def rows(count: int, dim: int = 7, seed: int = 0) -> torch.Tensor:
    """Features far from zero, where a sum of squares would lose digits."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=g, dtype=torch.float64)
    return torch.randn(count, dim, generator=g, dtype=torch.float64) @ mix + 1e4


def gathered(x: torch.Tensor, batch: int, **options: int) -> Statistics:
    found = Statistics(**options)
    for part in x.split(batch):
        found.update(part)
    return found


@pytest.mark.parametrize("batch", [1, 3, 64, 500])
def test_moments_are_those_of_numpy(batch: int) -> None:
    x = rows(500)
    found = gathered(x, batch)
    assert found.count == 500
    np.testing.assert_allclose(found.mean, x.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-10, atol=1e-10)


def test_merged_shards_are_one_pass_in_any_order() -> None:
    x = rows(300) - 1e4
    whole = gathered(x, 64)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        shards = [gathered(x[part::4], 17) for part in range(4)]
        total = Statistics()
        for i in order:
            total.merge(shards[i])
        assert total.count == 300
        assert float((total.mean - whole.mean).abs().max()) < 1e-12
        assert float((total.cov - whole.cov).abs().max() / whole.cov.abs().max()) < 1e-12


def test_a_single_picture_can_be_merged() -> None:
    x = rows(5)
    total = gathered(x[:4], 4)
    total.merge(gathered(x[4:], 1))
    np.testing.assert_allclose(total.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-9)


def test_reservoir_depends_on_the_numbers_alone() -> None:
    x = torch.arange(1000.0)[:, None].repeat(1, 2)
    whole = gathered(x, 1000, reservoir=50)
    total = Statistics(50)
    for part in (2, 0, 1):
        shard = Statistics(50)
        numbers = np.arange(part, 1000, 3)
        for some in np.array_split(numbers, 9):
            shard.update(x[some], some)
        total.merge(shard)
    assert whole.features is not None
    assert total.features is not None
    assert torch.equal(whole.features, total.features)
    smallest = np.argsort(hash_of_index(np.arange(1000)))[:50]
    assert whole.features[:, 0].tolist() == smallest.tolist()


def test_reservoir_is_a_fair_sample() -> None:
    # the mean of 2000 of the numbers 0 .. 99999 has a standard deviation of 645
    found = Statistics(2000)
    for part in torch.arange(100_000.0)[:, None].split(9000):
        found.update(part)
    assert found.features is not None
    assert abs(float(found.features.mean()) - 50_000) < 3 * 645


def test_hash_is_splitmix64() -> None:
    # first outputs of the published generator from the states 0 and 1 (Vigna's splitmix64.c)
    assert [hex(int(h)) for h in hash_of_index(np.array([0, 1]))] == ["0xe220a8397b1dcdaf", "0x910a2dec89025cc1"]


def test_file_round_trip_and_growth_after_it(tmp_path: Path) -> None:
    x = rows(90).float()
    found = Statistics(20, network="judge", hash="abc")
    found.update(x[:60])
    found.save(tmp_path / "deep" / "a.npz")
    read = Statistics.load(tmp_path / "deep" / "a.npz")
    assert (read.count, read.network, read.hash, read.dim) == (60, "judge", "abc", 7)
    assert torch.equal(read.mean, found.mean)
    assert torch.equal(read.features, found.features)
    read.update(x[60:])
    found.update(x[60:])
    np.testing.assert_allclose(read.cov, found.cov, rtol=1e-9)
    with np.load(tmp_path / "deep" / "a.npz") as file:  # what other programs read
        np.testing.assert_allclose(file["mu"], x[:60].double().numpy().mean(0))
        assert file["sigma"].shape == (7, 7)
    assert not list(tmp_path.rglob("*.part"))


def test_foreign_file_with_mu_and_sigma_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3, dtype=np.float32))
    read = Statistics.load(tmp_path / "foreign.npz")
    assert (read.count, read.network, read.features) == (0, None, None)
    assert torch.equal(read.cov, torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="does not say how many"):
        read.update(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="does not say how many"):
        Statistics().merge(read)


def test_bad_files_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Statistics.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("mu and sigma")
    with pytest.raises(ValueError, match="cannot be read"):
        Statistics.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="mu and sigma"):
        Statistics.load(tmp_path / "other.npz")
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(ValueError, match="no usable statistics"):
        Statistics.load(tmp_path / "shape.npz")
    np.savez(tmp_path / "nan.npz", mu=np.full(2, np.nan), sigma=np.eye(2))
    with pytest.raises(ValueError, match="finite"):
        Statistics.load(tmp_path / "nan.npz")
    whole = (tmp_path / "other.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        Statistics.load(tmp_path / "cut.npz")


def test_bad_features_are_sentences(tmp_path: Path) -> None:
    found = Statistics()
    with pytest.raises(ValueError, match="no pictures"):
        found.mean  # noqa: B018
    bad = torch.zeros(4, 3)
    bad[2, 1] = torch.nan
    with pytest.raises(ValueError, match="picture 12 are not finite"):
        found.update(bad, [10, 11, 12, 13])
    found.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="two pictures"):
        found.save(tmp_path / "one.npz")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="length 4"):
        found.update(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="two networks"):
        Statistics(network="a").merge(Statistics(network="b"))
