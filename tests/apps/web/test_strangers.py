"""What a client that is not the page may not have: files of the server, pictures by address, a relay to elsewhere."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("gradio", reason="the web app needs gradio")

from fewstep.apps.web.fence import UPLOAD

EXAMPLE = Path(__file__).parents[3] / "apps" / "web" / "examples" / "red-sneaker.png"
KIND = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def asked(live):
    """Sends a request with values of one's own, as no client of gradio's would, and gives all that came back."""
    config = httpx.get(live.url + "config").json()
    kinds = {part["id"]: part for part in config["components"]}

    def send(name: str, **said: Any) -> tuple[str, list[dict[str, Any]]]:
        number, found = next((i, d) for i, d in enumerate(config["dependencies"]) if d["api_name"] == name)
        about = httpx.get(live.url + "gradio_api/info").json()["named_endpoints"][f"/{name}"]["parameters"]
        usual = iter([said.get(one["parameter_name"], one.get("parameter_default")) for one in about])
        data = [None if kinds[part]["type"] == "state" else next(usual) for part in found["inputs"]]
        session = secrets.token_hex(5)
        body = {"data": data, "fn_index": found.get("id", number), "session_hash": session}
        answer = httpx.post(live.url + "gradio_api/queue/join", json=body)
        if answer.status_code != 200:
            return answer.text, []
        address = f"{live.url}gradio_api/queue/data?session_hash={session}"
        with httpx.stream("GET", address, timeout=120) as stream:
            events = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
        return json.dumps(events), events

    return send


def refusal(events: list[dict[str, Any]]) -> str:
    last = next(event for event in events if event["msg"] == "process_completed")
    assert last["success"] is False
    return last["output"]["error"] or ""


def test_such_a_request_is_answered_where_the_picture_was_uploaded(live, asked):
    with EXAMPLE.open("rb") as file:
        (path,) = httpx.post(live.url + "gradio_api/upload", files={"files": file}).json()
    sent = {"path": path, "orig_name": "red-sneaker.png", "meta": KIND}
    _, events = asked("edit", picture=sent, target="a blue sneaker", steps=1)
    last = next(event for event in events if event["msg"] == "process_completed")
    assert last["success"] is True
    assert "network calls" in last["output"]["data"][0]


@pytest.mark.parametrize("tab", ["edit", "restore"])
@pytest.mark.parametrize("which", ["passwd", "example", "allowed", "dots", "elsewhere"])
def test_a_path_of_the_server_is_no_upload(live, asked, tab, which):
    allowed = live.bench.settings.folders[0] / "allowed.png"
    place = {
        "passwd": "/etc/passwd",
        "example": str(EXAMPLE),
        "allowed": str(allowed),
        "dots": f"{allowed.parent}/../{allowed.parent.name}/allowed.png",
        "elsewhere": "https://example.org/picture.png",
    }[which]
    text, events = asked(tab, picture={"path": place, "meta": KIND}, target="a boot", steps=1, task="denoise", sigma=9)
    assert refusal(events) == UPLOAD
    assert "root:" not in text
    assert str(allowed.parent) not in text
    assert str(EXAMPLE.parent) not in text


@pytest.mark.parametrize("tab", ["edit", "restore"])
def test_a_mask_is_no_path_of_the_server_either(live, asked, tab):
    drawn = {"background": None, "layers": [{"path": str(EXAMPLE), "meta": KIND}], "composite": None}
    text, events = asked(tab, mask=drawn, target="a boot", steps=1, task="inpaint")
    assert refusal(events) == UPLOAD
    assert str(EXAMPLE.parent) not in text


def test_a_picture_as_an_address_is_refused(asked):
    for address in ("data:image/png;base64,AAAA", "http://127.0.0.1:9/x.png"):
        _, events = asked("edit", picture={"path": None, "url": address, "meta": KIND}, target="a boot", steps=1)
        assert refusal(events) == UPLOAD


@pytest.mark.parametrize("route", ["file=", "file/", "proxy="])
def test_the_server_fetches_nothing_from_elsewhere(live, route):
    for address in ("https://example.org/x.png", "http://127.0.0.1:9/"):
        answer = httpx.get(f"{live.url}gradio_api/{route}{address}")
        assert answer.status_code == 404


def test_only_results_and_uploads_can_be_fetched(live):
    """A file of the application itself, of the owner's folder, and of the folder of temporary files, by its path."""
    temporary = live.bench.shelf.root / "result.txt"
    temporary.write_text("not yet published")
    for path in (EXAMPLE, live.bench.settings.folders[0] / "allowed.png", temporary, Path("/etc/hostname")):
        for spelled in (str(path), str(path)[1:], f"{path.parent}/./{path.name}", f"%2F{str(path)[1:]}"):
            answer = httpx.get(f"{live.url}gradio_api/file={spelled}")
            assert answer.status_code in (403, 404), spelled
            assert path.read_bytes() not in answer.content or not path.read_bytes()


def test_a_refusal_harms_nobody(asked):
    asked("edit", picture={"path": "/etc/passwd", "meta": KIND}, target="a boot", steps=1)
    _, events = asked("draw", prompt="a red boot", steps=1, count=1)
    assert next(event for event in events if event["msg"] == "process_completed")["success"] is True
