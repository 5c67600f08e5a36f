"""A hook is described where it is defined, and known everywhere else from there."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import leyden
from leyden.callback import Callback
from leyden.hook_facts import WHERE_LEGAL, hook, hooks_of
from leyden.hooks import HOOK_NAMES, MODULE_HOOKS
from leyden.module import LightningModule
from leyden.trainer.checks import DATAMODULE_METHODS, MODULE_METHODS

NO_HOOKS = {"leyden_wants", "hears"}  # the latter once a class of 0.1.0 was defined


def public_methods(part: type) -> list[str]:
    return [name for name, value in vars(part).items() if inspect.isfunction(value) and not name.startswith("_")]


def test_every_method_of_a_callback_is_a_hook_with_its_facts() -> None:
    assert (
        [name for name in public_methods(Callback) if name not in NO_HOOKS and not name.startswith("leyden_")]
        == list(hooks_of(Callback))
        == list(HOOK_NAMES)
    )


@pytest.mark.parametrize("name", MODULE_HOOKS)
def test_a_hook_that_is_said_to_be_the_module_s_is_there_with_as_many_arguments(name: str) -> None:
    parameters = inspect.signature(getattr(LightningModule, name)).parameters
    assert len(parameters) - 1 == MODULE_HOOKS[name]
    assert name not in hooks_of(LightningModule), "its facts stand with the callback's"


def test_every_hook_of_the_module_has_its_facts() -> None:
    named_so = {name for name in public_methods(LightningModule) if name.startswith(("on_", "configure_")) or "_step" in name}
    own = {"on_gpu"}
    assert named_so - own <= MODULE_METHODS


def test_a_datamodule_may_override_what_its_class_says() -> None:
    assert frozenset(public_methods(leyden.LightningDataModule)) == DATAMODULE_METHODS


def test_what_can_be_logged_in_is_a_hook() -> None:
    assert set(WHERE_LEGAL) <= {*HOOK_NAMES, *MODULE_METHODS}


def test_a_marked_function_stays_the_function_that_it_was() -> None:
    def on_something(self: object) -> None:
        """Nothing happens."""

    assert hook()(on_something) is on_something


def test_a_hook_added_in_one_place_is_known_everywhere(tmp_path: Path) -> None:
    """A copy of the house with one more hook: it is emitted, it is counted, it may log, and a misspelling of it is refused."""
    shutil.copytree(Path(leyden.__file__).parent, tmp_path / "leyden", ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, added in [
        (
            "callback.py",
            "    # -- validation\n",
            """
            @hook(log=EPOCH, module=True)
            def on_full_moon(self, trainer: "Trainer", pl_module: "LightningModule", phase: float) -> None:
                \"\"\"The moon is full.\"\"\"

            """,
        ),
        (
            "module.py",
            "    # -- hooks of the module alone\n",
            """
            def on_full_moon(self, phase: float) -> None:
                \"\"\"The moon is full.\"\"\"

            """,
        ),
    ]:
        path = tmp_path / "leyden" / file
        text = path.read_text()
        assert before in text
        indented = "".join(f"    {line}" if line.strip() else line for line in dedent(added).splitlines(keepends=True))
        path.write_text(text.replace(before, indented + before))
    program = """
        import leyden
        from leyden.callbacks import LambdaCallback
        from leyden.testing import BoringModel, Recorder

        class Moonstruck(BoringModel):
            def on_full_moon(self, phase):
                self.log("phase", phase)
                print("module")

        def rises(trainer, module):
            trainer.leyden_hooks.emit(leyden.Callback.on_full_moon, 0.5)

        def trainer(*callbacks):
            return leyden.Trainer(
                max_epochs=1, limit_train_batches=1, limit_val_batches=0, logger=False, accelerator="cpu",
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
            )

        recorder = Recorder(on_full_moon=lambda trainer, module, phase: print("callback"))
        run = trainer(recorder, LambdaCallback(on_train_epoch_end=rises))
        run.fit(Moonstruck())
        print(recorder.names.count("on_full_moon"), float(run.callback_metrics["phase"]))

        def misspelt(kind):
            return type("Misspelt", (kind,), {"on_ful_moon": lambda self, *phase: None})()

        for callbacks, module in ([misspelt(leyden.Callback)], BoringModel()), ([], misspelt(BoringModel)):
            try:
                trainer(*callbacks).fit(module)
            except leyden.errors.UnknownName as error:
                print("on_full_moon" in str(error))
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["callback", "module", "1", "0.5", "True", "True"]
