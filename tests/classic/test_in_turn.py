"""Several optimizers that take turns, and batches that are split along time, as 0.7.1 to 1.9 ran them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leyden
from leyden import Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.data.stretches import split_along_time
from leyden.errors import CheckpointDamaged, ConflictingOptions, InvalidOption, InvalidReturn
from leyden.testing import Recorder, random_batches

pytestmark = pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
QUIET = {**kit.QUIET, "max_epochs": 1}


class Gan(leyden.LightningModule):
    """The smallest one: a generator, and a critic that both losses go through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 1)
        self.turns: list[tuple[int, int]] = []
        self.required: list[tuple[bool, bool]] = []

    def training_step(self, batch: Tensor, batch_idx: int, optimizer_idx: int) -> Any:
        self.turns.append((batch_idx, optimizer_idx))
        self.required.append((self.generator.weight.requires_grad, self.critic.weight.requires_grad))
        made = self.generator(batch)
        loss = -self.critic(made).mean() if optimizer_idx == 0 else (self.critic(made) - self.critic(batch)).square().mean()
        name = "g_loss" if optimizer_idx == 0 else "d_loss"
        return {"loss": loss, "log": {name: loss}}

    def configure_optimizers(self) -> Any:
        adam, sgd = torch.optim.Adam(self.generator.parameters(), 0.05), torch.optim.SGD(self.critic.parameters(), 0.1)
        return [adam, sgd], []

    def train_dataloader(self) -> Any:
        return random_batches(6, batch_size=2, size=4)


def by_hand(accumulate: int = 1, steps: Callable[[int, int], bool] | None = None) -> Gan:
    """What a loop of one's own makes of it, that steps an optimizer at the batches for which ``steps`` says so."""
    steps = steps or (lambda index, number: (index + 1) % accumulate == 0)
    gan = Gan()
    (adam, sgd), _ = gan.configure_optimizers()
    pairs = [(adam, gan.generator), (sgd, gan.critic)]
    for index, batch in enumerate(gan.train_dataloader()):
        for number, (optimizer, part) in enumerate(pairs):
            loss = gan.training_step(batch, index, number)["loss"] / accumulate
            gradients = torch.autograd.grad(loss, list(part.parameters()))
            for parameter, gradient in zip(part.parameters(), gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            if steps(index, number):
                optimizer.step()
                optimizer.zero_grad()
    return gan


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def fit(module: leyden.LightningModule, **options: Any) -> Trainer:
    trainer = Trainer(**{**QUIET, **options})
    trainer.fit(module)
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_optimizer_has_its_pass_over_each_batch(accumulate: int) -> None:
    gan = Gan()
    trainer = fit(gan, accumulate_grad_batches=accumulate)
    assert gan.turns == [(batch, number) for batch in range(6) for number in (0, 1)]
    assert gan.required == [(True, False), (False, True)] * 6
    assert all(parameter.requires_grad for parameter in gan.parameters())
    assert same_weights(gan, by_hand(accumulate))
    assert trainer.global_step == 6 // accumulate
    assert {"g_loss", "d_loss"} <= set(trainer.callback_metrics)


def test_a_window_that_the_data_ends_is_stepped_with() -> None:
    gan = Gan()
    trainer = fit(gan, accumulate_grad_batches=4)
    assert trainer.global_step == 2


def test_the_number_may_be_called_optimizer_i() -> None:
    class Older(Gan):
        def training_step(self, batch: Tensor, batch_nb: int, optimizer_i: int) -> Any:  # type: ignore[override]
            return super().training_step(batch, batch_nb, optimizer_i)

    gan = Older()
    fit(gan)
    assert same_weights(gan, by_hand())


def test_with_one_optimizer_the_number_is_0_and_a_default_stays() -> None:
    seen: list[Any] = []

    class One(Gan):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

        def training_step(self, batch: Tensor, batch_idx: int, optimizer_idx: int) -> Any:
            seen.append(optimizer_idx)
            return super().training_step(batch, batch_idx, optimizer_idx)

    class Default(One):
        def training_step(self, batch: Tensor, batch_idx: int, optimizer_idx: int | None = None) -> Any:
            seen.append(optimizer_idx)
            return Gan.training_step(self, batch, batch_idx, 0)

    fit(One(), limit_train_batches=1)
    fit(Default(), limit_train_batches=1)
    assert seen == [0, None]


def test_frequencies_say_whose_batch_it_is() -> None:
    class Often(Gan):
        def configure_optimizers(self) -> Any:
            (adam, sgd), _ = super().configure_optimizers()
            schedulers = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for each in (adam, sgd)]
            return [
                {"optimizer": each, "frequency": often, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
                for each, often, scheduler in zip((adam, sgd), (1, 3), schedulers, strict=True)
            ]

    gan = Often()
    trainer = fit(gan)
    assert gan.turns == [(0, 0), (1, 1), (2, 1), (3, 1), (4, 0), (5, 1)]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == [0.05 * 0.5**2, 0.1 * 0.5**4]  # each schedule counts its own optimizer's steps
    assert trainer.global_step == 6


@pytest.mark.parametrize("frequencies", [(1, None), (0, 1), (True, 1), (1.5, 1)])
def test_frequencies_that_mean_nothing_are_refused(frequencies: tuple[Any, Any]) -> None:
    class Odd(Gan):
        def configure_optimizers(self) -> Any:
            optimizers, _ = super().configure_optimizers()
            return [
                {"optimizer": o, **({} if f is None else {"frequency": f})} for o, f in zip(optimizers, frequencies, strict=True)
            ]

    with pytest.raises(InvalidReturn, match="frequency"):
        fit(Odd())


def test_several_optimizers_without_the_number_are_refused() -> None:
    class Blind(Gan):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:  # type: ignore[override]
            return super().training_step(batch, batch_idx, 0)

    with pytest.raises(InvalidReturn, match=r"2 optimizers.*let training_step take optimizer_idx"):
        fit(Blind())


def test_accumulation_does_not_mix_the_gradients_of_optimizers_that_share_parameters() -> None:
    class Shared(Gan):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)], []

    fit(Shared())
    with pytest.raises(ConflictingOptions, match="share parameters"):
        fit(Shared(), accumulate_grad_batches=2)


