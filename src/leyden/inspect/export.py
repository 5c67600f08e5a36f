"""A module in the forms in which it runs elsewhere: ONNX, a program of :mod:`torch.export`, TorchScript."""

import contextlib
import inspect
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leyden.checked import check_annotated, is_switch
from leyden.checkpoint.files import is_remote, local_path
from leyden.checkpoint.plain_names import eager_attributes, unwrapped
from leyden.checkpoint.single_file import check_place, write_file
from leyden.devices.transfer import move_data_to_device
from leyden.errors import InvalidOption, InvalidType, LeydenError, MissingExample, MissingPackage, Unsupported
from leyden.loggers.undisturbed import undisturbed
from leyden.spelling import refuse_unknown
from leyden.types import Path

_EXAMPLES = (Tensor, list, tuple, Mapping)


class Exports:
    """A module's methods that write it in another form. Each leaves the module as it was: modes, random state, trainer."""

    def to_onnx(self: Any, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Write :meth:`forward` as an ONNX model, in eval mode, by torch's exporter of today.

        Args:
            file_path: a path, an URL, a file that is open for writing bytes, or ``None``, to get the model and write nothing.
            input_sample: what ``forward`` gets: a tensor, a tuple of its arguments or a dict of them by name. It takes the way
                of a batch, through ``on_before_batch_transfer`` and those that follow. Default: :attr:`example_input_array`.
            kwargs: go to :func:`torch.onnx.export`: ``dynamic_shapes``, ``input_names``, ``opset_version`` ...;
                ``dynamo=False`` takes the exporter of old, which only writes to a file.

        Returns:
            What :func:`torch.onnx.export` returns: a ``torch.onnx.ONNXProgram``, or ``None`` with ``dynamo=False``.

        Raises:
            MissingExample: there is no example.
            InvalidOption: ``forward`` does not take the example; ``file_path`` cannot be a file; or one of ``kwargs`` has a type
                that torch has no use for.
            MissingPackage: ``onnx`` or ``onnxscript`` is not installed.
            CheckpointWriteFailed: nothing can be written there.
        """
        _check_options("to_onnx", kwargs, torch.onnx.export)
        kwargs.setdefault("dynamo", True)
        for package in ("onnx", "onnxscript") if kwargs["dynamo"] else ("onnx",):
            if find_spec(package) is None:
                raise MissingPackage(package, "to_onnx")
        if file_path is not None:
            check_place("file_path", file_path)
        arguments, named = _arguments(self, input_sample, "to_onnx", "input_sample")
        if file_path is None and not kwargs["dynamo"]:
            raise InvalidOption("file_path", None, "a file: the exporter of dynamo=False returns nothing")
        named = {**named, **(kwargs.pop("kwargs", None) or {})}
        with _trying(self, arguments, named, input_sample, "input_sample"), _bytes_for(file_path, kwargs) as path:
            return torch.onnx.export(self, arguments, path, kwargs=named or None, **kwargs)

    def to_torchscript(
        self: Any,
        file_path: Path | Any | None = None,
        method: Literal["script", "trace"] | None = "script",
        example_inputs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The module as TorchScript, in eval mode, as long as torch has that: it is deprecated, see :func:`to_exported_program`.

        Args:
            file_path: where to write it too: a path, an URL, or a file that is open for writing bytes.
            method: ``"script"`` reads the code of ``forward``, ``"trace"`` records what it does with ``example_inputs``.
            example_inputs: as ``input_sample`` of :meth:`to_onnx`.
            kwargs: go to :func:`torch.jit.script` or :func:`torch.jit.trace`.

        Raises as :meth:`to_onnx`.
        """
        if file_path is not None:
            check_place("file_path", file_path)
        if method not in ("script", "trace"):
            raise InvalidOption("method", method, '"script" or "trace"')
        if not hasattr(torch, "jit"):
            raise Unsupported(
                "This torch has no TorchScript any more. Take leyden.utilities.export.to_exported_program(module, file_path)."
            )
        if method == "script":
            _check_options("to_torchscript", kwargs, torch.jit.script)
            with for_use(self):
                made = torch.jit.script(self, **kwargs)
        else:
            _check_options("to_torchscript", kwargs, torch.jit.trace)
            arguments, named = _arguments(self, example_inputs, "to_torchscript", "example_inputs")
            checks = kwargs.get("check_inputs")
            if checks is not None:
                if not isinstance(checks, Iterable) or not all(isinstance(each, _EXAMPLES) for each in checks):
                    raise InvalidType("check_inputs", checks, "a list of examples, each as example_inputs")
                checks = kwargs["check_inputs"] = _transferred(self, checks)
            if named:
                kwargs["example_kwarg_inputs"] = named
            with contextlib.ExitStack() as tries:
                tries.enter_context(_trying(self, () if named else arguments, named, example_inputs, "example_inputs"))
                for check in () if checks is None else checks:
                    tries.enter_context(_trying(self, *_as_arguments(check), check, "check_inputs"))
                made = torch.jit.trace(func=self, example_inputs=None if named else arguments, **kwargs)
        _write(file_path, lambda file: torch.jit.save(made, file))
        return made

    def to_tensorrt(
        self,
        file_path: Any = None,
        input_sample: Any = None,
        ir: Literal["default", "dynamo", "ts"] = "default",
        output_format: Literal["exported_program", "torchscript"] = "exported_program",
        retrace: bool = False,
        default_device: str | torch.device = "cuda",
        **compile_kwargs: Any,
    ) -> Any:
        """Not offered: raises :class:`Unsupported`, which says what to call instead."""
        raise Unsupported(
            "to_tensorrt is not offered. Call torch_tensorrt.compile(module.eval().cuda(), inputs=[...]) and torch_tensorrt.save "
            "yourself, or give TensorRT the file that to_onnx writes."
        )


def to_exported_program(module: nn.Module, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
    """What ``module``'s forward computes, as a :class:`torch.export.ExportedProgram`, in eval mode.

    ``torch.export.load(file_path).module()`` runs it in a process that has not the module's class. The module is left as it
    was: modes, random state, trainer.

    Args:
        module: a :class:`LightningModule`, or any other module.
        file_path: where to write it too (a ``.pt2`` file): a path, an URL, or a file that is open for writing bytes.
        input_sample: what ``forward`` gets: a tensor, a tuple of its arguments or a dict of them by name. Default: the module's
            ``example_input_array``.
        kwargs: go to :func:`torch.export.export`: ``dynamic_shapes``, ``strict`` ...

    Raises as :meth:`LightningModule.to_onnx`.
    """
    if not isinstance(module, nn.Module):
        raise InvalidType("module", module, "a torch.nn.Module")
    _check_options("to_exported_program", kwargs, torch.export.export)
    if file_path is not None:
        check_place("file_path", file_path)
    module = unwrapped(module)
    arguments, named = _arguments(module, input_sample, "to_exported_program", "input_sample")
    with _trying(module, arguments, named, input_sample, "input_sample"):
        program = torch.export.export(module, arguments, named or None, **kwargs)
    _write(file_path, lambda file: torch.export.save(program, file))
    return program


_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("input_names", "output_names"),
        (lambda given: isinstance(given, list | tuple) and all(isinstance(each, str) for each in given), "a list of names"),
    ),
    "opset_version": (lambda given: type(given) is int and given > 0, "the number of an opset, such as 18"),
    "dynamic_axes": (lambda given: isinstance(given, Mapping), "a dict: {name: {dimension: name of it}}"),
    "dynamic_shapes": (lambda given: not isinstance(given, int | float | str), "a dict or a tuple: one entry for each argument"),
    "kwargs": (lambda given: isinstance(given, Mapping), "a dict of further arguments of forward"),
    "check_tolerance": (lambda given: isinstance(given, int | float) and not isinstance(given, bool), "a number"),
    "strict": (is_switch, "True or False"),
    "check_trace": (is_switch, "True or False"),
}
"""What torch takes without a look, or says without the argument's name: the others it annotates."""


