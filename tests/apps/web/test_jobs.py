"""Jobs: one at a time, cancelled within a step, and none harmed by another."""

from __future__ import annotations

import threading
import time

import pytest

from fewstep.apps.web.jobs import Cancelled, Desk, Job, Snapshot, followed


def test_a_job_gives_snapshots_and_its_result():
    def work(job: Job) -> str:
        for i in range(4):
            time.sleep(0.12)
            job.step(i + 1, 4)
        return "done"

    items = list(followed(Job("test"), work))
    assert items[-1] == "done"
    seen = [item for item in items if isinstance(item, Snapshot)]
    assert [item.done for item in seen] == sorted(item.done for item in seen)
    assert any(item.left is not None for item in seen)


def test_a_cancelled_job_ends_at_its_next_step_and_frees_the_worker():
    done: list[int] = []
    job = Job("test")

    def work(job: Job) -> None:
        for i in range(1000):
            done.append(i)
            if i == 3:
                job.cancel()
            job.step(i + 1, 1000)

    with pytest.raises(Cancelled):
        list(followed(job, work))
    assert done == [0, 1, 2, 3]
    assert list(followed(Job("next"), lambda job: 7))[-1] == 7


def test_closing_the_iterator_ends_the_job_before_the_next_begins():
    ended = threading.Event()

    def work(job: Job) -> None:
        try:
            for i in range(1000):
                time.sleep(0.05)
                job.step(i + 1, 1000)
        finally:
            ended.set()

    items = followed(Job("test"), work)
    next(items)
    items.close()
    assert ended.is_set()


def test_two_jobs_never_compute_at_once():
    inside, most = [0], [0]

    def work(job: Job) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1

    threads = [threading.Thread(target=lambda: list(followed(Job("test"), work))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


def test_a_job_that_fails_leaves_the_next_alone():
    def fail(job: Job) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        list(followed(Job("test"), fail))
    assert list(followed(Job("test"), lambda job: 1))[-1] == 1


def test_a_waiting_job_can_be_cancelled():
    started, release = threading.Event(), threading.Event()

    def hold(job: Job) -> None:
        started.set()
        release.wait(5)

    holder = threading.Thread(target=lambda: list(followed(Job("test"), hold)))
    holder.start()
    started.wait(5)
    waiting = Job("test")
    waiting.cancel()
    with pytest.raises(Cancelled):
        list(followed(waiting, lambda job: 1))
    release.set()
    holder.join()


def test_a_desk_finds_the_jobs_of_its_session_alone():
    desk = Desk()
    mine, other = desk.open("a", "draw"), desk.open("b", "draw")
    assert desk.cancel("a", "edit") == []
    assert desk.cancel("a", "draw") == [mine]
    assert mine.cancelled
    assert not other.cancelled
    desk.close("a", mine)
    desk.close("b", other)
    assert desk.open_jobs == 0