@pytest.mark.parametrize(
    "signature",
    [
        "e, b, o, oi, second_order_closure=None",
        "epoch_nb, batch_nb, optimizer, optimizer_i, second_order_closure=None",
        "current_epoch, batch_idx, optimizer, optimizer_idx, second_order_closure=None",
        "epoch, batch_idx, optimizer, optimizer_idx, closure",
        "a, b, c, d, e",
        "a, b, c, d, e, f, g, h",
        "epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu=False, using_native_amp=False, using_lbfgs=False",
        "epoch, batch_idx, optimizer, optimizer_idx, *args, **kwargs",
    ],
)
def test_optimizer_step_is_called_by_position(signature: str) -> None:
    names = [name.split("=")[0] for name in signature.split(", ")]
    given = ", ".join(name for name in names[:4])
    closure = "args[0]" if "*args" in names else names[4]
    body = f"seen.append(({given}))\n    {closure}()\n    {names[2]}.step()\n    {names[2]}.zero_grad()"
    if "second_order" in signature:
        body = body.replace(f"    {closure}()\n", "")  # 0.7.1 had done backward by then
    space: dict[str, Any] = {"seen": []}
    exec(f"def optimizer_step(self, {signature}):\n    {body}", space)  # the signature is what is tested
    gan = type("Stepping", (Gan,), {"optimizer_step": space["optimizer_step"]})()
    trainer = fit(gan)
    assert [(epoch, batch, number) for epoch, batch, _, number in space["seen"]] == [(0, b, n) for b in range(6) for n in (0, 1)]
    assert isinstance(space["seen"][1][2], torch.optim.SGD)
    assert same_weights(gan, by_hand())
    assert trainer.global_step == 6


