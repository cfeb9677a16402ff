"""The folders that ship: what is in them, that plain transformers loads them, and that they know the language."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import fewstep.assets
from fewstep.assets.recipes.verses_data import ALPHABET, LENGTH, encoded
from fewstep.assets.recipes.verses_model import MASK_ID, window_bits, window_bounds

MODELS = Path(fewstep.assets.__file__).parent / "models"
FOLDERS = (MODELS / "verses", MODELS / "verses-judge")
PASSAGE = """\
BIONDELLO:
Hope I may choose, sir.

VINCENTIO:
Come hither, you rogue. What, have you forgot me?

BIONDELLO:
Forgot you! no, sir: I could not forget you, for I
never saw you before in all my life.

VINCENTIO:
What, you notorious villain, didst thou never see
thy master's father, Vincentio?

BIONDELLO:
What, my old worshipful old master? yes, marry, sir:
see where he looks out of the window.

VINCENTIO:
Is't so, indeed.

BIONDELLO:
Help, help, help! here's a madman will murder me.

Pedant:
Help, son! help, Signior Baptista!

PETRUCHIO:
Prithee, Kate, let's stand aside and see the end of
this controversy.

TRANIO:
Sir, what are you that offer to beat my servant?

VINCENTIO:
What am I, sir! nay, what are you, sir? O immortal
gods! O fine villain! A silken doublet! a velvet
hose! a scarlet cloak! and a copatain hat! O, I
am undone! I am undone! while I play the good
husband at home, my son and my servant spend all at
the university.

TRANIO:
How now! what's the matter?

BAPTISTA:
What, is the man lunatic?

TRANIO:
Sir, you seem a sober ancient gentleman by your
habit, but your words show you a madman. Why, sir,
what 'cerns it you if I wear pearl and gold? I
thank my good father, I am able to maintain it.

VINCENTIO:
Thy father! O villain! he is a sailmaker in Bergamo.

BAPTISTA:
You mistake, sir, you mistake, sir. Pray, what do
you think is his name?

VINCENTIO:
His name! as if I knew not his name: I have brought
him up ever since he was three years old, and his
name is Tranio.
"""
"""From The Taming of the Shrew, in the last twentieth of the text, which no training has seen."""


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForMaskedLM

    return AutoModelForMaskedLM.from_pretrained(FOLDERS[0], local_files_only=True).eval()


@pytest.fixture(scope="module")
def judge() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDERS[1], local_files_only=True).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDERS[0], local_files_only=True)


def masked_bits(model: Any, ids: torch.Tensor) -> float:
    return float(window_bounds(lambda x: model(input_ids=x).logits, ids, draws=8, seed=0).mean())


def causal_bits(judge: Any, ids: torch.Tensor) -> float:
    return float(window_bits(lambda x: judge(input_ids=x).logits, ids).mean())


# ---------------------------------------------------------------------------------------------------------- the files


def test_folders_are_small_and_hold_only_harmless_files() -> None:
    for folder, most in zip(FOLDERS, (12e6, 6e6), strict=True):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert {file.suffix for file in files} == {".safetensors", ".json", ".md"}
        assert sum(file.stat().st_size for file in files) < most
        assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_no_file_says_where_it_was_made() -> None:
    for folder in FOLDERS:
        for file in [*folder.glob("*.json"), *folder.glob("*.md")]:
            text = file.read_text(encoding="utf-8")
            assert "_name_or_path" not in text, file
            if file.name != "tokenizer.json":
                assert not re.search(r"(?<![\w.:/])/(home|root|work|tmp|usr|mnt|Users)\b", text), file


def test_weights_are_half_precision_and_finite() -> None:
    for folder in FOLDERS:
        with safe_open(folder / "model.safetensors", "pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                tensor = weights.get_tensor(key)
                assert tensor.dtype == torch.float16, key
                assert bool(tensor.isfinite().all()), key


PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
masked, judge = AutoModelForMaskedLM.from_pretrained(sys.argv[1]), AutoModelForCausalLM.from_pretrained(sys.argv[2])
ids = tokenizer("To be, or not to [MASK][MASK]", return_tensors="pt").input_ids
print(type(masked).__name__, masked.dtype, tuple(masked(input_ids=ids).logits.shape), type(judge).__name__, judge.dtype)
print(AutoTokenizer.from_pretrained(sys.argv[2])("To be").input_ids == tokenizer("To be").input_ids)
print(any(name.split(".")[0] == "fewstep" for name in sys.modules))
"""


def test_plain_transformers_loads_both_offline_in_float32() -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-c", PLAIN, *map(str, FOLDERS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first = "ModernBertForMaskedLM torch.float32 (1, 19, 68) LlamaForCausalLM torch.float32"
    assert done.stdout.strip().splitlines()[-3:] == [first, "True", "False"]


# ------------------------------------------------------------------------------------------------------ the tokenizer


def test_tokenizer_is_one_token_a_character_with_newlines_kept(tokenizer: Any) -> None:
    ids = tokenizer(PASSAGE, verbose=False).input_ids
    assert ids == encoded(PASSAGE).tolist()
    assert tokenizer.decode(ids) == PASSAGE
    assert tokenizer.decode(tokenizer("\n\n a  b\n\n").input_ids) == "\n\n a  b\n\n"
    assert tokenizer("[MASK]a").input_ids == [MASK_ID, ALPHABET.index("a")]
    assert tokenizer.model_max_length == LENGTH


# ------------------------------------------------------------------------------------------------- the knowledge of it


def test_both_compress_a_passage_they_never_saw(model: Any, judge: Any) -> None:
    ids = encoded(PASSAGE)
    for bits, most in ((masked_bits(model, ids), 2.7), (causal_bits(judge, ids), 2.6)):
        share = torch.bincount(ids).double() / len(ids)
        unigram = -float((share[share > 0] * share[share > 0].log2()).sum())
        assert bits < most < unigram - 1.5


def test_both_find_shuffled_text_much_worse(model: Any, judge: Any) -> None:
    ids = encoded(PASSAGE)
    mixed = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    assert masked_bits(model, mixed) > masked_bits(model, ids) + 1.5
    assert causal_bits(judge, mixed) > causal_bits(judge, ids) + 1.5


@torch.no_grad()
def test_the_more_is_known_the_less_is_missing(model: Any) -> None:
    ids = encoded(PASSAGE)[: 4 * LENGTH].view(4, LENGTH)
    order = torch.rand(LENGTH, generator=torch.Generator().manual_seed(1)).argsort()
    always = order[:32]
    losses = []
    for hidden in (256, 160, 64, 32):
        masked = ids.clone()
        masked[:, order[:hidden]] = MASK_ID
        logits = model(input_ids=masked).logits[:, always]
        losses.append(float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, always].flatten())))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("God save the k[MASK]ng of England", "i"),
        ("the que[MASK]n of England", "e"),
        ("where art t[MASK]ou Romeo", "h"),
    ],
)
@torch.no_grad()
def test_a_missing_letter_of_a_common_word_is_found(model: Any, tokenizer: Any, text: str, missing: str) -> None:
    ids = tokenizer(text, return_tensors="pt").input_ids
    law = model(input_ids=ids).logits[ids == MASK_ID].softmax(-1)
    assert tokenizer.decode(law.argmax(-1)) == missing
    assert float(law[0, len(ALPHABET) :].sum()) < 1e-3, "marks are not characters"
