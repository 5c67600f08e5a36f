"""ModelSummary: a module's layers with their types, parameters, modes and sizes, as data and as text."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from leyden.checkpoint.plain_names import unwrapped
from leyden.errors import InvalidOption, InvalidType, LeydenWarning, warn_user
from leyden.loggers.undisturbed import undisturbed
from leyden.spelling import exact_arguments
from leyden.tree import tree_map

UNKNOWN_SIZE = "?"
NOT_APPLICABLE = "n/a"
OTHER_PARAMETERS = "other params"
Size = str | list[Any]


@exact_arguments
class LayerSummary:
    """One layer: its type, parameters, mode, and the sizes that went in and out in its first forward from now on."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._in_size: Size | None = None
        self._out_size: Size | None = None
        self._watching: Any = None
        if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
            self._watching = module.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, given: Any, named: dict[str, Any], returned: Any) -> None:
        given = [*given, *named.values()]
        if given:
            self._in_size = parse_batch_shape(given[0] if len(given) == 1 else given)
        self._out_size = parse_batch_shape(returned)
        self.detach_hook()

    def detach_hook(self) -> None:
        """Look at no forward any more. The first that was seen has done so already."""
        if self._watching is not None:
            self._watching.remove()
            self._watching = None

    def forget_sizes(self) -> None:
        """Sizes are unknown again."""
        self._in_size = self._out_size = None

    @property
    def in_size(self) -> Size:
        """What went in: the shape of a tensor, a list of shapes, or ``?`` where no forward was seen."""
        return UNKNOWN_SIZE if self._in_size is None else self._in_size

    @property
    def out_size(self) -> Size:
        """What came out, likewise."""
        return UNKNOWN_SIZE if self._out_size is None else self._out_size

    @property
    def layer_type(self) -> str:
        """The name of the layer's class."""
        return (
            str(self._module.original_name) if isinstance(self._module, torch.jit.ScriptModule) else type(self._module).__name__
        )

    @property
    def num_parameters(self) -> int:
        """Parameters in it, each counted once; those of lazy layers that do not exist yet count nothing."""
        return sum(_numel(parameter) for parameter in self._module.parameters())

    @property
    def training(self) -> bool:
        """Whether it is in train mode."""
        return self._module.training


