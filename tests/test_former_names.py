"""What we ask of callbacks and loggers has names that nobody chooses by accident; those of 0.1.0 are still understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from warm_python import python

import leyden
from leyden.callback import Callback
from leyden.former_names import TODAY
from leyden.hooks import in_checkpoint_phase, phase_of
from leyden.loggers import CSVLogger
from leyden.loggers.base import Logger
from leyden.testing import BoringModel

QUIET: dict[str, Any] = {
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
CALLBACKS_WORDS = ("place", "reads_epoch_metrics", "hears")
LOGGERS_WORDS = ("takes_tensors", "start", "go_on", "start_over", "position", "resume")


class Plain(Logger):
    """A logger of the user's own."""

    name = "plain"
    version = 0

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append(dict(metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


def fit(module: leyden.LightningModule | None = None, **options: Any) -> leyden.Trainer:
    trainer = leyden.Trainer(**{**QUIET, "logger": False, "enable_checkpointing": False, **options})
    trainer.fit(module or BoringModel())
    return trainer


class TestWordsOfTheUsersOwn:
    @pytest.mark.parametrize("word", CALLBACKS_WORDS)
    @pytest.mark.parametrize("value", ["left", 3, None, lambda self, loudness, pitch: 1 / 0], ids=["text", "3", "None", "method"])
    @pytest.mark.parametrize("where", ["class", "instance"])
    def test_a_callback(self, word: str, value: Any, where: str) -> None:
        heard: list[str] = []
        words = {"on_train_epoch_end": lambda self, trainer, pl_module: heard.append("told")}
        callback = type("Mine", (Callback,), {**words, **({word: value} if where == "class" else {})})()
        if where == "instance":
            setattr(callback, word, value)
        fit(callbacks=callback, enable_checkpointing=True)
        assert (heard, phase_of(callback)) == (["told"], "given")

    @pytest.mark.parametrize("word", LOGGERS_WORDS)
    @pytest.mark.parametrize("value", [1.0, None, lambda self: 1 / 0, lambda self, gun: 1 / 0], ids=["1.0", "None", "bare", "x"])
    @pytest.mark.parametrize("where", ["class", "instance"])
    @pytest.mark.parametrize("base", [Plain, CSVLogger])
    def test_a_logger(self, word: str, value: Any, where: str, base: Any, tmp_path: Path) -> None:
        kind = type("Mine", (base,), {word: value} if where == "class" else {})
        logger = kind() if base is Plain else kind(tmp_path)
        if where == "instance":
            setattr(logger, word, value)
        first = fit(logger=logger, enable_checkpointing=True)
        again = leyden.Trainer(**{**QUIET, "logger": logger, "max_epochs": 2})
        again.fit(BoringModel(), ckpt_path=first.checkpoint_callback.last_model_path)
        assert again.current_epoch == 2

    def test_today_s_words_with_a_strange_value_are_left_alone(self) -> None:
        for value in ("last", "somewhere", 3, None, Mock()):
            strange = type("Strange", (Callback,), {"leyden_phase": value, "leyden_reads_epoch_metrics": value})()
            assert phase_of(strange) == "given"
            assert not in_checkpoint_phase(strange, Callback.on_train_epoch_end)
            fit(callbacks=strange)

    def test_the_bases_have_none_of_them(self) -> None:
        code = f"import leyden, leyden.loggers; print([w for w in {list(TODAY)} if hasattr(leyden.Callback, w)])"
        code += f"; print([w for w in {list(TODAY)} if hasattr(leyden.loggers.Logger, w)])"
        assert python("-c", code).stdout.split() == ["[]", "[]"]


class TestClassesWrittenFor010:
    def test_a_callback_that_saves(self) -> None:
        heard: list[str] = []

        class Module(BoringModel):
            def on_train_epoch_end(self) -> None:
                heard.append("module")

        def callback(name: str, **words: Any) -> Callback:
            words["on_train_epoch_end"] = lambda self, trainer, pl_module: heard.append(name)
            return type("Mine", (Callback,), words)()

        fit(
            Module(),
            callbacks=[
                callback("saves", place="last"),
                callback("reads", reads_epoch_metrics=True),
                callback("plain", place="given"),
                callback("finds", place="first"),
                callback("deaf", hears=lambda self, hook: False),
            ],
        )
        assert heard == ["finds", "plain", "module", "reads", "saves"]

    def test_a_mixin_says_it(self) -> None:
        class Last:
            place = "last"

        class Mine(Last, Callback):
            pass

        class Early(Mine):
            leyden_phase = "first"

        class NotMine(Mine):
            place = "left"

        assert [phase_of(kind()) for kind in (Mine, Early, NotMine)] == ["checkpoint", "first", "checkpoint"]

    def test_a_callback_asks_its_base(self) -> None:
        asked: list[bool] = []

        class Mine(leyden.callbacks.ModelCheckpoint):
            def hears(self, hook: str) -> bool:
                asked.append(super().hears(hook))  # type: ignore[misc]  # 0.1.0's name
                return asked[-1]

        fit(callbacks=Mine(save_last=True), enable_checkpointing=True)
        assert True in asked
        assert False in asked, "the end of a batch is none of its business"

    def test_a_logger_that_overrides_all(self) -> None:
        called: list[Any] = []

        class Mine(Plain):
            takes_tensors = True

            def start(self, agree: Any = None) -> None:
                called.append("start")

            def go_on(self, position: Any) -> None:
                called.append("go_on")

            def start_over(self) -> None:
                called.append("start_over")

            def position(self) -> dict[str, Any]:
                return {"rows": 7}

            def resume(self, position: Any) -> None:
                called.append(position)

        class Logging(BoringModel):
            def on_train_batch_end(self, *_: Any) -> None:
                self.log("loss", self.layer.weight.sum())

        logger = Mine()
        first = fit(Logging(), logger=logger, log_every_n_steps=1, enable_checkpointing=True)
        assert called == ["start"]
        assert any(hasattr(row.get("loss"), "device") for row in logger.rows)
        again = leyden.Trainer(**{**QUIET, "logger": logger, "max_epochs": 2})
        again.fit(BoringModel(), ckpt_path=first.checkpoint_callback.last_model_path)
        assert called == ["start", "start", {"rows": 7}]

    def test_a_logger_asks_its_base(self, tmp_path: Path) -> None:
        class Mine(CSVLogger):
            def start(self, agree: Any = None) -> None:
                super().start(agree)  # type: ignore[misc]  # 0.1.0's name
                self.started = True

            def position(self) -> dict[str, Any]:
                return {**super().position(), "mine": 1}  # type: ignore[misc]  # as above

        logger = Mine(tmp_path)
        fit(logger=logger)
        assert logger.started
        assert Path(logger.log_dir).is_dir()
        assert logger.leyden_position()["mine"] == 1
