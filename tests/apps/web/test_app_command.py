"""`fewstep app`: what it refuses before it starts, and that it starts and ends."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from fewstep.apps.web.settings import AppSettings, parse_auth


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--auth", "ann"], "USER:PASSWORD"),
        (["--auth", ":secret"], "USER:PASSWORD"),
        (["--port", "70000"], "port must be"),
        (["--max-queue", "0"], "max_queue must be"),
        (["--allow", "nowhere"], "no folder"),
        (["--model", "garmets", "--port", "0"], "did you mean 'garments'"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(fewstep, words, said):
    answer = fewstep("app", "--no-browser", *words)
    assert answer.code == 2
    assert said in answer.err


def test_a_taken_port_is_a_sentence(fewstep):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = fewstep("app", "--no-browser", "--port", taken.getsockname()[1])
    assert answer.code == 2
    assert "is taken" in answer.err


def test_the_page_is_on_this_machine_alone_unless_asked():
    assert AppSettings().host == "127.0.0.1"
    assert AppSettings(listen=True).host == "0.0.0.0"
    assert parse_auth("ann:a:b") == ("ann", "a:b")
    assert parse_auth(None) is None


@pytest.mark.slow
def test_it_starts_answers_logs_json_and_ends(tmp_path):
    command = [sys.executable, "-m", "fewstep.apps.cli", "app", "--no-browser", "--port", "0", "--listen"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells start jobs with it ignored
    with subprocess.Popen(command, preexec_fn=heard, **pipes) as running:
        try:
            address = re.search(r"http://\S+", running.stdout.readline())[0]
            assert json.load(urllib.request.urlopen(address + "healthz"))["status"] == "ok"
            urllib.request.urlopen(address).read()
        finally:
            running.send_signal(signal.SIGINT)
            _, log = running.communicate(timeout=60)
    assert "ANYONE" in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert any(line["event"] == "request" and line["route"] == "/" for line in lines)
    assert os.listdir(tmp_path) == []