def _check_options(who: str, given: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Raise :class:`UnknownName` or :class:`InvalidType` for what ``function`` of torch cannot be given."""
    refuse_unknown(who, given, function)
    check_annotated(function, given)
    for name, (fits, expected) in _OPTIONS.items():
        if given.get(name) is not None and not fits(given[name]):
            raise InvalidType(name, given[name], expected)


@contextlib.contextmanager
def for_use(module: nn.Module) -> Iterator[None]:
    """As it is used: in eval mode, without gradients, uncompiled, without a trainer, to which a log would go. All is put back."""
    whole = [child for child in module.modules() if not isinstance(child, torch.jit.ScriptModule)]
    kept = [(child, vars(child), dict(vars(child)), dict(child._modules)) for child in whole]
    try:
        for child, own, before, _ in kept:
            for name in before.keys() - eager_attributes(before).keys():
                del own[name]
            own.pop("_compiled_call_impl", None)
            if "_trainer" in own:
                own.update(_trainer=None, _said_unattached=True)
            child._modules.update({name: unwrapped(inner) for name, inner in child._modules.items()})
        with undisturbed(module):
            yield
    finally:
        for child, own, before, children in kept:
            own.update({name: value for name, value in before.items() if own.get(name) is not value})
            child._modules.update(children)


def _arguments(module: Any, example: Any, what: str, parameter: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example as positional and named arguments of ``forward``, on the module's device."""
    example = getattr(module, "example_input_array", None) if example is None else example
    if example is None:
        raise MissingExample(
            f"{what} needs an example of what forward gets: pass {parameter}=, or set {type(module).__name__}."
            f"example_input_array, to a tensor, a tuple of arguments, or a dict of them by name."
        )
    return _as_arguments(_transferred(module, example))


def _as_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example) if isinstance(example, list | tuple) else (example,), {}


