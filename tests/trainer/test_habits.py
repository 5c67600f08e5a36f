"""What users of Lightning 2.6 rely on without thinking of it: each habit, over its kind."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelSummary,
    RichModelSummary,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from leyden.checkpoint.files import reach
from leyden.errors import (
    ConflictingOptions,
    IgnoredSetting,
    LeydenWarning,
    MisconfigurationException,
    MissingMonitor,
    MissingPackage,
)
from leyden.inspect.summary import ModelSummary as Summary
from leyden.state.stage import TrainerFn
from leyden.testing import BoringModel


def trainer(**options: Any) -> leyden.Trainer:
    defaults: dict[str, Any] = {"logger": False, "max_epochs": 1, "num_sanity_val_steps": 0}
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return leyden.Trainer(**{**defaults, **quiet, **options})


class Training(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.heard: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.heard.append(("step", batch_idx))
        return self.layer(batch).mean()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.heard.append(("start", batch_idx))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.heard.append(("end", outputs if outputs is None else "outputs"))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Loader:
    """Batches as they are given, whatever they are."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


BATCH = torch.ones(3, 2)


# -- batches that are None


@pytest.mark.parametrize("manual", [False, True])
def test_a_batch_that_is_none_is_passed_over(manual: bool) -> None:
    module = Training()
    module.automatic_optimization = not manual
    with pytest.warns(UserWarning, match="yielded None") as warned:
        trainer().fit(module, Loader([None, BATCH, None]))
    assert len(warned) == 1
    assert module.heard == [("end", None), ("start", 1), ("step", 1), ("end", "outputs"), ("end", None)]


def test_a_window_that_ends_with_none_still_makes_its_step() -> None:
    mine = trainer(accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match="yielded None"):
        mine.fit(Training(), Loader([BATCH, None, None, BATCH, None]))
    assert mine.global_step == 2


# -- a run that takes no step


class Forgetful(Training):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.layer(batch).mean()


@pytest.mark.parametrize("more", [{}, {"min_steps": 3}, {"min_epochs": 3, "accumulate_grad_batches": 2}])
def test_a_run_without_a_step_ends_where_only_steps_limit_it(more: dict[str, Any]) -> None:
    mine = trainer(max_epochs=-1, max_steps=5, **more)
    with pytest.warns(LeydenWarning, match="it ends here"):
        result = mine.fit(Forgetful(), Loader([BATCH] * 4))
    assert (result.status, result.steps, mine.current_epoch) == ("stopped", 0, 1)


# -- the loader's number


class RequiresIndex(BoringModel):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...


class RequiresInTest(BoringModel):
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...


class RequiresInPredict(BoringModel):
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None: ...


class HooksRequireIndex(BoringModel):
    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.told = [dataloader_idx]

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.told.append(dataloader_idx)


@pytest.mark.parametrize(
    ("model", "verb", "name"),
    [
        (RequiresIndex, "fit", "validation_step"),
        (RequiresIndex, "validate", "validation_step"),
        (RequiresInTest, "test", "test_step"),
        (RequiresInPredict, "predict", "predict_step"),
        (HooksRequireIndex, "fit", "on_validation_batch_start"),
        (HooksRequireIndex, "validate", "on_validation_batch_start"),
    ],
)
def test_a_required_loader_number_is_refused_by_name_where_there_is_one_loader(model: Any, verb: str, name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"{model.__name__}\.{name} requires.*dataloader_idx=0"):
        getattr(trainer(limit_train_batches=1), verb)(model())


def test_with_two_loaders_it_may_be_required() -> None:
    loaders = [Loader([torch.ones(1, 32)]), Loader([torch.ones(1, 32)])]
    trainer().validate(RequiresIndex(), loaders, verbose=False)


# -- manual optimization


class Odd:
    """Schedules, in its own way."""


class Manual(Training):
    def __init__(self, returned: Any = None, config: Any = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.returned, self.config = returned, config

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.layer(batch).mean())
        optimizer.step()
        return self.returned

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return {"optimizer": optimizer, **({} if self.config is None else {"lr_scheduler": self.config(optimizer)})}


@pytest.mark.parametrize("returned", [5, "loss", [torch.ones(1)], 2.0])
def test_a_manual_step_returns_a_tensor_a_dict_or_nothing(returned: Any) -> None:
    with pytest.raises(MisconfigurationException, match="tensor, a dict, or nothing"):
        trainer().fit(Manual(returned), Loader([BATCH]))
    for fine in (None, torch.ones(()), {"more": 1}):
        trainer().fit(Manual(fine), Loader([BATCH]))


