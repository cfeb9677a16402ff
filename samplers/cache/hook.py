"""The cache as a hook of diffusers: the one file of the samplers beside the schedulers that imports diffusers.

A hook on the root of a denoiser replaces its forward pass and needs nothing of the model: not `CacheMixin`, whose
`enable_cache` takes the caches of diffusers only, nor any knowledge of its blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import StateManager
from torch import nn

from .branches import signature
from .lane import Call, Lane
from .session import Session, compiled

HOOK = "ab_cache"
SIDE_HOOK = "ab_cache_side"
_LOCK = threading.RLock()


class _ThreadContexts(StateManager):
    """The name that a pipeline gives a call (`cache_context`), in the thread that gave it."""

    def __init__(self) -> None:
        self._mine = threading.local()
        super().__init__(cast(Any, dict))

    @property
    def _context(self) -> Any:
        return getattr(self._mine, "context", None)

    @_context.setter
    def _context(self, value: Any) -> None:
        self._mine.context = value


class ABCacheHook(ModelHook):
    """Replaces a denoiser's forward pass; sessions come and go, and a thread without one is left alone."""

    _is_stateful = True

    def __init__(self) -> None:
        super().__init__()
        self.contexts = _ThreadContexts()  # diffusers looks for state managers among the attributes of a hook
        self.shared: tuple[Session, str] | None = None
        self.mine: dict[int, tuple[Session, str]] = {}

    def __deepcopy__(self, memo: Any) -> ABCacheHook:
        """Refused: hooks hold on to the forward pass they found, so a copy would run the network it was made from."""
        raise TypeError("a denoiser cannot be copied while an AB-Cache is on it; take it off first (remove_ab_cache)")

    def session(self) -> tuple[Session, str] | None:
        """What is on in this thread, and the name that this denoiser has there."""
        return self.mine.get(threading.get_ident(), self.shared)

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        lane, call = self._begin(module, args, kwargs)
        if call.answered:
            return call.answer
        try:
            output = cast(Any, self.fn_ref).original_forward(*args, **kwargs)
        except BaseException:
            self._finish(lane)
            raise
        self._end(lane, call, output)
        return output

    # only the network is for a compiler: counters would be compiled into its graphs as constants

    @torch.compiler.disable
    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Lane | None, Call]:
        found = self.session()
        if found is None or module.training:
            return None, Call()
        session, name = found
        session.started()
        lane = session.lane(name)
        return lane, lane.begin(args, kwargs, self.contexts._context)

    @torch.compiler.disable
    def _end(self, lane: Lane | None, call: Call, output: Any) -> None:
        if lane is not None:
            lane.end(call, output)

    @torch.compiler.disable
    def _finish(self, lane: Lane | None) -> None:
        if lane is not None:
            lane.finish()

    def reset_state(self, module: nn.Module) -> nn.Module:
        """The pipeline that runs in this thread says that its run is over."""
        found = self.session()
        if found is not None:
            found[0].lane(found[1]).finish()
        return module


class SideHook(ModelHook):
    """On a network that only feeds a denoiser (a ControlNet): rests where the denoiser is going to rest."""

    def __init__(self, denoiser: ABCacheHook) -> None:
        super().__init__()
        self.denoiser = denoiser

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        lane, key = self._begin(module, args, kwargs)
        if lane is not None and key in lane.side and lane.skips_next():
            return lane.side[key]
        output = cast(Any, self.fn_ref).original_forward(*args, **kwargs)
        if lane is not None:
            lane.side[key] = output
        return output

    @torch.compiler.disable
    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Lane | None, Any]:
        found = self.denoiser.session()
        if found is None or module.training or torch.is_grad_enabled():
            return None, None
        lane = found[0].lane(found[1])
        lane.meet(kwargs.get("timestep", args[1] if len(args) > 1 else None))
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        return lane, (id(self), signature(tensors))


@contextmanager
def _beneath_offloading(module: nn.Module) -> Iterator[None]:
    """Let a change of `module.forward` happen below a hook of accelerate.

    accelerate takes its hook off and puts it on again at the end of every run of an offloaded pipeline, and restores
    the forward pass that it found: a hook above its own would be gone after the first run.
    """
    held: Any = module
    if not hasattr(module, "_hf_hook") or "_old_forward" not in vars(module):
        yield
        return
    outer = held.forward
    held.forward = held._old_forward
    try:
        yield
    finally:
        held._old_forward = held.forward
        held.forward = outer


