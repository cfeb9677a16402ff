"""The shipped masked model of text: more network calls write likelier texts, by a judge that was trained apart."""

from __future__ import annotations

import numpy as np
import pytest

from fewstep.eval.text_judge import TextJudge, shipped
from fewstep.eval.text_models import MaskedText
from fewstep.eval.text_sampling import sample_text
from fewstep.eval.token_contenders import select

pytestmark = pytest.mark.skipif(
    shipped("verses") is None or shipped("verses-judge") is None, reason="the models are not in this checkout"
)


def test_more_network_calls_write_likelier_texts():
    model, judge = MaskedText.from_pretrained("verses"), TextJudge.from_pretrained("verses-judge")
    (made,) = select(["tweedie"])
    bits = {}
    for calls in (4, 32):
        run = sample_text(model, made, calls, model.start([""] * 12, 64), range(12))
        score = judge.score(model.texts(run.tokens))
        bits[calls] = score.nats / score.characters / np.log(2)
    difference = bits[4] - bits[32]
    # 12 texts a side; the mean difference is about 2 bits a character, its standard error about 0.2
    assert difference.mean() > 4 * difference.std(ddof=1) / np.sqrt(12)