class Alternating(Gan):
    """0.7.1's example of two schedules: the generator steps at every second batch, the critic at every fourth."""

    ready: int = 0

    def optimizer_step(self, current_epoch: int, batch_nb: int, optimizer: Any, optimizer_i: int, second_order_closure: Any = None) -> None:  # type: ignore[override]  # fmt: skip  # noqa: E501
        self.ready += all(each.grad is not None for group in optimizer.param_groups for each in group["params"])
        if self.steps(batch_nb, optimizer_i):
            optimizer.step()
            optimizer.zero_grad()

    @staticmethod
    def steps(index: int, number: int) -> bool:
        return index % (2, 4)[number] == 0


def test_gradients_are_ready_in_optimizer_step_and_those_without_a_step_wait() -> None:
    gan = Alternating()
    assert fit(gan).global_step == 6
    assert gan.ready == 12
    assert same_weights(gan, by_hand(steps=Alternating.steps))
    assert not same_weights(gan, by_hand())


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_gradients_that_wait_for_a_step_are_in_the_file(batches: int, tmp_path: Path) -> None:
    def save(trainer: Trainer, *rest: Any) -> None:
        if trainer.leyden_fit.progress.batches == batches:
            trainer.save_checkpoint(tmp_path / "between.ckpt")

    fit(Alternating(), callbacks=[Recorder(on_train_batch_end=save)])
    resumed = Alternating()
    Trainer(**QUIET).fit(resumed, ckpt_path=tmp_path / "between.ckpt")
    assert same_weights(resumed, by_hand(steps=Alternating.steps))
    saved = torch.load(tmp_path / "between.ckpt", weights_only=True)
    for waiting in saved["leyden"]["processes"][0]["gradients"].get("unstepped", {}).values():
        waiting.update({name: torch.zeros(7) for name in waiting})
        torch.save(saved, tmp_path / "crafted.ckpt")
        with pytest.raises(CheckpointDamaged, match=r"crafted\.ckpt.* of shape \(7,\)"):
            Trainer(**QUIET).fit(Alternating(), ckpt_path=tmp_path / "crafted.ckpt")


def test_an_optimizer_that_evaluates_the_loss_itself_steps_in_0_7_s_optimizer_step() -> None:
    class Searching(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer, self.evaluated = nn.Linear(4, 1), 0

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.evaluated += 1
            return {"loss": (self.layer(batch) - 1).square().mean()}

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

        def train_dataloader(self) -> Any:
            return random_batches(2, batch_size=2, size=4)

    class Own(Searching):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int, second_order_closure: Any = None) -> None:  # type: ignore[override]  # fmt: skip  # noqa: E501
            optimizer.step(second_order_closure)
            optimizer.zero_grad()

    fit(own := Own())
    fit(plain := Searching())
    assert own.evaluated == plain.evaluated > 2
    assert same_weights(own, plain)


def test_a_skipped_batch_leaves_waiting_gradients_as_they_are() -> None:
    class Skipping(Alternating):
        def training_step(self, batch: Tensor, batch_idx: int, optimizer_idx: int) -> Any:
            return None if batch_idx == 2 else super().training_step(batch, batch_idx, optimizer_idx)

        @staticmethod
        def steps(index: int, number: int) -> bool:
            return index == 5

    class Hand(Skipping):
        def training_step(self, batch: Tensor, batch_idx: int, optimizer_idx: int) -> Any:
            loss = Gan.training_step(self, batch, batch_idx, optimizer_idx)["loss"]
            return {"loss": loss * (batch_idx != 2)}

    skipping = Skipping()
    fit(skipping)
    whole = Hand()
    fit(whole)
    assert same_weights(skipping, whole)


def test_backward_is_told_whose_turn_it_is() -> None:
    seen: list[Any] = []

    class Backward(Gan):
        def backward(self, trainer: Any, loss: Tensor, optimizer: Any, optimizer_idx: int) -> None:  # type: ignore[override]
            seen.append((type(optimizer).__name__, optimizer_idx))
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there

    gan = Backward()
    fit(gan, limit_train_batches=1)
    assert seen == [("Adam", 0), ("SGD", 1)]


