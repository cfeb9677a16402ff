"""Write: the same text on the command line and in Python, blanks alone are filled, every character is escaped."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from fewstep.apps.web.jobs import Cancelled, Job
from fewstep.apps.web.write import CONTINUE, FILL, write, write_request
from fewstep.apps.web.write_views import MARK, view, words

SOLVER = "trapezoidal"


def asked(mode=CONTINUE, text="ROMEO:\n", blanks="", **more):
    said = {
        "model": "verses",
        "steps": 4,
        "length": 48,
        "temperature": 0.9,
        "top_p": 1,
        "guidance": 1,
        "seed": 3,
        "count": 2,
    }
    return write_request(mode, text, blanks, {"theta": 0.4}, SOLVER, **{**said, **more})


def test_the_command_and_the_python_on_the_screen_write_the_same_texts(models, fewstep, tmp_path):
    made = write(models, asked(), Job("write"))
    assert fewstep(*shlex.split(made.command)[1:], "--out", "texts.json").code == 0
    saved = json.loads((tmp_path / "texts.json").read_text())
    assert saved["texts"] == made.texts
    names: dict = {}
    exec(made.python, names)
    assert names["texts"] == made.texts
    ours = json.loads(made.write(tmp_path).read_text())
    assert ours["settings"] == saved["settings"]


def test_a_downloaded_text_repeats_itself(models, fewstep, tmp_path):
    made = write(models, asked(count=1), Job("write"))
    file = made.write(tmp_path)
    assert fewstep("text", "--like", file).out.rstrip("\n") == made.texts[0].rstrip("\n")


def test_blanks_are_filled_and_the_rest_stays(models, fewstep):
    text = "To be, or not to [MASK][MASK], that is the question"
    made = write(models, asked(FILL, blanks=text, count=1), Job("write"))
    assert re.fullmatch(r"To be, or not to (?s:..), that is the question", made.texts[0])
    assert "<mark>" in made.view
    first, second = made.command.splitlines()
    content = shlex.split(first)
    with open(content[-1], "w") as file:
        file.write(content[2])
    said = fewstep(*shlex.split(second)[1:])
    assert said.out.rstrip("\n") == made.texts[0]


def test_the_text_appears_while_it_is_written_and_can_be_cancelled(models):
    job, seen = Job("write"), []
    show = job.show

    def watching(value):
        seen.append(value)
        if len(seen) == 3:
            job.cancel()
        show(value)

    job.show = watching
    with pytest.raises(Cancelled):
        write(models, asked(steps=20), job)
    assert len(seen) == 3
    assert seen[-1].count("·") <= seen[0].count("·")


def test_every_character_is_escaped():
    nasty = "<img src=x onerror=alert(1)>&\"'"
    for shown in (view([nasty], [0]), view([nasty], [0], [True] * len(nasty)), words(nasty)):
        assert "<img" not in shown
    assert view([f"a{MARK}{MARK}b"], [0]).count("·") == 2


def test_a_word_becomes_as_many_blanks_as_it_has_tokens(models):
    shown = words("To be", models.get("verses", "write").tokenizer)
    assert 'data-word="be" data-blank="[MASK][MASK]"' in shown
    assert 'data-word=" "' in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": FILL, "blanks": "no blank"}, "no blank"),
        ({"text": "x" * 5000}, "5000 characters"),
        ({"length": 3}, "raise length"),
        ({"temperature": -1}, "temperature"),
        ({"text": "漢"}, "does not know"),
        ({"mode": "sing"}, "mode must be"),
    ],
)
def test_what_cannot_be_written_is_refused_with_a_sentence(models, arguments, said):
    with pytest.raises(ValueError, match=said):
        write(models, asked(**arguments), Job("write"))
