"""ModelSummary: what it shows, and that it leaves no trace."""

from __future__ import annotations

import random
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kit import same, weights
from torch import nn

from leyden.callbacks.model_summary import DEPTH_OF_MODE, ModelSummary, RichModelSummary
from leyden.errors import InvalidOption, InvalidType, LeydenWarning
from leyden.inspect.summary import get_human_readable_count, parse_batch_shape, summarize


class Net(nn.Module):
    """A frozen part, a lazy part if asked for, and parameters of its own."""

    def __init__(self, example: Any = None, lazy: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Dropout(0.5))
        self.head = nn.LazyLinear(3) if lazy else nn.Linear(64, 3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False).eval()
        self.scale = nn.Parameter(torch.ones(3))
        self.example_input_array = example

    def forward(self, batch: torch.Tensor, more: float = 1.0) -> torch.Tensor:
        random.random()
        np.random.rand()
        return self.head(self.body(batch)) * self.scale * torch.rand(3) * more  # type: ignore[no-any-return]  # a Tensor


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch says it of itself
def test_a_compiled_module_is_shown_as_it_is() -> None:
    assert str(summarize(torch.compile(Net()))) == str(summarize(Net()))  # type: ignore[arg-type]  # torch says it is a function


@pytest.mark.parametrize("given", [None, 3, Net])
def test_what_is_no_module_is_refused(given: Any) -> None:
    with pytest.raises(InvalidType, match=r"model=.* cannot be used: expected a module"):
        summarize(given)


def test_the_table() -> None:
    assert str(summarize(Net())) == (
        "  | Name         | Type       | Params | Mode\n"
        "----------------------------------------------\n"
        "0 | body         | Sequential | 2.2 K  | train\n"
        "1 | head         | Linear     | 195    | train\n"
        "2 | frozen       | Linear     | 6      | eval\n"
        "  | other params | n/a        | 3      | n/a\n"
        "----------------------------------------------\n"
        "2.4 K     Trainable params\n"
        "6         Non-trainable params\n"
        "2.4 K     Total params\n"
        "0.010     Total estimated model params size (MB)\n"
        "5         Modules in train mode\n"
        "1         Modules in eval mode"
    )


def test_an_example_shows_sizes_and_operations() -> None:
    summary = summarize(Net(torch.ones(2, 32)))
    assert summary.in_sizes == [[2, 32], [2, 64], "?"]
    assert summary.out_sizes == [[2, 64], [2, 3], "?"]
    counts = summary.flop_counts
    assert {name: list(by_operator.values()) for name, by_operator in counts.items()} == {
        "body": [2 * 2 * 32 * 64],
        "head": [2 * 2 * 64 * 3],
        "frozen": [],
    }
    assert summary.total_flops == 2 * 2 * 64 * 35
    lines = str(summary).split("\n")
    assert lines[0] == "  | Name         | Type       | Params | Mode  | FLOPs | In sizes | Out sizes"
    assert lines[2] == "0 | body         | Sequential | 2.2 K  | train | 8.2 K | [2, 32]  | [2, 64]"
    assert lines[-1] == "9.0 K     Total Flops"


@pytest.mark.parametrize("example", [(torch.ones(2, 32), 2.0), [torch.ones(2, 32)], {"batch": torch.ones(2, 32), "more": 2.0}])
def test_examples_of_several_arguments(example: Any) -> None:
    assert summarize(Net(example)).out_sizes[1] == [2, 3]


def test_numbers() -> None:
    net = Net()
    net.half = nn.Linear(10, 10, bias=False).half()
    net.body.append(net.head)  # one layer in two places
    summary = summarize(net, max_depth=-1)
    assert summary.layer_names == ["body", "body.0", "body.1", "body.2", "body.3", "frozen", "half"]
    assert summary.layer_types[1:3] == ["Linear", "BatchNorm1d"]
    assert summary.param_nums == [2435, 2112, 128, 0, 195, 6, 100]
    assert (summary.total_parameters, summary.trainable_parameters) == (2544, 2538)
    assert summary.total_layer_params == 2541
    assert summary.model_size == pytest.approx((2444 * 4 + 100 * 2) * 1e-6)
    assert summary.total_training_modes == {"train": 6, "eval": 1}
    assert summary.training_modes == [True, True, True, True, True, False, True]
    assert "other params" in str(summary)


@pytest.mark.parametrize(("depth", "names"), [(0, []), (1, ["body", "head", "frozen"]), (2, 6), (5, 6), (-1, 6)])
def test_depths(depth: int, names: Any) -> None:
    summary = summarize(Net(), max_depth=depth)
    assert (summary.layer_names if isinstance(names, list) else len(summary.layer_names)) == names
    assert summary.total_parameters == 2444
    assert repr(summary) == str(summary)


def test_nothing_changes() -> None:
    net = Net(torch.ones(2, 32))
    net.body[2].eval()
    before = weights(net)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    modes = [module.training for module in net.modules()]
    summarize(net, max_depth=-1)
    assert same(before, weights(net))
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())
    assert modes == [module.training for module in net.modules()]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_buffers_that_forward_changes_are_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count: torch.Tensor
            self.register_buffer("count", torch.zeros(()))
            self.example_input_array = torch.ones(1)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return batch

    net = Counting()
    summarize(net)
    assert net.count == 0