def test_a_pass_without_a_loss_is_left_out() -> None:
    class Every(Gan):
        def training_step(self, batch: Tensor, batch_idx: int, optimizer_idx: int) -> Any:
            return None if optimizer_idx == 0 and batch_idx % 2 else super().training_step(batch, batch_idx, optimizer_idx)

    gan = Every()
    trainer = fit(gan)
    assert gan.turns == [(b, n) for b in range(6) for n in (0, 1) if n or b % 2 == 0]
    assert trainer.optimizers[0].state[gan.generator.weight]["step"] == 3
    assert trainer.global_step == 6


def test_the_passes_outputs_reach_the_hooks_in_a_list() -> None:
    seen: list[Any] = []

    class Ends(Gan):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(outputs)

        def training_epoch_end(self, outputs: Any) -> None:
            seen.append([len(each) for each in outputs])

    fit(Ends(), limit_train_batches=2)
    assert [sorted(each) for each in seen[0]] == [["log", "loss"]] * 2
    assert not seen[0][0]["loss"].requires_grad
    assert seen[-1] == [2, 2]


def test_clipping_and_the_hooks_run_for_each() -> None:
    seen: list[Any] = []

    class Watched(Gan):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.append(type(optimizer).__name__)

        def on_before_zero_grad(self, optimizer: Any) -> None:
            seen.append("zero")

    gan = Watched()
    fit(gan, limit_train_batches=1, gradient_clip_val=1e-9)
    assert seen == ["zero", "Adam", "zero", "SGD"]
    assert torch.allclose(gan.critic.weight, Gan().critic.weight, atol=1e-8)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_a_cut_run_goes_on_exactly(every: int, accumulate: int, own_folder: Path) -> None:
    class Shuffled(Gan):
        def configure_optimizers(self) -> Any:
            optimizers, _ = super().configure_optimizers()
            schedulers = [torch.optim.lr_scheduler.ExponentialLR(each, 0.9) for each in optimizers]
            return optimizers, [{"scheduler": each, "interval": "step"} for each in schedulers]

    class Save(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.leyden_fit.progress.batches == every + 1:
                trainer.save_checkpoint("cut.ckpt")

    whole = Shuffled()
    fit(whole, max_epochs=2, accumulate_grad_batches=accumulate, callbacks=[Save()])
    resumed = Shuffled()
    trainer = Trainer(**{**QUIET, "max_epochs": 2, "accumulate_grad_batches": accumulate})
    trainer.fit(resumed, ckpt_path="cut.ckpt")
    assert same_weights(whole, resumed)


def test_a_checkpoint_holds_both_optimizers(own_folder: Path) -> None:
    fit(Gan(), enable_checkpointing=None, callbacks=[ModelCheckpoint(dirpath="ck", filename="x")])
    assert len(torch.load("ck/x.ckpt", weights_only=False)["optimizer_states"]) == 2


# Truncated backpropagation through time


class Recurrent(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.cell, self.out = nn.RNN(3, 5, batch_first=True), nn.Linear(5, 1)
        self.told: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int, hiddens: Any) -> Any:
        x, y = batch
        self.told.append((batch_idx, tuple(x.shape), hiddens is not None and not hiddens.requires_grad))
        seen, hiddens = self.cell(x, hiddens)
        return {"loss": F.mse_loss(self.out(seen), y), "hiddens": hiddens}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        return [(torch.randn(2, 7, 3, generator=generator), torch.randn(2, 7, 1, generator=generator)) for _ in range(3)]


def unrolled() -> Recurrent:
    module = Recurrent()
    optimizer = module.configure_optimizers()
    for index, (x, y) in enumerate(module.train_dataloader()):
        hiddens = None
        for start in range(0, 7, 3):
            out = module.training_step((x[:, start : start + 3], y[:, start : start + 3]), index, hiddens)
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
            hiddens = out["hiddens"].detach()
    return module


@pytest.mark.parametrize("where", ["trainer", "module"])
def test_a_batch_is_split_along_time(where: str) -> None:
    module = Recurrent()
    if where == "module":
        module.truncated_bptt_steps = 3  # type: ignore[assignment]  # 1.1's way
    trainer = Trainer(**QUIET, **({"truncated_bptt_steps": 3} if where == "trainer" else {}))
    trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(module.train_dataloader(), batch_size=None))  # type: ignore[arg-type]
    assert [shape for _, shape, _ in module.told] == [(2, 3, 3), (2, 3, 3), (2, 1, 3)] * 3
    assert [told for *_, told in module.told] == [False, True, True] * 3
    assert same_weights(module, unrolled())
    assert trainer.global_step == 3


