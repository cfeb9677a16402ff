"""Features stay within their budget, wherever they are kept, and leave nothing behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from fewstep.pipelines.editing import FeatureKey, FeatureMemory, FeatureStore
from fewstep.pipelines.editing.feature_store import parse_bytes, readable_bytes

KEYS = [FeatureKey(i, stage, "cond", 0, "v") for i in range(2) for stage in ("edge", "mid")]


def filled(memory: FeatureMemory | None = None, dtype: torch.dtype = torch.float32) -> FeatureStore:
    store = FeatureStore(memory)
    for i, key in enumerate(KEYS):
        store.put(key, torch.full((2, 3), float(i), dtype=dtype))
    return store


@pytest.mark.parametrize("place", ["device", "host", "disk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_put_comes_back(place: str, dtype: torch.dtype, tmp_path: Path) -> None:
    store = filled(FeatureMemory(place, folder=tmp_path if place == "disk" else None), dtype)
    assert len(store) == 4
    assert store.bytes == 4 * 6 * dtype.itemsize
    for i, key in enumerate(KEYS):
        assert key in store
        got = store.get(key, "cpu")
        assert got.dtype == dtype
        assert (got == i).all()
    again = FeatureStore.of(store.tensors())
    assert all((again.get(key) == store.get(key)).all() for key in KEYS)


def test_a_kept_tensor_does_not_follow_its_original() -> None:
    store, tensor = FeatureStore(), torch.zeros(3)
    store.put(KEYS[0], tensor)
    tensor += 1
    assert (store.get(KEYS[0]) == 0).all()


def test_files_go_with_the_store(tmp_path: Path) -> None:
    store = filled(FeatureMemory("disk", folder=tmp_path))
    folder = next(tmp_path.iterdir())
    assert len(list(folder.iterdir())) == 4
    store.clear()
    assert list(tmp_path.iterdir()) == []
    assert (len(store), store.bytes) == (0, 0)
    store = filled(FeatureMemory("disk", folder=tmp_path))
    assert list(tmp_path.iterdir())
    del store
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["device", "host", "disk"])
def test_the_budget_is_kept(place: str) -> None:
    store = FeatureStore(FeatureMemory(place, budget=3 * 24))
    for key in KEYS[:3]:
        store.put(key, torch.zeros(2, 3))
    store.put(KEYS[0], torch.ones(2, 3))  # in the place of another
    with pytest.raises(
        ValueError, match=r"more than the budget of 72 B: 72 B are kept, and one more tensor takes 24 B"
    ):
        store.put(KEYS[3], torch.zeros(2, 3))
    assert store.bytes == 72
    assert (store.get(KEYS[0]) == 1).all()


def test_budgets_are_read_in_every_unit() -> None:
    assert [parse_bytes(size) for size in (7, "7", "2 KB", "1.5MB", "2GiB", "1k", "3g", None)] == [
        7,
        7,
        2000,
        1500000,
        2**31,
        1000,
        3 * 10**9,
        None,
    ]
    for size in ("much", "-3", "3 TB", ""):
        with pytest.raises(ValueError, match="a budget is a number of bytes"):
            parse_bytes(size)
    assert [readable_bytes(n) for n in (0, 999, 1000, 12_345_678)] == ["0 B", "999 B", "1.0 KB", "12.3 MB"]


def test_places_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'device'"):
        FeatureMemory("devices")
    with pytest.raises(ValueError, match="a folder is for features on disk"):
        FeatureMemory("host", folder="x")


def test_keys_survive_their_text() -> None:
    assert [FeatureKey.parse(str(key)) for key in KEYS] == KEYS
