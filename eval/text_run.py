"""``fewstep benchmark --task text``: samplers of masked language models at equal numbers of network calls.

Every sampler writes the same number of texts of the same length (after the same prompts, if there are any), and a
language model that was trained apart judges them. Columns of a row, each the mean over the seeds, with the standard
deviation over them as ``..._spread``:

    perplexity   of the judge, a token; low perplexity with low entropy is dull text, not good text
    entropy      of the characters of each text, in bits
    trigram_distance         squared distance of the law of 3-grams to that of held-out text, in 1e-4, without bias
    bigram_tv, trigram_tv    total variation to the same; settings say what real text has

``calls`` were counted by a hook on the network, ``calls_a_text`` are those that a text went through: a text in which
nothing changed since the last call is not shown to a network that knows no time. ``skipped`` is the rest, a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .benchmark_cells import Arrays, Cell
from .benchmark_metrics import number
from .task_options import TaskOptions, finite, option
from .task_run import Planned, Row, Task, item_seeds, over_seeds, split_by_seed
from .text_judge import law_distance, ngram_law, perplexity, shared_beginning, total_variation, unigram_entropy

#: Judges of shipped models.
JUDGES = {"verses": "verses-judge"}
#: The columns that have a spread.
MEANS = ("perplexity", "bits_per_character", "entropy", "trigram_distance", "bigram_tv", "trigram_tv")
_LENGTH = 256


@dataclass(frozen=True)
class TextOptions(TaskOptions):
    """What a comparison of samplers of text measures; what is not here is in `TaskOptions`.

    Attributes:
        judge: the language model that scores; by default that of the shipped model, and an exact chain judges itself.
        reference: file of real text that the model was not trained on.
        length: tokens of a text, prompt included.
        prompts: file of prompts, one a line; by default there are none.
        temperature, top_p: applied to the model's law for every sampler.
    """

    task: ClassVar[str] = "text"

    model: str = option("verses", "a masked language model, or oracle:chain[:STRENGTH][:masked|uniform]")
    judge: str | None = option(None, "an autoregressive language model that scores the texts")
    reference: str | None = option(None, "file of real text that the model was not trained on")
    length: int = option(_LENGTH, "tokens of a text")
    prompts: str | None = option(None, "file of prompts, one a line")
    temperature: float = option(1.0, "of the model's law")
    top_p: float | None = option(None, "nucleus of the model's law")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 2:
            raise ValueError(f"length must be a whole number of at least 2, got {self.length!r}")
        finite("temperature", self.temperature, 0)
        if self.temperature == 0:
            raise ValueError("temperature must be above 0; greedy choice is no sampling")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p!r}")
        exact = self.model.startswith("oracle:")
        useless = [n for n in ("judge", "reference", "prompts", "device", "dtype") if exact and getattr(self, n)]
        if useless:
            raise ValueError(
                f"{self.model} is an exact model that judges itself; leave {', '.join(f'--{n}' for n in useless)} away"
            )
        if not exact and self.judge is None and self.model not in JUDGES:
            raise ValueError(f"the model {self.model!r} brings no judge of its own; name a language model with --judge")


class TextTask(Task):
    """The comparison of samplers of text.

    Raises:
        ValueError, FileNotFoundError: models, prompts or samplers that are not there or do not fit.
    """

    name = "text"
    columns = (*(f"{c}{s}" for c in MEANS for s in ("", "_spread")), "calls", "calls_a_text", "skipped", "seconds",
               "solver_microseconds")  # fmt: skip

    def __init__(self, options: TextOptions) -> None:
        from .token_contenders import NEEDS_UNIFORM, contenders, select

        self.options: TextOptions = options
        self.notes = []
        kind = "uniform" if options.model.endswith(":uniform") else "masked"
        self.contenders = select(options.samplers, kind, "text")
        self.prompts = [""]
        if options.prompts is not None:
            from .benchmark_run import read_prompts

            self.prompts = read_prompts(options.prompts)
        self._load()
        self.model.start(
            self.prompts, options.length
        )  # prompts that do not fit are refused before anything is measured
        if "all" in options.samplers and kind == "masked":
            self.notes.append(NEEDS_UNIFORM)
        if not any(contenders(kind, "text")[made.name].fewest <= n for made in self.contenders for n in options.nfe):
            raise ValueError(f"none of the samplers can do with so few network calls: {options.nfe}")
        count = options.count
        self.real = self.reference.figures(self.judge, options.length, count) if self.reference else {}
        if self.reference is None:
            self.notes.append("the laws of n-grams are not compared: name a text to compare with by --reference")

    def _load(self) -> None:
        from .text_chain import ChainText
        from .text_reference import ChainReference, held_out, read_reference

        options = self.options
        self.model: Any
        self.judge: Any
        self.reference: Any = None
        if options.model.startswith("oracle:"):
            self.model = self.judge = ChainText.of_name(options.model)
            self.reference = ChainReference(self.model)
            self.judge_name = f"{options.model}, exact"
            return
        import torch

        from fewstep.pipelines.loading import torch_device

        from .text_judge import TextJudge
        from .text_models import MaskedText

        path = options.reference or held_out(options.model)
        self.reference = None if path is None else read_reference(path)
        self.judge_name = options.judge or JUDGES[options.model]
        device = torch_device(options.device)
        dtype = None if options.dtype is None else getattr(torch, options.dtype)
        self.judge = TextJudge.from_pretrained(self.judge_name, device)
        self.model = MaskedText.from_pretrained(options.model, device, dtype)

    def plan(self) -> list[Planned]:
        from .task_run import versions_of_tokens

        options = self.options
        common = {
            "kind": "text",
            "problem": dict(self.model.fingerprint),
            "judge": dict(self.judge.fingerprint),
            "reference": None if self.reference is None else self.reference.fingerprint,
            "versions": versions_of_tokens("text_judge", "text_models", "text_chain", "text_sampling", "text_run"),
            "prompts": self.prompts,
            **{name: getattr(options, name) for name in ("length", "temperature", "top_p", "seed", "seeds")},
        }
        made = []
        for nfe in options.nfe:
            for contender in self.contenders:
                if contender.fewest > nfe:
                    continue
                own = {"sampler": contender.method, "fields": dict(contender.fields), "nfe": nfe}
                cell = Cell({**common, **own}, options.count * options.seeds, options.batch)
                row = {
                    "sampler": contender.name,
                    "family": contender.family,
                    "origin": contender.origin,
                    "nfe": nfe,
                    "samples": cell.items,
                }
                made.append(Planned(cell, row, contender))
        return made

    def compute(self, planned: Planned, items: range) -> Mapping[str, Any]:
        from fewstep.samplers import Shaping

        from .text_sampling import sample_text

        options = self.options
        prompts = [self.prompts[i % len(self.prompts)] for i in items]
        start = self.model.start(prompts, options.length)
        shaping = Shaping(options.temperature, options.top_p)
        nfe = planned.cell.settings["nfe"]
        run = sample_text(self.model, planned.contender, nfe, start, item_seeds(options, items), shaping)
        texts = self.model.texts(run.tokens)
        # a tokenizer may have changed the prompt: what counts as given is what it reads like in the text
        known = [self.model.texts(row[row != self.model.mask][None])[0] if any(prompts) else "" for row in start]
        given = [shared_beginning(text, beginning) for text, beginning in zip(texts, known, strict=True)]
        score = self.judge.score(texts, given)
        written = [text[len(prompt) :] for text, prompt in zip(texts, given, strict=True)]
        return {
            "texts": np.array(written),
            "nats": score.nats,
            "tokens": score.tokens,
            "characters": score.characters,
            "entropy": np.array([unigram_entropy(text) for text in written]),
            "calls": np.full(len(items), float(run.calls)),
            "sequences": float(run.sequences),
            "seconds": run.seconds,
            "solver": run.step_microseconds,
        }

    def merge(self, cell: Cell, arrays: Arrays) -> dict[str, Any]:
        parts = split_by_seed(cell.items, cell.settings["seeds"])
        texts = arrays["texts"].tolist()
        values: dict[str, list[float | None]] = {name: [] for name in MEANS}
        for part in parts:
            nats, tokens, spelled = (arrays[name][part] for name in ("nats", "tokens", "characters"))
            values["perplexity"].append(perplexity(nats, tokens))
            values["bits_per_character"].append(float(nats.sum() / spelled.sum() / math.log(2)))
            values["entropy"].append(float(arrays["entropy"][part].mean()))
            for n, name in ((2, "bigram_tv"), (3, "trigram_tv")):
                long = [text for text in texts[part] if len(text) >= n]
                known = self.reference is not None and bool(long)
                values[name].append(total_variation(ngram_law(long, n), self.reference.law(n)) if known else None)
            long = [text for text in texts[part] if len(text) >= 3]
            known = self.reference is not None and len(long) > 1
            distance = 1e4 * law_distance(long, self.reference.law(3), 3) if known else None
            values["trigram_distance"].append(distance)
        row: dict[str, Any] = {}
        for name in MEANS:
            row[name], row[f"{name}_spread"] = over_seeds(values[name])
        a_text = float(arrays["sequences"].sum()) / cell.items
        return {
            **row,
            "calls": number(float(arrays["calls"].mean())),
            "calls_a_text": number(a_text, 4),
            "skipped": number(max(cell.settings["nfe"] - a_text, 0.0), 4),
            "seconds": number(float(arrays["seconds"].sum()), 4),
            "solver_microseconds": number(float(np.median(arrays["solver"])), 4),
        }

    def settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "model": options.model,
            "judge": self.judge_name,
            "process": self.model.kind,
            "length": options.length,
            "samples": options.count,
            "seeds": options.seeds,
            "first_seed": options.seed,
            "batch": options.batch,
            "prompts": "none" if self.prompts == [""] else len(self.prompts),
            "temperature": options.temperature,
            "top_p": options.top_p,
            "device": self.model.device.type,
            "dtype": self.model.fingerprint["dtype"],
            "reference": None if self.reference is None else self.reference.name,
            **self.real,
        }

    def markdown(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
        from .text_output import markdown_table

        return markdown_table(rows)

    def lines(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[str]:
        from .text_output import verdicts

        return [verdict.sentence() for verdict in verdicts(rows, settings)]

    def plots(self, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path) -> list[Path]:
        from .text_output import text_plots

        return text_plots(rows, settings, folder)
