"""What a visitor reads: no paths of the server, no markup of others, and what a line of the log may hold."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.apps.web import logs, messages
from fewstep.apps.web.jobs import Snapshot
from fewstep.apps.web.repeat import Name, call, command


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("there is no file '/srv/models/private/x.png'", "there is no file 'x.png'"),
        ("/srv/ann/x.png is not a picture", "x.png is not a picture"),
        (r"C:\Users\ann\x.png is not a picture", "x.png is not a picture"),
        ("see ~/secret/place/file", "see file"),
        ("a ratio of 1/2 and 3 / 4", "a ratio of 1/2 and 3 / 4"),
        ("owner/name is a name on the hub", "owner/name is a name on the hub"),
    ],
)
def test_paths_are_cut_down_to_their_last_part(text, left):
    assert messages.without_paths(text) == left


def test_an_expected_error_is_its_sentence_and_another_its_number():
    assert messages.sentence_of(ValueError("steps must be 1")) == "Steps must be 1."
    assert "request ab12" in messages.sentence_of(KeyError("secret"), "ab12")
    assert "secret" not in messages.sentence_of(RuntimeError("secret"), "ab12")
    assert "secret" not in messages.sentence_of(PermissionError(13, "Permission denied", "/srv/secret"), "ab12")
    assert "memory" in messages.sentence_of(MemoryError())


@given(st.text("<>&\"'/ ab\n", max_size=40))
def test_status_lines_escape_what_they_are_told(text):
    for line in (messages.failed(text), messages.idle(text), messages.finished(text)):
        inner = line.split(">", 1)[1].rsplit("</div>", 1)[0]
        assert "<" not in inner.replace("<span aria-hidden='true'>", "").replace("</span>", "")


def test_a_running_line_has_a_bar_and_the_time_left():
    line = messages.running(Snapshot(3, 8, "sampling", 1.5, 2.4))
    assert 'value="3" max="8"' in line
    assert "about 2 s left" in line


def test_a_log_line_is_json_and_holds_no_words_of_an_error():
    stream = io.StringIO()
    logs.start_logs(stream)
    try:
        raise RuntimeError("what the visitor wrote")
    except RuntimeError as error:
        logs.log("error", error=error, id="ab12")
    line = json.loads(stream.getvalue())
    assert line["id"] == "ab12"
    assert line["error"] == "RuntimeError"
    assert "visitor" not in stream.getvalue()


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/gradio_api/file=/tmp/gradio/abc/holiday.png", "/gradio_api/file"),
        ("/gradio_api/heartbeat/0123456789ab", "/gradio_api/heartbeat/*"),
        ("/healthz", "/healthz"),
    ],
)
def test_routes_in_the_log_name_no_file_and_no_session(path, route):
    assert logs.route_of(path) == route


def test_commands_are_quoted_for_a_shell():
    import shlex

    options = {"momentum": 2.5, "kappa": -0.5, "euler_at_final": True, "lower_order_final": False, "grid": None}
    said = command("generate", ["it's `rm -rf` $HOME"], options)
    words = shlex.split(said)
    assert words[:3] == ["fewstep", "generate", "it's `rm -rf` $HOME"]
    assert words[3:] == ["--momentum", "2.5", "--kappa=-0.5", "--euler-at-final", "--no-lower-order-final"]
    assert call("f", [Name("pipe"), "a'b"], {"steps": 8, "no": None}) == """f(pipe, "a'b", steps=8)"""