def scheduler(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


@pytest.mark.parametrize("ignored", [{"monitor": "x"}, {"strict": False}, {"reduce_on_plateau": True, "monitor": "x"}])
def test_what_a_manual_scheduler_cannot_use_is_named(ignored: dict[str, Any]) -> None:
    module = Manual(config=lambda optimizer: {"scheduler": scheduler(optimizer), "interval": "step", "frequency": 3, **ignored})
    mine = trainer()
    with pytest.warns(RuntimeWarning, match=", ".join(sorted(ignored))) as warned:
        mine.fit(module, Loader([BATCH]))
    assert issubclass(warned[0].category, IgnoredSetting)
    plan = mine.lr_scheduler_configs[0]
    assert (plan.interval, plan.frequency, plan.monitor) == ("step", 3, None)


def test_a_scheduler_without_step_is_the_user_s_affair_in_manual_optimization(tmp_path: Any) -> None:
    mine = trainer()
    mine.fit(Manual(config=lambda optimizer: {"scheduler": Odd()}), Loader([BATCH]))
    mine.save_checkpoint(tmp_path / "a.ckpt")
    trainer(max_epochs=2).fit(
        Manual(config=lambda optimizer: {"scheduler": Odd()}), Loader([BATCH]), ckpt_path=tmp_path / "a.ckpt"
    )
    automatic = Manual(config=lambda optimizer: {"scheduler": Odd()})
    automatic.automatic_optimization = True
    with pytest.raises(MisconfigurationException, match="Odd"):
        trainer().fit(automatic, Loader([BATCH]))


# -- conflicts


def test_conflicts_are_runtime_errors_too() -> None:
    assert issubclass(ConflictingOptions, RuntimeError)
    timers = [Timer(), Timer()]
    with pytest.raises(RuntimeError, match="state key"):
        trainer(callbacks=timers)


# -- steps that are None


@pytest.mark.parametrize(("name", "verb"), [("training_step", "fit"), ("predict_step", "predict"), ("test_step", "test")])
def test_a_step_that_is_none_is_a_missing_one(name: str, verb: str) -> None:
    module = BoringModel()
    setattr(module, name, None)
    with pytest.raises(MisconfigurationException, match=name):
        getattr(trainer(), verb)(module)


def test_a_forward_that_is_none_is_a_missing_one() -> None:
    module = Training()
    module.forward = None  # type: ignore[method-assign, assignment]  # a user's own
    with pytest.raises(MisconfigurationException, match="forward"):
        trainer().predict(module, Loader([BATCH]))


# -- small things


def test_stages_are_of_their_enum() -> None:
    seen: list[Any] = []

    class Watching(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            seen.append(stage)

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            seen.append(stage)

    class Module(BoringModel):
        def setup(self, stage: str) -> None:
            seen.append(stage)

    trainer(callbacks=Watching(), limit_train_batches=1, limit_val_batches=1).fit(Module())
    assert seen == ["fit"] * 3
    assert all(isinstance(stage, TrainerFn) and f"{stage}" == "fit" for stage in seen)


@pytest.mark.parametrize(("given", "shown"), [(True, True), (1, True), (3, 3), (False, False), (0, False)])
def test_fast_dev_run_reads_as_it_was_meant(given: Any, shown: Any) -> None:
    assert trainer(fast_dev_run=given).fast_dev_run is shown or trainer(fast_dev_run=given).fast_dev_run == shown != 1


@pytest.mark.parametrize(("given", "seconds"), [("00:00:90:00", 5400), ("00:30:00:00", 108000), ("00:00:00:75", 75)])
def test_parts_of_a_duration_may_be_large(given: str, seconds: float) -> None:
    limit = trainer(max_time=given).leyden_options.limits.max_time
    assert limit is not None
    assert limit.total_seconds() == seconds


@pytest.mark.parametrize(("bar", "kind"), [(RichProgressBar, RichModelSummary), (TQDMProgressBar, ModelSummary)])
def test_a_bar_by_rich_brings_a_summary_by_rich(bar: Any, kind: Any) -> None:
    mine = leyden.Trainer(logger=False, callbacks=bar())
    assert [type(callback) for callback in mine.callbacks if isinstance(callback, ModelSummary)] == [kind]


def test_a_url_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("HTTPFileSystem requires more") from ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingPackage, match="pip install aiohttp"):
        reach("https://example.org/a.ckpt")


def test_layers_called_by_keyword_show_their_sizes() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return x

    class Module(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Inner(), Inner()
            self.example_input_array = torch.ones(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x=self.one(x=x), y=x)  # type: ignore[no-any-return]  # a Tensor

    assert Summary(Module()).in_sizes == [[1, 2, 3], [[1, 2, 3], [1, 2, 3]]]


def test_a_bar_knows_epochs_without_validation() -> None:
    seen: list[Any] = []

    class Looking(TQDMProgressBar):
        def on_train_epoch_start(self, trainer: Any, *args: Any) -> None:
            super().on_train_epoch_start(trainer, *args)
            seen.append(self.total_val_batches)

    mine = trainer(callbacks=Looking(), enable_progress_bar=True, check_val_every_n_epoch=2, max_epochs=4, limit_train_batches=1)
    mine.fit(BoringModel(), val_dataloaders=Loader([torch.ones(1, 32)] * 3))
    assert seen == [0, 3, 0, 3]


# -- loaders that are made anew


class Making(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, list[int]] = {"train": [], "val": []}

    def train_dataloader(self) -> Any:
        self.made["train"].append(self.current_epoch)
        return Loader([torch.ones(1, 32)])

    def val_dataloader(self) -> Any:
        self.made["val"].append(self.current_epoch)
        return Loader([torch.ones(1, 32)] * 2)


@pytest.mark.parametrize(
    ("validates", "reloads", "sanity", "made"),
    [
        (3, 4, 0, [2, 8]),
        (2, 1, 0, [1, 3, 5, 7, 9]),
        (2, 2, 0, [1, 3, 5, 7, 9]),
        (3, 2, 0, [2, 5, 8]),
        (5, 2, 0, [4, 9]),
        (1, 2, 0, [0, 2, 4, 6, 8]),
        (1, 2, 1, [0, 2, 4, 6, 8]),
        (3, 2, 1, [0, 2, 5, 8]),
        (3, 0, 0, [0]),
    ],
)
def test_the_validation_loader_is_made_when_a_validation_is_due(
    validates: int, reloads: int, sanity: int, made: list[int], tmp_path: Any
) -> None:
    options: dict[str, Any] = {
        "check_val_every_n_epoch": validates,
        "reload_dataloaders_every_n_epochs": reloads,
        "val_check_interval": 1.0,
    }
    module = Making()
    trainer(max_epochs=10, num_sanity_val_steps=sanity, **options).fit(module)
    assert module.made["val"] == made
    assert module.made["train"] == (list(range(0, 10, reloads)) if reloads else [0])
    if reloads and not sanity:  # a resumed run goes on in the same rhythm, but that it has to make the newest one again
        first, second = trainer(max_epochs=6, **options), Making()
        first.fit(Making())
        first.save_checkpoint(tmp_path / "a.ckpt")
        trainer(max_epochs=10, **options).fit(second, ckpt_path=tmp_path / "a.ckpt")
        assert [epoch for epoch in made if epoch >= 6] == [e for e in second.made["val"] if e in made]


def test_several_validations_of_an_epoch_share_a_loader() -> None:
    class Longer(Making):
        def train_dataloader(self) -> Any:
            return Loader([torch.ones(1, 32)] * 4)

    module = Longer()
    trainer(max_epochs=4, val_check_interval=2, reload_dataloaders_every_n_epochs=1).fit(module)
    assert module.made["val"] == [0, 1, 2, 3]


# -- where a resumed run says that it is


class Starting(BoringModel):
    def on_train_start(self) -> None:
        self.began = self.current_epoch, self.global_step


def test_a_run_resumed_from_an_epoch_s_end_begins_with_the_next(tmp_path: Any) -> None:
    class Saving(leyden.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    options: dict[str, Any] = {"limit_train_batches": 3, "limit_val_batches": 1}
    trainer(max_epochs=2, callbacks=Saving(), **options).fit(BoringModel())
    for epoch in range(2):
        content = torch.load(tmp_path / f"{epoch}.ckpt", weights_only=False)
        module = Starting()
        mine = trainer(max_epochs=3, **options)
        mine.fit(module, ckpt_path=tmp_path / f"{epoch}.ckpt")
        assert module.began == (content["epoch"] + 1, content["global_step"])
        assert (mine.current_epoch, mine.global_step) == (3, 9)


# -- samplers


def test_samplers_are_told_each_epoch_once() -> None:
    class Told(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch: int) -> None:
            self.__dict__.setdefault("told", []).append(epoch)

    class Own(torch.utils.data.Sampler[int]):
        def __init__(self, count: int) -> None:
            self.told: list[int] = []  # a record, and nothing that the order comes of: the sanity check's stays in it
            self.count = count

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

        def __iter__(self) -> Any:
            return iter(range(self.count))

    class ToldBatches(torch.utils.data.BatchSampler):
        def set_epoch(self, epoch: int) -> None:
            self.__dict__.setdefault("told", []).append(epoch)

    def loader() -> tuple[Any, Any, Any]:
        data: Any = torch.ones(4, 32)
        batches = ToldBatches(Told(data), 2, False)
        return torch.utils.data.DataLoader(data, batch_sampler=batches), batches, batches.sampler

    (train, *of_train), (val, *of_val) = loader(), loader()
    mine, module = trainer(max_epochs=3, num_sanity_val_steps=1), BoringModel()
    mine.fit(module, train, val)
    assert [sampler.told for sampler in of_train] == [[0, 1, 2]] * 2
    assert [sampler.told for sampler in of_val] == [[0, 0, 1, 2]] * 2
    mine.validate(module, val, verbose=False)
    assert [sampler.told for sampler in of_val] == [[0, 0, 1, 2, 3]] * 2
    own, data = Own(4), torch.ones(4, 32)
    trainer(max_epochs=2, num_sanity_val_steps=1).fit(module, train, torch.utils.data.DataLoader(data, 2, sampler=own))  # type: ignore[arg-type]
    assert own.told == [0, 0, 1]


# -- checkpoints


def test_a_checkpoint_that_was_named_outlives_the_run(tmp_path: Any) -> None:
    def saving(epochs: int) -> leyden.Trainer:
        writer = ModelCheckpoint(tmp_path / "ckpts", save_top_k=1, save_on_train_epoch_end=True)
        return trainer(callbacks=writer, enable_checkpointing=True, max_epochs=epochs, limit_train_batches=2, limit_val_batches=0)

    first = saving(1)
    first.fit(BoringModel())
    named = first.checkpoint_callback.best_model_path
    for _ in range(2):  # the same command again
        again = saving(3)
        again.fit(BoringModel(), ckpt_path=named)
        assert again.checkpoint_callback.best_model_path.endswith("epoch=2-step=6.ckpt")
        assert os.path.exists(named)

    os.symlink(tmp_path / "ckpts", tmp_path / "linked")
    saving(3).fit(BoringModel(), ckpt_path=tmp_path / "linked" / os.path.basename(named))
    assert os.path.exists(named)


def test_a_quick_run_without_validation_keeps_the_last_state(tmp_path: Any) -> None:
    class Module(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.step(batch))

    def quick(*callbacks: Any) -> leyden.Trainer:
        options: dict[str, Any] = {"limit_train_batches": 2, "limit_val_batches": 0, "max_epochs": 2}
        return trainer(callbacks=list(callbacks), enable_checkpointing=True, **options)

    writer = ModelCheckpoint(tmp_path, monitor="val_loss")
    with pytest.warns(UserWarning, match="val_loss") as warned:
        quick(writer).fit(Module())
    assert len(warned) == 1
    assert len(os.listdir(tmp_path)) == 1
    with pytest.raises(MissingMonitor):
        quick(EarlyStopping("val_loss")).fit(Module())


@pytest.mark.parametrize("mine", [[], [ModelCheckpoint()]])
def test_a_smoke_run_has_its_checkpoint_callback_and_writes_nothing(mine: list[Any], tmp_path: Any) -> None:
    run = leyden.Trainer(fast_dev_run=True, callbacks=mine, enable_progress_bar=False, enable_model_summary=False)
    assert isinstance(run.checkpoint_callback, ModelCheckpoint)
    assert not mine or run.checkpoint_callback is mine[0]
    run.fit(BoringModel())
    assert run.checkpoint_callback.best_model_path == ""
    assert os.listdir(tmp_path) == []


# -- warnings that save an hour


@pytest.mark.parametrize("hook", ["optimizer_step", "optimizer_zero_grad"])
def test_a_hook_that_is_called_only_when_a_window_is_full_is_named(hook: str) -> None:
    module: Any = type(
        "Module", (BoringModel,), {hook: lambda self, *args, **kwargs: getattr(BoringModel, hook)(self, *args, **kwargs)}
    )
    with pytest.warns(UserWarning, match=f"overrides {hook}"):
        trainer(callbacks=GradientAccumulationScheduler({0: 2}), limit_train_batches=2, limit_val_batches=0).fit(module())


def test_parameters_that_do_not_exist_yet_are_not_counted_in_silence() -> None:
    with pytest.warns(UserWarning, match="too low"):
        assert Summary(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))).total_parameters == 4
