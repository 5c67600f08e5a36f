"""ModelSummary: print the module's layers when fit begins."""

from typing import Any, ClassVar

from leyden.callback import Callback
from leyden.checkpoint.random_state import preserved_random_state
from leyden.distributed.rank_zero import rank_zero_print
from leyden.errors import InvalidOption, InvalidType, did_you_mean
from leyden.inspect.summary import ModelSummary as Summary
from leyden.inspect.summary import totals
from leyden.module import LightningModule
from leyden.spelling import exact_arguments, unknown_argument
from leyden.state.run import Run

DEPTH_OF_MODE = {"top": 1, "full": -1}
"""What 2020's ``weights_summary`` means as ``max_depth``."""


@exact_arguments
class ModelSummary(Callback):
    """Print a table of the module's layers, with its totals, when fit begins.

    Args:
        max_depth: Levels of layers to show: 1 for the module's own, -1 for all, 0 prints nothing.
        summarize_kwargs: For :meth:`summarize`.

    Raises :class:`InvalidOption` for a depth below -1.
    """

    is_model_summary: ClassVar[bool] = True
    """By this the trainer knows that a summary is there already."""

    def __init__(self, max_depth: int = 1, **summarize_kwargs: Any) -> None:
        wanted = "a depth >= 1, -1 for all layers, or 0 to print nothing"
        if isinstance(max_depth, bool) or not isinstance(max_depth, int):
            raise InvalidType("max_depth", max_depth, wanted)
        if max_depth < -1:
            raise InvalidOption("max_depth", max_depth, wanted)
        plain = type(self).summarize is ModelSummary.summarize  # which reads none of them
        for word in summarize_kwargs:
            if plain or did_you_mean(word, ["max_depth"]):
                raise unknown_argument(type(self).__name__, word, ["max_depth"])
        self._max_depth = max_depth
        self._summarize_kwargs = summarize_kwargs

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if self._max_depth == 0:
            return
        summary = self._summary(trainer, pl_module)
        if trainer.is_global_zero:
            self.summarize(
                summary._get_summary_data(),
                summary._counted(),
                summary.trainable_parameters,
                summary.model_size,
                total_training_modes=summary.total_training_modes,
                total_flops=summary.total_flops,
                totals=summary.totals(),
                **self._summarize_kwargs,
            )

    def _summary(self, trainer: Run, pl_module: LightningModule) -> Summary:
        strategy = trainer.strategy
        # parameters in shards are made whole by a forward of training's or validation's, and not by one beside them
        whole = getattr(strategy, "holds_whole_parameters", True)
        return Summary(pl_module, self._max_depth, context=strategy.precision.forward_context, tries_example=whole)

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int = 0,
        **summarize_kwargs: Any,
    ) -> None:
        """Print it. Override this to print it otherwise.

        Args:
            summary_data: The table by columns: head and cells.
            total_parameters: Parameters of the module.
            trainable_parameters: Those that require gradients.
            model_size: Size of the parameters in MB.
            total_training_modes: Modules in ``train`` and in ``eval`` mode.
            total_flops: Floating-point operations of the example's forward; 0 without an example.
            summarize_kwargs: What the callback was given, and ``totals``: the lines below the table, value and meaning.
        """
        below = summarize_kwargs.get("totals") or totals(
            total_parameters, trainable_parameters, model_size, total_training_modes, total_flops or None
        )
        rank_zero_print(Summary.text(summary_data, below), flush=True)


class RichModelSummary(ModelSummary):
    """The same table, drawn by rich. ``summarize_kwargs`` go to ``rich.table.Table``."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int = 0,
        **summarize_kwargs: Any,
    ) -> None:
        """Print it with rich."""
        with preserved_random_state():  # rich draws from Python's generator when it is imported
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

        below = summarize_kwargs.pop("totals", None) or totals(
            total_parameters, trainable_parameters, model_size, total_training_modes, total_flops or None
        )
        console = Console()
        if summary_data[0][1]:
            table = Table(**{"header_style": "bold magenta", **summarize_kwargs})
            for head, _ in summary_data:
                table.add_column(head, justify="right" if head in ("Params", "FLOPs", "In sizes", "Out sizes") else "left")
            for row in zip(*(cells for _, cells in summary_data), strict=True):
                table.add_row(*map(Text, row))
            console.print(table)
        grid = Table.grid(expand=False, padding=(0, 2))
        for value, meaning in below:
            grid.add_row(Text(value, style="bold"), meaning)
        console.print(grid)