@exact_arguments
class ModelSummary:
    """The layers of ``model`` down to ``max_depth`` (-1: all of them, 0: none, only the totals).

    With an ``example_input_array`` on the model, one forward without gradients in eval mode shows sizes and
    floating-point operations. It leaves random state, modes and buffers as they were; where it fails, or would
    initialise lazy layers, sizes stay unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        max_depth: int = 1,
        *,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        tries_example: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidType("model", model, "a module")
        wanted = "a depth >= 0, or -1 for all layers"
        if isinstance(max_depth, bool) or not isinstance(max_depth, int):
            raise InvalidType("max_depth", max_depth, wanted)
        if max_depth < -1:
            raise InvalidOption("max_depth", max_depth, wanted)
        self._model: nn.Module = unwrapped(model)
        self._max_depth = max_depth
        self._layers = {name: LayerSummary(module) for name, module in self.named_modules}
        self._flops: Mapping[str, dict[Any, int]] = {}
        self._seen = False
        try:
            if tries_example:
                self._forward_example(context)
        finally:
            for layer in self._layers.values():
                layer.detach_hook()

    def summarize(self) -> dict[str, LayerSummary]:
        """The layers by their names."""
        return dict(self._layers)

    @property
    def named_modules(self) -> list[tuple[str, nn.Module]]:
        """The layers shown, with their names."""
        if self._max_depth == 0:
            return []
        if self._max_depth == 1:
            return list(self._model.named_children())
        everything = list(self._model.named_modules())[1:]
        return [(name, module) for name, module in everything if self._max_depth < 0 or name.count(".") < self._max_depth]

    @property
    def layer_names(self) -> list[str]:
        return list(self._layers)

    @property
    def layer_types(self) -> list[str]:
        return [layer.layer_type for layer in self._layers.values()]

    @property
    def in_sizes(self) -> list[Size]:
        return [layer.in_size for layer in self._layers.values()]

    @property
    def out_sizes(self) -> list[Size]:
        return [layer.out_size for layer in self._layers.values()]

    @property
    def param_nums(self) -> list[int]:
        return [layer.num_parameters for layer in self._layers.values()]

    @property
    def training_modes(self) -> list[bool]:
        return [layer.training for layer in self._layers.values()]

    @property
    def total_training_modes(self) -> dict[str, int]:
        """Modules in ``train`` and in ``eval`` mode, the model itself left out."""
        modes = [module.training for module in self._model.modules()][1:]
        return {"train": modes.count(True), "eval": modes.count(False)}

    @property
    def total_parameters(self) -> int:
        if any(map(_is_lazy, self._model.parameters())):
            warn_user(
                "Lazy layers have parameters that do not exist before the first forward: the number of parameters is too low.",
                LeydenWarning,
            )
        return self._counted()

    def _counted(self) -> int:
        return sum(_numel(parameter) for parameter in self._model.parameters())

    @property
    def trainable_parameters(self) -> int:
        return sum(_numel(parameter) for parameter in self._model.parameters() if parameter.requires_grad)

    @property
    def total_layer_params(self) -> int:
        """Parameters in the layers shown, each counted once."""
        shown = {parameter for _, module in self.named_modules for parameter in module.parameters()}
        return sum(_numel(parameter) for parameter in shown)

    @property
    def model_size(self) -> float:
        """Size of the parameters in MB (1e6 bytes)."""
        sizes = [
            _numel(parameter) * parameter.element_size() for parameter in self._model.parameters() if not _is_lazy(parameter)
        ]
        return sum(sizes) * 1e-6

    @property
    def flop_counts(self) -> dict[str, dict[Any, int]]:
        """Floating-point operations of each layer in the example's forward, by operator."""
        root = type(self._model).__name__
        return {name: dict(self._flops.get(f"{root}.{name}", {})) for name in self._layers}

    @property
    def total_flops(self) -> int:
        """Floating-point operations of the example's forward; 0 without an example."""
        return sum(self._flops.get("Global", {}).values())

    def _forward_example(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        example = getattr(self._model, "example_input_array", None)
        if example is None:
            return
        tensors = [*self._model.parameters(), *self._model.buffers()]
        if any(map(_is_lazy, tensors)):
            return  # the first training batch is to initialise them
        place = tensors[0].device if tensors else torch.device("cpu")
        example = tree_map(example, Tensor, lambda tensor: tensor.to(place))
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self._model))
            try:
                with context(), counter:
                    if isinstance(example, Mapping):
                        self._model(**example)
                    elif isinstance(example, list | tuple):
                        self._model(*example)
                    else:
                        self._model(example)
            except Exception as error:
                warn_user(
                    f"example_input_array does not fit {type(self._model).__name__}.forward: {type(error).__name__}: {error}. "
                    "The summary shows no sizes.",
                    LeydenWarning,
                )
                for layer in self._layers.values():
                    layer.forget_sizes()
                return
        self._seen = True
        self._flops = counter.get_flop_counts()

    def _get_summary_data(self) -> list[tuple[str, list[str]]]:
        """The table by columns: head and cells."""
        count = len(self._layers)
        columns: list[tuple[str, list[str]]] = [
            (" ", list(map(str, range(count)))),
            ("Name", self.layer_names),
            ("Type", self.layer_types),
            ("Params", list(map(get_human_readable_count, self.param_nums))),
            ("Mode", ["train" if mode else "eval" for mode in self.training_modes]),
        ]
        if self._seen:
            columns += [
                ("FLOPs", [get_human_readable_count(sum(counts.values())) for counts in self.flop_counts.values()]),
                ("In sizes", list(map(str, self.in_sizes))),
                ("Out sizes", list(map(str, self.out_sizes))),
            ]
        other = self._counted() - self.total_layer_params
        if other > 0:
            row = {" ": " ", "Name": OTHER_PARAMETERS, "Params": get_human_readable_count(other)}
            for head, cells in columns:
                cells.append(row.get(head, NOT_APPLICABLE))
        return columns

    def totals(self) -> list[tuple[str, str]]:
        """What stands below the table: value and meaning."""
        flops = self.total_flops if self._seen else None
        rows = totals(self._counted(), self.trainable_parameters, self.model_size, self.total_training_modes, flops)
        lazy = sum(_is_lazy(parameter) for parameter in self._model.parameters())
        if lazy:
            rows.append((str(lazy), "Parameters that do not exist before the first forward, and are not counted"))
        return rows

    @staticmethod
    def text(columns: list[tuple[str, list[str]]], totals: list[tuple[str, str]]) -> str:
        """Table and totals as plain text."""
        sizes = [max(map(len, [head, *cells])) for head, cells in columns]
        rows = list(zip(*(cells for _, cells in columns), strict=True))
        lines = [_row([head for head, _ in columns], sizes), *(_row(row, sizes) for row in rows)]
        rule = "-" * max(map(len, lines))
        table = [lines[0], rule, *lines[1:], rule] if rows else []
        return "\n".join([*table, *(f"{value:<10}{meaning}" for value, meaning in totals)])

    def __str__(self) -> str:
        return self.text(self._get_summary_data(), self.totals())

    def __repr__(self) -> str:
        return str(self)