def hook_of(module: nn.Module) -> ABCacheHook | None:
    """The cache on a module, if there is one."""
    registry = getattr(module, "_diffusers_hook", None)
    found = registry.get_hook(HOOK) if registry is not None else None
    return found if isinstance(found, ABCacheHook) else None


def _register(module: nn.Module, hook: ModelHook, name: str) -> None:
    if compiled(module) is not None and "_diffusers_hook" not in vars(module):
        # a hook on what is wrapped would break the graph of the compiled whole
        object.__setattr__(module, "_diffusers_hook", HookRegistry(module))
    with _beneath_offloading(module):
        registry = HookRegistry.check_if_exists_or_initialize(module)
        registry.register_hook(hook, name)
    registry.invalidate_child_registries_cache()


def _unregister(module: nn.Module, name: str) -> None:
    registry: Any = module._diffusers_hook
    holder: nn.Module = registry._module_ref
    with _beneath_offloading(holder):
        registry.remove_hook(name, recurse=False)
        if vars(holder).get("forward") == type(holder).forward.__get__(holder):
            del holder.forward  # what the class has, as before the first hook
    registry.invalidate_child_registries_cache()
    if not registry.hooks:
        object.__delattr__(holder, "_diffusers_hook")


def _reach(module: nn.Module) -> None:
    """Let the reset that every pipeline ends with reach a model that has no `CacheMixin`, or a compiled one."""
    inner = compiled(module)
    if inner is None and hasattr(module, "_reset_stateful_cache"):
        return

    def reset(recurse: bool = True) -> None:
        cast(Any, module)._diffusers_hook.reset_stateful_hooks(recurse=recurse)
        if inner is not None and hasattr(inner, "_reset_stateful_cache"):
            cast(Any, inner)._reset_stateful_cache(recurse)

    reset.made_by = HOOK  # type: ignore[attr-defined]
    object.__setattr__(module, "_reset_stateful_cache", reset)


def install(session: Session, sides: Mapping[str, nn.Module], this_thread: bool) -> None:
    """Put a session on its denoisers, and a `SideHook` on the networks that feed the first of them.

    Raises:
        ValueError: a denoiser has a cache already; nothing is changed then.
    """
    me = threading.get_ident()
    with _LOCK:
        for name, module in session.modules.items():
            hook = hook_of(module)
            if hook is not None and (me in hook.mine or hook.shared is not None or not this_thread):
                raise ValueError(
                    f"the denoiser {name} ({type(module).__name__}) has an AB-Cache already; take it off first with "
                    "remove_ab_cache, or leave the ab_cache block"
                )
        first: ABCacheHook | None = None
        for name, module in session.modules.items():
            hook = hook_of(module)
            if hook is None:
                hook = ABCacheHook()
                _register(module, hook, HOOK)
                _reach(module)
            if this_thread:
                hook.mine[me] = (session, name)
            else:
                hook.shared = (session, name)
            first = first or hook
        for module in sides.values():
            registry = getattr(module, "_diffusers_hook", None)
            if first is not None and (registry is None or registry.get_hook(SIDE_HOOK) is None):
                _register(module, SideHook(first), SIDE_HOOK)


def uninstall(modules: Mapping[str, nn.Module], sides: Mapping[str, nn.Module], this_thread: bool) -> None:
    """Take sessions off, and the hooks with the last of them: afterwards the modules are as they were before."""
    with _LOCK:
        for module in modules.values():
            hook = hook_of(module)
            if hook is None:
                continue
            found = hook.mine.pop(threading.get_ident(), None) if this_thread else hook.shared
            if not this_thread:
                hook.shared = None
            if found is not None:
                for name, lane in found[0].lanes():
                    if found[0].modules[name] is module:
                        lane.finish()
            if hook.shared is None and not hook.mine:
                for held in (module, cast(Any, module)._diffusers_hook._module_ref):
                    if getattr(vars(held).get("_reset_stateful_cache"), "made_by", None) == HOOK:
                        object.__delattr__(held, "_reset_stateful_cache")
                _unregister(module, HOOK)
        for module in sides.values():
            registry = getattr(module, "_diffusers_hook", None)
            side = registry.get_hook(SIDE_HOOK) if registry is not None else None
            if isinstance(side, SideHook) and side.denoiser.shared is None and not side.denoiser.mine:
                _unregister(module, SIDE_HOOK)