def test_a_module_may_split_by_itself_and_ask_the_base() -> None:
    class Own(Recurrent):
        def tbptt_split_batch(self, batch: Any, split_size: int) -> list[Any]:
            return super().tbptt_split_batch(batch, split_size)[:1]

    module = Own()
    Trainer(truncated_bptt_steps=3, **QUIET).fit(
        module,
        torch.utils.data.DataLoader(module.train_dataloader(), batch_size=None),  # type: ignore[arg-type]
    )
    assert len(module.told) == 3


@pytest.mark.parametrize(
    ("batch", "shapes"),
    [
        (torch.zeros(2, 5), [(2, 2), (2, 2), (2, 1)]),
        ({"x": torch.zeros(2, 5, 3)}, [(2, 2, 3), (2, 2, 3), (2, 1, 3)]),
        ((torch.zeros(2, 4), torch.zeros(2)), [(2, 2), (2, 2)]),
        ([torch.zeros(2, 4), [[1, 2, 3, 4], [5, 6, 7, 8]]], [(2, 2), (2, 2)]),
    ],
)
def test_what_a_batch_may_be(batch: Any, shapes: list[tuple[int, ...]]) -> None:
    parts = split_along_time(batch, 2)
    first = [
        next(iter(part.values())) if isinstance(part, dict) else part[0] if isinstance(part, list | tuple) else part
        for part in parts
    ]
    assert [tuple(each.shape) for each in first] == shapes
    assert type(parts[0]) is type(batch)


@pytest.mark.parametrize("batch", [torch.zeros(3), [torch.zeros(2, 3), torch.zeros(2, 4)]])
def test_a_batch_that_cannot_be_split_is_refused(batch: Any) -> None:
    with pytest.raises(InvalidReturn, match="tbptt_split_batch"):
        split_along_time(batch, 2)


def test_hiddens_without_stretches_are_refused() -> None:
    with pytest.raises(InvalidReturn, match="truncated_bptt_steps"):
        fit(Recurrent())


def test_stretches_and_accumulation_exclude_each_other() -> None:
    with pytest.raises(ConflictingOptions, match="truncated_bptt_steps"):
        fit(Recurrent(), truncated_bptt_steps=2, accumulate_grad_batches=2)


def test_a_stretch_has_a_length() -> None:
    with pytest.raises(InvalidOption, match="truncated_bptt_steps"):
        Trainer(truncated_bptt_steps=0, **QUIET)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("batches", [1, 3, 4])
def test_a_file_saved_between_batches_goes_on_to_the_same_bits(accumulate: int, batches: int, tmp_path: Path) -> None:
    def save(trainer: Trainer, *rest: Any) -> None:
        if trainer.leyden_fit.progress.batches == batches:
            trainer.save_checkpoint(tmp_path / "between.ckpt")

    whole, resumed = Gan(), Gan()
    fit(whole, accumulate_grad_batches=accumulate, callbacks=[Recorder(on_train_batch_end=save)])
    trainer = Trainer(**QUIET, accumulate_grad_batches=accumulate)
    trainer.fit(resumed, ckpt_path=tmp_path / "between.ckpt")
    assert same_weights(whole, resumed)


def test_a_save_inside_a_turn_is_warned_of_and_freezes_nobody(tmp_path: Path) -> None:
    def save(trainer: Trainer, *rest: Any) -> None:
        trainer.save_checkpoint(tmp_path / "inside.ckpt")

    with pytest.warns(leyden.errors.LeydenWarning, match="saved inside a batch of optimizers that take turns"):
        fit(Gan(), callbacks=[Recorder(on_before_optimizer_step=save)], max_steps=2)
    resumed = Gan()
    Trainer(**QUIET).fit(resumed, ckpt_path=tmp_path / "inside.ckpt")
    assert resumed.required[:2] == [(True, False), (False, True)]
    assert all(parameter.requires_grad for parameter in resumed.parameters())