def totals(parameters: int, trainable: int, size: float, modes: Mapping[str, int], flops: int | None) -> list[tuple[str, str]]:
    """What stands below the table of a model: value and meaning. ``flops``: ``None`` where they were not counted."""
    rows = [
        (get_human_readable_count(trainable), "Trainable params"),
        (get_human_readable_count(parameters - trainable), "Non-trainable params"),
        (get_human_readable_count(parameters), "Total params"),
        (get_formatted_model_size(size), "Total estimated model params size (MB)"),
        (str(modes["train"]), "Modules in train mode"),
        (str(modes["eval"]), "Modules in eval mode"),
    ]
    return rows if flops is None else [*rows, (get_human_readable_count(flops), "Total Flops")]


def summarize(lightning_module: nn.Module, max_depth: int = 1) -> ModelSummary:
    """The summary of a module's layers down to ``max_depth``; -1 for all.

    Raises :class:`InvalidOption` for a depth below -1.
    """
    return ModelSummary(lightning_module, max_depth)


def get_human_readable_count(number: int) -> str:
    """A count in at most three digits or so: ``2.4 K``, ``132 K``, ``12.0 B``, ``3.0 T``; below 1000 as it is, with two blanks.

    From 100 on what is left of the digits is cut off, as in Lightning's table.
    """
    if number < 0:
        raise InvalidOption("number", number, "a count >= 0")
    if number < 1000:
        return f"{int(number)}  "
    power = min((len(str(int(number))) - 1) // 3, 4)
    scaled = number / 1000**power
    return f"{scaled:.1f} {' KMBT'[power]}" if scaled < 100 else f"{int(scaled):,} {' KMBT'[power]}"


def get_formatted_model_size(total_model_size: float) -> str:
    """A size in MB with its separators, as the summary shows it."""
    return f"{total_model_size:,.3f}"


def _row(cells: Any, sizes: list[int]) -> str:
    return " | ".join(f"{cell:<{size}}" for cell, size in zip(cells, sizes, strict=True)).rstrip()


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def _numel(parameter: Tensor) -> int:
    return 0 if _is_lazy(parameter) else parameter.numel()


def parse_batch_shape(batch: Any) -> Size:
    """The shape of a tensor; of a list or tuple of them, their shapes; ``?`` for anything else."""
    if isinstance(batch, Tensor):
        return list(batch.shape)
    if isinstance(batch, list | tuple):
        return [parse_batch_shape(part) for part in batch]
    return UNKNOWN_SIZE
