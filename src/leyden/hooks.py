"""Emit one hook to callbacks and module, in the one written order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol

from leyden.by_position import fitted, tell_stage
from leyden.callback import Callback
from leyden.hook_facts import beyond_mixins, hooks_of

if TYPE_CHECKING:
    from leyden.datamodule import LightningDataModule
    from leyden.module import LightningModule
    from leyden.profilers.base import Profiler

P = ParamSpec("P")
Hook = Callable[..., Any]

HOOK_NAMES: tuple[str, ...] = tuple(hooks_of(Callback))
"""Every hook of a callback, in firing order."""
CALLBACK_HOOKS: dict[str, int] = {name: len(inspect.signature(getattr(Callback, name)).parameters) - 1 for name in HOOK_NAMES}
"""The same, and how many arguments a callback gets."""
MODULE_HOOKS: dict[str, int] = {
    name: CALLBACK_HOOKS[name] - 2  # without trainer and pl_module
    for name, shared in hooks_of(Callback).items()
    if shared
}
"""The hooks that a module shares with the callbacks, and how many arguments it gets."""


class Seat(Protocol):
    """The run whose hooks are emitted, as far as it is asked: receivers get it as their trainer."""

    callbacks: list[Callback]
    datamodule: LightningDataModule | None
    profiler: Profiler
    strategy: Any

    @property
    def lightning_module(self) -> LightningModule: ...


class Hooks:
    """Who overrides what, looked up once when a verb starts. A hook that nobody overrides costs one empty tuple."""

    def __init__(
        self,
        run: Seat,
        callbacks: Iterable[Callback],
        module: LightningModule,
        instead: Mapping[tuple[int, str], Callable[..., Any]] | None = None,
        last: Iterable[Callback] = (),
    ) -> None:
        self.run = run
        self.instead = instead or {}  # by owner's id and hook's name: what to call where the signature is another year's
        self._profiler = run.profiler if run.profiler.leyden_active else None
        self.where: str | None = None  # the hook or step that runs now: `self.log` asks
        self.told = 0  # receivers of the running hook that were called, the one that runs included
        self.broken: str | None = None  # the hook in which something raised
        # a hook, how many receivers were told of it before the run was cut, and who
        self.heard: tuple[str, int, list[str] | None] | None = None
        self._already: tuple[str, ...] = ()  # they, while the others are being told
        self._of_rest: tuple[Callable[..., Any], ...] = ()
        self._names: dict[tuple[Callable[..., Any], ...], tuple[str, ...]] = {}  # receivers' names, by the tuple of them
        self._receivers: dict[Hook, tuple[Callable[..., Any], ...]] = {}
        self._checkpoint_phase: dict[Hook, tuple[Callable[..., Any], ...]] = {}
        self._told, self._of_run = list(callbacks), list(run.callbacks)
        self._beside = module, tuple(last)
        self._look_up()

    def meet(self, callbacks: list[Callback]) -> None:
        """The run's callbacks are these from here on. Who is told beside them stays."""
        told, of_run = self._told, [id(each) for each in self._of_run]
        if of_run != [id(each) for each in callbacks]:
            place = next((number for number, each in enumerate(told) if id(each) in of_run), len(told))
            told, after = ([each for each in part if id(each) not in of_run] for part in (told[:place], told[place:]))
            self._told, self._of_run = [*told, *callbacks, *after], list(callbacks)
            self._look_up()

    def _look_up(self) -> None:
        module, last = self._beside
        for name in HOOK_NAMES:
            hook = getattr(Callback, name)
            receivers: list[tuple[str, Callable[..., Any]]] = []
            waiting: list[tuple[str, Callable[..., Any]]] = []
            for callback in self._told:
                if overrides(callback, hook) and callback.leyden_wants(name):
                    found = waiting if in_checkpoint_phase(callback, hook) else receivers
                    found.append((_name_of(callback), self._to_callback(callback, name, module)))
            if name in MODULE_HOOKS and overrides(module, _module_hook(name)):
                method = fitted(self._method(module, name), MODULE_HOOKS[name])
                receivers.append((_MODULE, self._measured(module, name, method)))
            for callback in last:  # told after the module
                if overrides(callback, hook):
                    receivers.append((_name_of(callback), self._to_callback(callback, name, module)))
            for told, found in ((self._receivers, receivers), (self._checkpoint_phase, waiting)):
                told[hook] = tuple(receiver for _, receiver in found)
                self._names[told[hook]] = tuple(name_of_it for name_of_it, _ in found)

    def _to_callback(self, callback: Callback, name: str, module: LightningModule) -> Callable[..., Any]:
        method = fitted(self._method(callback, name), CALLBACK_HOOKS[name])
        return self._measured(callback, name, partial(method, self.run, module))

    def _method(self, owner: object, name: str) -> Callable[..., Any]:
        return self.instead.get((id(owner), name)) or getattr(owner, name)

    def _measured(self, owner: object, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if self._profiler is None else self._profiler.leyden_around(self._action(owner, name), function)

    def _action(self, owner: object, name: str) -> str:
        """The profiler's name of what ``owner`` does under ``name``."""
        if owner is self.run:
            return f"[Strategy]{type(self.run.strategy).__name__}.{name}"
        if isinstance(owner, Callback):
            return f"[Callback]{_name_of(owner)}.{name}"
        if owner is self.run.datamodule:
            return f"[LightningDataModule]{type(owner).__name__}.{name}"
        return f"[LightningModule]{type(self.run.lightning_module).__name__}.{name}"

    def emit(self, hook: Callable[Concatenate[Any, Any, Any, P], Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call ``hook`` on every callback that overrides it, then on the module.

        :attr:`told` counts who was called, the one that is running included: a checkpoint that is taken meanwhile holds it.
        """
        receivers = self._receivers[hook]
        if receivers:
            self._tell(hook, receivers, args)

    def emit_checkpoint_phase(
        self, hook: Callable[Concatenate[Any, Any, Any, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call ``hook`` on the callbacks that read or save what the others have done by then."""
        receivers = self._checkpoint_phase[hook]
        if receivers:
            self._tell(hook, receivers, args)

    def _tell(self, hook: Hook, receivers: tuple[Callable[..., Any], ...], args: tuple[Any, ...]) -> list[Any]:
        where, told = self.where, self.told
        if self.heard is not None:
            receivers = self._not_told(hook, receivers)
        self.where = hook.__name__
        answers = []
        try:
            for self.told, receiver in enumerate(receivers, 1):
                answers.append(receiver(*args))
        except BaseException:
            self.where, self.broken = where, hook.__name__
            self.told -= 1  # what raised was not told to the end: a run that goes on from here tells it again
            raise
        self._already = ()
        self.where, self.told = where, told
        return answers

    def _not_told(self, hook: Hook, receivers: tuple[Callable[..., Any], ...]) -> tuple[Callable[..., Any], ...]:
        """Of ``receivers`` those who were not told before the run was cut, each known by its name: others may stand there now."""
        names = self._names[receivers]
        count, told = self.take_heard(hook.__name__)
        left = list(names[:count] if told is None else told)  # a file of 0.1.0 says how many
        kept = []
        for name, receiver in zip(names, receivers, strict=True):
            if name in left:
                left.remove(name)
            else:
                kept.append((name, receiver))
        self._already = tuple(names[:count] if told is None else told)
        rest = tuple(receiver for _, receiver in kept)
        self._names[rest] = tuple(name for name, _ in kept)
        self._of_rest = rest
        return rest

    def take_heard(self, name: str) -> tuple[int, list[str] | None]:
        """How many were told of the hook ``name`` before the run was cut, and who. Asked once: nothing else was cut."""
        heard, self.heard = self.heard, None
        return (heard[1], heard[2]) if heard is not None and heard[0] == name else (0, [])

    def names_told(self, hook: Hook, in_checkpoint_phase: bool) -> list[str]:
        """Who was told of ``hook``, which is being told or has broken off: callbacks by their state's key, and the module."""
        receivers = (self._checkpoint_phase if in_checkpoint_phase else self._receivers)[hook]
        if self._already:
            receivers = self._of_rest
        return [*self._already, *self._names[receivers][: self.told]]

    def told_all(self, hook: Hook, told: list[str]) -> bool:
        """Whether these are all who hear of ``hook``."""
        return not set(self._names[self._receivers[hook]]) - set(told)

    def left(self, hook: Hook, checkpoint_phase: bool = False) -> int:
        """How many receivers of the running ``hook`` are still to be told."""
        return len((self._checkpoint_phase if checkpoint_phase else self._receivers)[hook]) - self.told

    @contextmanager
    def unfinished(self) -> Iterator[None]:
        """The running receiver calls something whose answer it needs: until it has that, it does not count as told."""
        self.told -= 1
        try:
            yield
        finally:
            self.told += 1

    def ask(self, hook: Callable[Concatenate[Any, Any, Any, P], Any], *args: P.args, **kwargs: P.kwargs) -> list[Any]:
        """As :meth:`emit`, and return the answers. Only ``on_train_batch_start`` has one: ``-1`` ends the epoch."""
        return self._tell(hook, self._receivers[hook], args)

    def inside(
        self, name: str, function: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]] | None = None
    ) -> Callable[..., Any]:
        """``function``, with ``name`` noted as the place where we are while it runs, and ``context`` entered."""

        def noted(*args: Any) -> Any:
            before, self.where = self.where, name
            try:
                return function(*args)
            finally:
                self.where = before

        def noted_in_context(*args: Any) -> Any:
            before, self.where = self.where, name
            try:
                with context():  # type: ignore[misc]  # chosen below, where it is not None
                    return function(*args)
            finally:
                self.where = before

        return noted if context is None else noted_in_context

    def tell_checkpoint(self, hook: Hook, checkpoint: dict[str, Any]) -> None:
        """``on_save_checkpoint`` or ``on_load_checkpoint``. Inside another hook, whose count of receivers goes on from here."""
        before, self.where = self.where, hook.__name__
        try:
            for receiver in self._receivers[hook]:
                receiver(checkpoint)
        finally:
            self.where = before

    def receivers(self, hook: Hook) -> tuple[Callable[..., Any], ...]:
        """Who hears of ``hook``, each to be called with the hook's own arguments."""
        return self._receivers[hook]

    def listens(self, hook: Hook) -> bool:
        """Whether anybody overrides ``hook``."""
        return bool(self._receivers[hook])

    def has_checkpoint_phase(self, hook: Hook) -> bool:
        """Whether any callback is told of ``hook`` in the checkpoint phase."""
        return bool(self._checkpoint_phase[hook])

    def call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a module's method with ``name`` noted as the place where we are."""
        if self._profiler is not None:
            method = args[0] if function is tell_stage else function
            function = self._profiler.leyden_around(self._action(getattr(method, "__self__", None), name), function)
        before, self.where = self.where, name
        try:
            return function(*args, **kwargs)
        finally:
            self.where = before

    def call_module(self, hook: Hook, *args: Any) -> Any:
        """:meth:`call` of the module's own version of ``hook``."""
        return self.call(hook.__name__, getattr(self.run.lightning_module, hook.__name__), *args)


PHASES = ("first", "given", "checkpoint")
_WITH_CHECKPOINT_PHASE = (Callback.on_train_batch_end, Callback.on_validation_end, Callback.on_train_epoch_end)


def phase_of(callback: Callback) -> str:
    """One of :data:`PHASES`. What means nothing here is its author's own."""
    return callback.leyden_phase if callback.leyden_phase in PHASES else "given"


def in_checkpoint_phase(callback: Callback, hook: Hook) -> bool:
    """Whether the callback is told of ``hook`` after the module, and after the row of metrics has been written."""
    if hook is Callback.on_train_epoch_end and callback.leyden_reads_epoch_metrics is True:
        return True
    return hook in _WITH_CHECKPOINT_PHASE and phase_of(callback) == "checkpoint"


_MODULE = "the module"


def _name_of(callback: Callback) -> str:
    """The callback's name among those that were told of a hook. Two of one name are told apart by their number only."""
    try:
        return str(callback.state_key)
    except Exception:  # a key that is made of what is not there yet is no reason to end a run
        return type(callback).__qualname__


def _module_hook(name: str) -> Hook:
    from leyden.module import LightningModule  # the module's file names this one's types

    return getattr(LightningModule, name)  # type: ignore[no-any-return]  # a function of the class


def overrides(part: object, hook: Hook) -> bool:
    """Whether ``part`` (a callback, module or datamodule) brings its own version of the base class's function ``hook``."""
    if getattr(type(part), hook.__name__, None) is hook and hook.__name__ not in getattr(part, "__dict__", ()):
        return False  # nearly always, and the way below is long
    mine = beyond_mixins(part, hook.__name__, inspect.getattr_static(part, hook.__name__, None), hook)
    return callable(getattr(part, hook.__name__, None)) if mine is None else mine is not hook