def _transferred(module: Any, example: Any) -> Any:
    """What the hooks of a batch make of ``example`` on its way to the device."""
    if not hasattr(module, "transfer_batch_to_device"):
        place = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
        return move_data_to_device(example, place)
    example = module.on_before_batch_transfer(example, 0)
    example = module.transfer_batch_to_device(example, module.device, 0)
    return module.on_after_batch_transfer(example, 0)


@contextlib.contextmanager
def _trying(module: Any, arguments: tuple[Any, ...], named: dict[str, Any], example: Any, parameter: str) -> Iterator[None]:
    """As it is used, for an export. One that fails because ``forward`` does not take the example says so, and why."""
    with for_use(module):
        try:
            yield
        except Exception as error:
            try:
                with torch.no_grad():
                    module(*arguments, **named)
            except LeydenError:
                raise error from None
            except Exception as refused:
                takes = f"{type(module).__name__}.forward{inspect.signature(module.forward)}"
                said = f"It raises {type(refused).__name__}: {refused}"
                if example is None:
                    parameter, example = "example_input_array", module.example_input_array
                raise InvalidOption(parameter, example, f"what {takes} takes", said) from error
            raise


@contextlib.contextmanager
def _bytes_for(place: Any, kwargs: dict[str, Any]) -> Iterator[Any]:
    """A path to export to; what is written there goes on to ``place`` where that is an open file or an URL."""
    if place is None:
        yield None
        return
    path = None if hasattr(place, "write") else os.fspath(place)
    if path is not None and not is_remote(path):
        path = local_path(path)
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        yield path
        return
    kwargs["external_data"] = False  # all of it is to be in the one file
    if not kwargs["dynamo"]:
        del kwargs["external_data"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        yield path
        with open(path, "rb") as file:
            content = file.read()
        _write(place, lambda file: file.write(content))


def _write(place: Any, save: Callable[[Any], None]) -> None:
    """Have ``save`` write to the open file, the URL or the path ``place``: at a path there is all of it, or what was there."""
    if place is None or hasattr(place, "write"):
        if place is not None:
            save(place)
        return
    content = io.BytesIO()
    save(content)
    write_file(place, content.getbuffer())
