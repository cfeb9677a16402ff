"""`MaskedTextPipeline`: texts from masked language models, with any of the token schedulers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from .text_networks import check_vocabulary, condition_of, network_of, window_of
from .text_output import MaskedTextOutput, Teller, TextCallback
from .text_requests import Generators, check_numbers, parts_of, rows_of, seeds_of, whole, windows_of
from .text_run import WindowRun, check_scheduler, schedule_of
from .text_tokens import TextCodec, mask_token


class MaskedTextPipeline(DiffusionPipeline):
    """Writes texts with a masked language model by discrete diffusion.

    All masks are there from the start, and every network call turns some of them into tokens. The scheduler says which
    and how; swap it in one line, ``pipe.scheduler = DiscreteThetaScheduler.from_config(pipe.scheduler.config)``.

    *Models.* Any masked language model of transformers (BERT, RoBERTa, DistilBERT, ModernBERT, ...), or a module or
    function from tokens (B, L) to columns (B, L, V) as RADD, MDLM and SEDD are: see `condition`, and the scheduler's
    `prediction_type`. Special tokens that the tokenizer puts around a text stay as they are.

    *Long texts.* A text longer than the model's window is written window by window, left to right: each begins
    `context` tokens before the first token that is still masked, and is filled before the next one begins. What lies
    further back is not seen any more, and given tokens ahead are seen as far as the window reaches.

    *Steps and calls.* `num_inference_steps` counts the scheduler's steps in every window. A step of a two-stage method
    is two network calls, of all others one; methods in rate form add one call. `network_calls` counts calls instead.
    Calls that could say nothing new are not made: where the model is not told the time and no token changed, or where
    no mask is left. Both numbers are in the output.

    *Seeds.* With one generator a text, a text depends on its own generator alone and not on its batch mates (to the
    rounding of the network, whose kernels may differ between batch sizes). Draws are float64 on the generator's device.

    Args:
        model: see above.
        tokenizer: of transformers, with a mask token, or without one if the scheduler has a `mask_token_id`.
        scheduler: one of the token schedulers of `fewstep.samplers`, or diffusers' `AmusedScheduler`.
        condition: what the model is told beside the tokens: ``"none"``, ``"t"`` (1 noise, 0 data), ``"sigma"`` (total
            noise of the scheduler's noise schedule), or ``"auto"``, which goes by the names of the model's arguments.
        window: tokens that the model reads at once, special ones among them; None: what its configuration and its
            tokenizer say, and without limit where they say nothing.
    """

    model_cpu_offload_seq: Any = "model"
    config: Any
    model: Any
    tokenizer: Any
    scheduler: Any

    def __init__(
        self, model: Any, tokenizer: Any, scheduler: Any, condition: str = "auto", window: int | None = None
    ) -> None:
        super().__init__()
        check_scheduler(scheduler)
        condition_of(model, condition)
        if window is not None:
            whole("window", window, 1)
        self.register_modules(model=model, tokenizer=tokenizer, scheduler=scheduler)
        self.register_to_config(condition=condition, window=window)
        self._codec()

    def _codec(self) -> TextCodec:
        """The tokenizer as it is at present, checked against the model."""
        mask = mask_token(self.tokenizer, self.scheduler)
        codec = TextCodec(self.tokenizer, mask)
        check_vocabulary(self.model, codec.values, mask)
        return codec

    @property
    def mask_token_id(self) -> int:
        """Number of the mask token."""
        return mask_token(self.tokenizer, self.scheduler)

    @property
    def room(self) -> int | None:
        """Tokens of a text that the model reads at once, special ones left out; None: any number."""
        return self._room(self._codec())

    def _room(self, codec: TextCodec) -> int | None:
        size = self.config.window or window_of(self.model, self.tokenizer)
        if size is None:
            return None
        room = size - len(codec.head) - len(codec.tail)
        if room < 1:
            raise ValueError(f"a window of {size} tokens has no room beside the special tokens around a text")
        return room

    # -- the run -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        infill: str | Sequence[str] | None = None,
        length: int | None = None,
        num_inference_steps: int | None = 64,
        network_calls: int | None = None,
        guidance_scale: float = 1.0,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        num_texts_per_prompt: int = 1,
        batch_size: int = 32,
        context: int | None = None,
        blank: str | None = None,
        special_tokens: bool = False,
        generator: Generators = None,
        callback: TextCallback | None = None,
        output_type: str = "text",
        return_dict: bool = True,
    ) -> MaskedTextOutput | tuple[list[str] | list[torch.Tensor]]:
        """Write texts.

        Args:
            prompt: how each text begins, or None.
            infill: texts with blanks, instead of prompts: ``"To be, or not to [MASK][MASK]"``. A blank is one token.
            length: tokens of a text, prompt included; by default what the model reads at once.
            num_inference_steps: steps of the scheduler in every window; None: one network call for every mask, with
                which `FirstHittingScheduler` draws from the model's law exactly.
            network_calls: calls in every window, instead of steps.
            guidance_scale: how much the given tokens count; 1 is no guidance, see `guided`. Other values cost two
                sequences a call.
            temperature, top_p, top_k: shape the model's law alike at every call; None: what the scheduler says.
            num_texts_per_prompt: texts of every prompt, one after the other.
            batch_size: texts that go through the network together at most. Texts whose masks lie differently never do.
            context: tokens before the first mask that a window of a long text begins with; by default half of what the
                model reads at once.
            blank: how a blank is written in `infill`; by default as the tokenizer's mask token, or [MASK].
            special_tokens: whether special tokens other than the mask may be drawn.
            generator: one, or one a text.
            callback: told after every call, see `TextProgress`; an exception that it raises ends the run.
            output_type: ``"text"``, or ``"tokens"`` for tokens alone.
            return_dict: return a `MaskedTextOutput`, else a tuple of the texts (or tokens) alone.

        Raises:
            ValueError: something that cannot be; the sentence says what is allowed.
        """
        if output_type not in ("text", "tokens"):
            raise ValueError(f"output_type must be 'text' or 'tokens', got {output_type!r}")
        check_scheduler(self.scheduler)
        check_numbers(guidance_scale, num_inference_steps, network_calls, num_texts_per_prompt, batch_size)
        codec = self._codec()
        room = self._room(codec)
        texts = rows_of(codec, prompt, infill, length, blank, room)
        if guidance_scale != 1 and not any((text != codec.mask).any() for text in texts):
            raise ValueError("guidance is towards what was given, and there is no prompt; leave guidance_scale at 1")
        plans = [windows_of(text, codec.mask, room, context, infill is None) for text in texts]
        rows = [text for text in texts for _ in range(num_texts_per_prompt)]
        plans = [plan for plan in plans for _ in range(num_texts_per_prompt)]
        seeds = seeds_of(generator, [len(plan) for plan in plans])

        condition = condition_of(self.model, self.config.condition)
        run = WindowRun(
            network_of(self.model, condition, schedule_of(self.scheduler)),
            self.scheduler,
            codec,
            guidance=float(guidance_scale),
            special=special_tokens,
            shaping={"temperature": temperature, "top_p": top_p, "top_k": top_k},
            steps=num_inference_steps,
            calls=network_calls,
            time_aware=condition != "none",
        )
        parts = parts_of(rows, codec.mask, batch_size if run.batched else 1)
        total = sum(run.planned(window) for part in parts for window in plans[part[0]])
        done = list(rows)
        with self.progress_bar(total=total) as bar, _evaluating(self.model):
            teller = Teller(bar, callback, total, codec)
            for part in parts:
                tokens = torch.stack([rows[i] for i in part]).to(self._execution_device)
                given = tokens[0] != codec.mask
                for k, window in enumerate(plans[part[0]]):
                    sources = [torch.Generator().manual_seed(seeds[i][k]) for i in part]
                    teller.begin(part, tokens, window)
                    here = slice(window.begin, window.end)
                    tokens[:, here], calls = run.fill(window, tokens[:, here], given[here], sources, teller)
                    teller.end(calls)
                for i, row in zip(part, tokens.cpu(), strict=True):
                    done[i] = row
        self.maybe_free_model_hooks()
        written = [codec.decode(row) for row in done] if output_type == "text" else []
        if not return_dict:
            return (written if output_type == "text" else done,)
        return MaskedTextOutput(written, done, run.calls, run.skipped, run.sequences, run.windows)

    # -- files ---------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save model, tokenizer, scheduler and index, as diffusers does; weights as safetensors.

        Raises:
            ValueError: a model that has no `save_pretrained`; nothing is written.
        """
        if kwargs.get("safe_serialization") is False:
            raise ValueError("weights are saved as safetensors alone")
        for name in ("model", "tokenizer", "scheduler"):
            part = getattr(self, name)
            if not hasattr(part, "save_pretrained"):
                raise ValueError(
                    f"the {name}, {type(part).__name__}, has no save_pretrained; a model is saved if it is a "
                    "PreTrainedModel of transformers or a ModelMixin of diffusers"
                )
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """A saved pipeline, or a masked language model of transformers with its tokenizer, from a folder or the hub.

        Weights are read from safetensors alone, and no code of a model is ever run. Parts may be given as in diffusers:
        ``from_pretrained(folder, scheduler=...)``. A model without a scheduler of its own gets
        `DiscreteAdamsBashforthScheduler`.
        """
        from .text_loading import from_pretrained

        return from_pretrained(cls, super().from_pretrained, pretrained_model_name_or_path, **kwargs)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off while this lasts: two calls about the same tokens shall agree."""
    training = isinstance(model, torch.nn.Module) and model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


setattr(diffusers, MaskedTextPipeline.__name__, MaskedTextPipeline)  # so that diffusers finds it in a saved index