def test_lazy_layers_stay_lazy() -> None:
    net = Net(torch.ones(2, 32), lazy=True)
    summary = summarize(net)
    assert net.head.has_uninitialized_params()  # type: ignore[operator]  # a LazyLinear's
    assert summary.param_nums[1] == 0
    assert summary.in_sizes == ["?"] * 3
    assert str(summary).endswith("2         Parameters that do not exist before the first forward, and are not counted")


def test_an_example_that_does_not_fit_is_said() -> None:
    with pytest.warns(LeydenWarning, match=r"example_input_array does not fit Net\.forward: RuntimeError: .* shows no sizes"):
        summary = summarize(Net(torch.ones(2, 31)))
    assert summary.in_sizes == ["?"] * 3
    assert "In sizes" not in str(summary)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0  "),
        (999, "999  "),
        (1000, "1.0 K"),
        (123456, "123 K"),
        (132_608, "132 K"),
        (2_500_000, "2.5 M"),
        (3 * 10**12, "3.0 T"),
        (10**16, "10,000 T"),
    ],
)
def test_counts(count: int, text: str) -> None:
    assert get_human_readable_count(count) == text


def test_counts_are_not_negative() -> None:
    with pytest.raises(InvalidOption, match="number=-1"):
        get_human_readable_count(-1)


def test_shapes() -> None:
    assert parse_batch_shape((torch.ones(1, 2), [torch.ones(3)], "text")) == [[1, 2], [[3]], "?"]


@pytest.mark.parametrize("make", [ModelSummary, RichModelSummary, lambda max_depth: summarize(Net(), max_depth)])
@pytest.mark.parametrize(("depth", "error"), [(-2, InvalidOption), (1.5, InvalidType), (True, InvalidType), ("top", InvalidType)])
def test_depth_is_checked(make: Any, depth: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"max_depth=.* expected a depth"):
        make(max_depth=depth)


def run(rank: int = 0) -> Any:
    entered: list[str] = []

    @contextmanager
    def context() -> Any:
        entered.append("forward")
        yield

    strategy = SimpleNamespace(precision=SimpleNamespace(forward_context=context))
    return SimpleNamespace(is_global_zero=rank == 0, strategy=strategy, entered=entered)


@pytest.mark.parametrize("callback", [ModelSummary, RichModelSummary])
def test_the_callback_prints_when_fit_begins(callback: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = run()
    callback(max_depth=1).on_fit_start(trainer, Net(torch.ones(2, 32)))
    text = capsys.readouterr().out
    for part in ("Name", "body", "Sequential", "2.2 K", "[2, 32]", "Total params", "Modules in eval mode", "Total Flops"):
        assert part in text
    assert "\x1b" not in text
    assert trainer.entered == ["forward"]


@pytest.mark.parametrize("callback", [ModelSummary, RichModelSummary])
def test_other_processes_and_depth_0_print_nothing(callback: Any, capsys: pytest.CaptureFixture[str]) -> None:
    callback().on_fit_start(run(rank=1), Net())
    callback(max_depth=0).on_fit_start(run(), Net())
    assert capsys.readouterr().out == ""


def test_rich_takes_the_tables_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    RichModelSummary(title="my net").on_fit_start(run(), Net())  # type: ignore[arg-type]  # as much of them as is read
    assert "my net" in capsys.readouterr().out


def test_printing_can_be_overridden() -> None:
    seen: list[Any] = []

    class Mine(ModelSummary):
        @staticmethod
        def summarize(summary_data: Any, total_parameters: int, *numbers: Any, **more: Any) -> None:
            seen.append((dict(summary_data)["Name"], total_parameters, more["mine"]))

    Mine(max_depth=1, mine=5).on_fit_start(run(), Net())  # type: ignore[arg-type]  # as much of them as is read
    assert seen == [(["body", "head", "frozen", "other params"], 2444, 5)]


@pytest.mark.parametrize("kind", [ModelSummary, RichModelSummary])
def test_printing_can_be_called_with_what_lightning_gives(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    columns = [(" ", ["0"]), ("Name", ["body"]), ("Type", ["Linear"]), ("Params", ["66"]), ("Mode", ["train"])]
    kind.summarize(columns, 66, 60, 0.5, {"train": 1, "eval": 0}, 12)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in ("60 Trainable params", "6 Non-trainable params", "66 Total params", "1 Modules in train mode", "12 Total Flops"):
        assert line.split() in shown


def test_the_numbers_go_to_an_override_of_any_lightning_by_name() -> None:
    seen: list[Any] = []

    class Earlier(ModelSummary):
        @staticmethod
        def summarize(  # type: ignore[override]  # as 2.1 had it
            summary_data: Any, total_parameters: int, trainable_parameters: int, model_size: float, **summarize_kwargs: Any
        ) -> None:
            seen.append((total_parameters, sorted(summarize_kwargs)))

    Earlier().on_fit_start(run(), Net())  # type: ignore[arg-type]  # as much of them as is read
    assert seen == [(2444, ["total_flops", "total_training_modes", "totals"])]


def test_the_modes_of_2020() -> None:
    assert DEPTH_OF_MODE == {"top": 1, "full": -1}
