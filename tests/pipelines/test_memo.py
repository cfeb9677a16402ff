"""Networks that remember: the same answers, bit by bit, with fewer calls."""

import copy

import pytest
import torch
from diffusers.hooks import HookRegistry

from fewstep.pipelines import load_model
from fewstep.pipelines.memo import NetworkMemo
from fewstep.pipelines.tuning import PipelineRunner
from fewstep.samplers import AdamsBashforth
from fewstep.samplers.tuning import record, tune


class Network(torch.nn.Module):
    """2 x + t + text, which notes how often it was truly run."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def forward(self, x, t, text=None, return_dict=True):
        self.runs += 1
        total = 2 * x + t + (0 if text is None else text)
        return {"sample": total} if return_dict else (total,)


def test_the_same_question_is_asked_once_and_any_other_anew():
    net, x, text = Network(), torch.arange(4.0), torch.ones(4)
    memo = NetworkMemo([net])
    questions = [
        ((x, 1.0, text), {}),
        ((x, 2.0, text), {}),
        ((x, torch.tensor(1.0), text), {}),
        ((x.double(), 1.0, text), {}),
        ((x.reshape(2, 2), 1.0), {}),
        ((x + 1e-6, 1.0, text), {}),
        ((x, 1.0, text + 1), {}),
        ((x, 1.0, text), {"return_dict": False}),
    ]
    with memo.installed():
        first = [net(*args, **kwargs) for args, kwargs in questions]
        assert net.runs == memo.calls == len(questions)
        again = [net(*args, **kwargs) for args, kwargs in questions]
    assert net.runs == memo.calls == len(questions)
    for a, b in zip(first, again, strict=True):
        assert type(a) is type(b)
        a, b = (a["sample"], b["sample"]) if isinstance(a, dict) else (a[0], b[0])
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_what_is_done_to_an_answer_does_not_reach_the_memory():
    net, x = Network(), torch.arange(4.0)
    with NetworkMemo([net]).installed():
        net(x, 0.0)["sample"].zero_()
        second = net(x, 0.0)["sample"]
        second.zero_()
        assert torch.equal(net(x, 0.0)["sample"], 2 * x)


def test_the_answer_longest_unused_goes_first():
    net = Network()
    memo = NetworkMemo([net], size=2)
    x = torch.zeros(1)
    with memo.installed():
        for t in (1.0, 2.0, 1.0, 3.0, 1.0):  # 2 is forgotten, 1 is kept
            net(x, t)
        assert memo.calls == 3
        net(x, 2.0)
    assert memo.calls == 4


def test_two_networks_do_not_answer_for_each_other():
    nets, x = [Network(), Network()], torch.zeros(1)
    memo = NetworkMemo(nets)
    with memo.installed():
        for _ in range(2):
            for net in nets:
                net(x, 1.0)
    assert [net.runs for net in nets] == [1, 1]


def test_afterwards_the_network_is_as_it_was_also_after_an_error():
    net = Network()
    memo = NetworkMemo([net])
    with pytest.raises(ZeroDivisionError), memo.installed():
        raise ZeroDivisionError
    assert "forward" not in vars(net)
    own = net.forward
    net.forward = own  # as offloading leaves it
    with memo.installed():
        net(torch.zeros(1), 1.0)
        net(torch.zeros(1), 1.0)
    assert vars(net)["forward"] is own
    assert net.runs == memo.calls == 2  # what another library put there is called each time


def test_a_network_under_hooks_is_called_each_time():
    net = Network()
    HookRegistry.check_if_exists_or_initialize(net)
    memo = NetworkMemo([net])
    with memo.installed():
        net(torch.zeros(1), 1.0)
        net(torch.zeros(1), 1.0)
    assert net.runs == memo.calls == 2


def test_a_question_without_a_digest_is_asked_each_time():
    net = Network()
    memo = NetworkMemo([net])
    with memo.installed():
        for _ in range(2):
            net(torch.zeros(1), 1.0, return_dict=copy)
    assert net.runs == 2


def test_tuning_finds_the_same_with_half_of_the_calls():
    found, calls = [], []
    for size in (0, 64):
        runner = PipelineRunner(load_model("garments"), ["a red dress", "a blue bag"], 2.0, [1, 2])
        runner.memo.size = size
        process = runner.scheduler(AdamsBashforth(order=1)).process
        first = process.at(999.0).ratio
        path = record(runner, process, first, 0.05, 21)
        before = runner.calls
        found.append(tune(runner, process, path, 4, rounds=1))
        calls.append(runner.calls - before)
    assert found[0] == found[1]
    assert calls[0] == found[0].calls
    assert calls[1] < 0.5 * calls[0]
