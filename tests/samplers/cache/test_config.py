"""Settings: ranges, sentences, and the text of a command line."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.samplers.cache import ABCacheConfig, cache_text, parse_cache


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"order": 0}, "order must be a whole number, 1 to 4, got 0"),
        ({"order": 5}, "order must be a whole number, 1 to 4, got 5"),
        ({"order": True}, "order must be a whole number"),
        ({"interval": 0}, "interval must be a whole number, 1 or more, got 0"),
        ({"interval": 2.5}, "interval must be a whole number"),
        ({"warmup_steps": 1}, "warmup_steps must be at least the order, 2"),
        ({"tail_steps": -1}, "tail_steps must be a whole number, 0 or more"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number, 1 or more"),
        ({"coordinate": "sigmas"}, "did you mean 'sigma'"),
        ({"max_amplification": 0.5}, "max_amplification must be"),
        ({"max_amplification": math.nan}, "max_amplification must be"),
        ({"max_amplification": "often"}, "max_amplification must be"),
        ({"history_dtype": torch.int64}, "history_dtype must be a floating-point dtype"),
        ({"history_dtype": "float32"}, "history_dtype must be a floating-point dtype"),
        ({"compute_mask": []}, "compute_mask must be bools"),
        ({"compute_mask": "101"}, "compute_mask must be bools"),
        ({"compute_mask": [0, -1]}, "compute_mask must be bools"),
        ({"compute_mask": [True, 3]}, "compute_mask must be bools"),
        ({"compute_mask": 7}, "compute_mask must be bools"),
        ({"force": "yes"}, "force must be True or False"),
    ],
)
def test_settings_out_of_range_are_named(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        ABCacheConfig(**fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("none", None),
        ("ab", ABCacheConfig()),
        ("AB:", ABCacheConfig()),
        ("ab:2,3", ABCacheConfig(order=2, interval=3)),
        ("ab:3", ABCacheConfig(order=3)),
        ("ab:3,interval=4", ABCacheConfig(order=3, interval=4)),
        ("ab:order=1, interval=2, warmup=7, tail=0", ABCacheConfig(1, 2, 7, 0)),
        ("ab:warmup-steps=6,max_amplification=none", ABCacheConfig(warmup_steps=6, max_amplification=None)),
        ("ab:coordinate=sigma,force=true,steps=30", ABCacheConfig(2, 3, 5, 3, 30, "sigma", force=True)),
        ("ab:mask=0+1+2+7", ABCacheConfig(compute_mask=(0, 1, 2, 7))),
    ],
)
def test_texts_are_read_and_written(text, expected):
    assert parse_cache(text) == expected
    assert parse_cache(cache_text(expected)) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("an", "unknown cache 'an', did you mean 'ab'"),
        ("teacache", "unknown cache 'teacache'"),
        ("none:2", "the cache none has no settings"),
        ("ab:odrer=2", "no setting 'odrer', did you mean 'order'"),
        ("ab:order=two", "the cache setting order cannot be 'two'"),
        ("ab:order=", "the cache setting order cannot be ''"),
        ("ab:2,3,4", "no setting '4'"),
        ("ab:2,order=3", "order is given twice"),
        ("ab:force=maybe", "force cannot be 'maybe'"),
        ("ab:order=9", "order must be a whole number, 1 to 4, got 9"),
        ("ab:mask=1,2", "no setting '2'"),
    ],
)
def test_mistakes_in_a_text_are_sentences(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_cache(text)


def test_flags_are_written_as_indices_and_functions_not_at_all():
    assert cache_text(ABCacheConfig(compute_mask=[True, False, True])) == "ab:compute_mask=0+2"
    with pytest.raises(ValueError, match="function"):
        cache_text(ABCacheConfig(compute_mask=lambda i: True))
