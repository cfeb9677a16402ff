"""The server: its API, its queue, its sessions, its files, and what it says when something is wrong."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio_client")

from gradio_client import Client, handle_file

from fewstep.pipelines import generate, load


@pytest.fixture(scope="module")
def client(live):
    return Client(live.url, verbose=False)


def drawn(result) -> np.ndarray:
    """The first picture of a gallery."""
    return np.asarray(Image.open(result[1]["value"][0]["image"]))


def test_health_says_what_is_there(live):
    answer = httpx.get(live.url + "healthz")
    assert answer.json()["status"] == "ok"
    assert re.fullmatch("[0-9a-f]{8}", answer.headers["x-request-id"])


def test_the_api_draws_and_writes(client):
    result = client.predict(prompt="a red boot", steps=2, count=1, seed=11, api_name="/draw")
    assert drawn(result).shape == (32, 32, 3)
    assert "2 network calls" in result[0]
    assert "--seed 11" in result[2]
    text = client.predict(text="ROMEO:", steps=4, length=32, api_name="/write")
    assert "ROMEO:" in text[1]


def test_progress_comes_before_the_result(client):
    job = client.submit(text="", steps=40, length=64, api_name="/write")
    job.result(60)
    assert any("progress" in output[0] for output in job.outputs())
    assert "fs-done" in job.outputs()[-1][0]


def test_twenty_requests_at_once_each_get_their_own_picture(live):
    clients = [Client(live.url, verbose=False) for _ in range(2)]
    jobs = [
        clients[i % 2].submit(prompt="a blue dress", steps=1, guidance=1, count=1, seed=100 + i, api_name="/draw")
        for i in range(20)
    ]
    pictures = [drawn(job.result(120)) for job in jobs]
    pipe = load("garments", "exponential-adams")
    for i in (0, 7, 19):
        alone = generate(pipe, "a blue dress", steps=1, guidance=1.0, seed=100 + i).images[0]
        assert np.array_equal(np.asarray(alone), pictures[i])
    assert len({picture.tobytes() for picture in pictures}) == 20


def test_a_full_queue_says_so(live):
    from fewstep.apps.web.jobs import _WORK

    queue = live.app.state.blocks._queue
    before, queue.max_size = queue.max_size, 1
    clients = Client(live.url, verbose=False)
    said = []
    try:
        with _WORK:  # the worker is busy
            jobs = [clients.submit(prompt="a", steps=1, count=1, api_name="/draw") for _ in range(5)]
            time.sleep(1)
        for job in jobs:
            try:
                job.result(60)
            except Exception as error:
                said.append(str(error))
    finally:
        queue.max_size = before
    assert said
    assert all("full" in text.lower() or "too many" in text.lower() for text in said), said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": "", "api_name": "/draw"}, "prompt is empty"),
        ({"prompt": "a", "cache": "nonsense", "api_name": "/draw"}, "Unknown cache"),
        ({"prompt": "a", "steps": 100000, "api_name": "/draw"}, "steps|Steps|maximum"),
        ({"prompt": "a", "ghvb_momentum": "much", "sampler": "ghvb", "api_name": "/draw"}, "Momentum must be"),
        ({"target": "a boot", "picture": None, "mask": None, "api_name": "/edit"}, "[Cc]hoose a picture"),
    ],
)
def test_errors_are_sentences_and_harm_nobody(client, arguments, said):
    with pytest.raises(Exception, match=said) as caught:
        client.predict(**arguments)
    assert "Traceback" not in str(caught.value)
    assert "site-packages" not in str(caught.value)
    assert drawn(client.predict(prompt="a red boot", steps=1, count=1, api_name="/draw")).any()


@pytest.mark.parametrize("content", [b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"GIF89a"])
def test_a_bad_upload_is_a_sentence(client, tmp_path, content):
    file = tmp_path / "picture.png"
    file.write_bytes(content)
    with pytest.raises(Exception, match="picture") as caught:
        client.predict(picture=handle_file(file), mask=None, source="", target="a boot", api_name="/edit")
    assert str(tmp_path) not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_upload_that_is_too_large_is_refused(live, tmp_path):
    answer = httpx.post(live.url + "gradio_api/upload", files={"files": ("x.png", b"\0" * (21 * 2**20))})
    assert answer.status_code == 413


def test_files_of_the_server_are_not_served(live, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = live.bench.settings.folders[0]
    for path in ("/etc/passwd", tmp_path / "secret.txt", folder / "secret.txt", "pyproject.toml", "../../etc/passwd"):
        for route in (f"gradio_api/file={path}", f"file={path}"):
            answer = httpx.get(live.url + route)
            assert answer.status_code in (403, 404)
            assert b"root:" not in answer.content
            assert b"secret" not in answer.content.replace(b"secret.txt", b"")


def test_cancel_frees_the_worker_within_a_step(live):
    mine, other = Client(live.url, verbose=False), Client(live.url, verbose=False)
    job = mine.submit(prompt="a red boot", steps=100, count=9, api_name="/draw")
    deadline = time.monotonic() + 30
    while not any("step" in output[0] for output in job.outputs()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "Nothing" in other.predict(api_name="/cancel_draw")  # another session's button is not mine
    assert "Cancelled" in mine.predict(api_name="/cancel_draw")
    job.result(30)
    assert "Cancelled" in job.outputs()[-1][0]
    done = int(re.search(r"after (\d+) of", job.outputs()[-1][0])[1])
    assert done < 100
    assert drawn(other.predict(prompt="a red boot", steps=1, count=1, api_name="/draw")).any()
    assert live.bench.desk.open_jobs == 0


def test_the_page_names_no_other_server(live):
    page = httpx.get(live.url).text
    found = set(re.findall(r"https?://([\w.-]+)", page)) - {"127.0.0.1", "localhost"}
    assert not [host for host in found if f'src="https://{host}' in page or f'href="https://{host}' in page]


def test_a_password_is_asked_for_where_there_is_one(tmp_path):
    from fastapi.testclient import TestClient

    from fewstep.apps.web.server import build
    from fewstep.apps.web.settings import AppSettings

    with TestClient(build(AppSettings(auth=("ann", "secret")))) as page:
        assert page.get("/healthz").status_code == 200
        assert page.get("/gradio_api/info").status_code == 401
        assert page.post("/gradio_api/upload", files={"files": ("x.png", b"x")}).status_code == 401
        assert page.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
        assert page.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200


def test_many_clients_at_once_read_the_page(live):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: httpx.get(live.url, timeout=60).status_code, range(20)))
    assert answers == [200] * 20
