"""What a user's subclass calls its own attributes and methods: any name that Lightning's class does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import pytest
from kit import Logging
from torch import nn

import leyden
from leyden.former_names import TODAY
from leyden.loggers import Logger
from leyden.profilers import Profiler
from leyden.strategies import SingleDeviceStrategy, Strategy

OF_LIGHTNING = {  # names of ours that Lightning 2.6 has; those of torch.nn.Module aside
    "Trainer": """
        accelerator accumulate_grad_batches barebones callback_metrics callbacks check_val_every_n_epoch checkpoint_callback
        checkpoint_callbacks ckpt_path current_epoch datamodule default_root_dir device_ids distributed_sampler_kwargs
        early_stopping_callback early_stopping_callbacks enable_validation estimated_stepping_batches evaluating
        fast_dev_run fit fit_loop global_rank global_step gradient_clip_algorithm gradient_clip_val init_module interrupted
        is_global_zero is_last_batch lightning_module limit_predict_batches limit_test_batches limit_train_batches
        limit_val_batches local_rank log_dir log_every_n_steps logged_metrics logger loggers lr_scheduler_configs max_epochs
        max_steps min_epochs min_steps model node_rank num_devices num_nodes num_predict_batches num_sanity_val_batches
        num_sanity_val_steps num_test_batches num_training_batches num_val_batches optimizers overfit_batches precision
        precision_plugin predict predict_dataloaders predict_loop predicting print profiler progress_bar_callback
        progress_bar_metrics received_sigterm reload_dataloaders_every_n_epochs sanity_checking save_checkpoint scaler
        should_stop state strategy test test_dataloaders test_loop testing train_dataloader val_check_batch
        val_check_interval val_dataloaders validate validate_loop validating world_size
    """,
    "Callback": """
        on_after_backward on_before_backward on_before_optimizer_step on_before_zero_grad on_exception on_fit_end
        on_fit_start on_load_checkpoint on_predict_batch_end on_predict_batch_start on_predict_end on_predict_epoch_end
        on_predict_epoch_start on_predict_start on_sanity_check_end on_sanity_check_start on_save_checkpoint
        on_test_batch_end on_test_batch_start on_test_end on_test_epoch_end on_test_epoch_start on_test_start
        on_train_batch_end on_train_batch_start on_train_end on_train_epoch_end on_train_epoch_start on_train_start
        on_validation_batch_end on_validation_batch_start on_validation_end on_validation_epoch_end
        on_validation_epoch_start on_validation_start setup state_key teardown
    """,
    "LightningModule": """
        trainer
        CHECKPOINT_HYPER_PARAMS_KEY CHECKPOINT_HYPER_PARAMS_NAME CHECKPOINT_HYPER_PARAMS_TYPE all_gather
        automatic_optimization backward clip_gradients configure_callbacks configure_gradient_clipping configure_model
        configure_optimizers current_epoch device device_mesh dtype example_input_array fabric freeze global_rank
        global_step hparams hparams_initial load_from_checkpoint local_rank log log_dict logger loggers lr_scheduler_step
        lr_schedulers manual_backward on_after_backward on_after_batch_transfer on_before_backward on_before_batch_transfer
        on_before_optimizer_step on_before_zero_grad on_fit_end on_fit_start on_gpu on_load_checkpoint on_predict_batch_end
        on_predict_batch_start on_predict_end on_predict_epoch_end on_predict_epoch_start on_predict_model_eval
        on_predict_start on_save_checkpoint on_test_batch_end on_test_batch_start on_test_end on_test_epoch_end
        on_test_epoch_start on_test_model_eval on_test_model_train on_test_start on_train_batch_end on_train_batch_start
        on_train_end on_train_epoch_end on_train_epoch_start on_train_start on_validation_batch_end
        on_validation_batch_start on_validation_end on_validation_epoch_end on_validation_epoch_start
        on_validation_model_eval on_validation_model_train on_validation_model_zero_grad on_validation_start optimizer_step
        optimizer_zero_grad optimizers predict_dataloader predict_step prepare_data prepare_data_per_node print
        remove_ignored_hparams save_hyperparameters setup strict_loading teardown test_dataloader test_step to_onnx to_tensorrt
        to_torchscript toggle_optimizer toggled_optimizer train_dataloader training_step transfer_batch_to_device unfreeze
        untoggle_optimizer val_dataloader validation_step
    """,
    "LightningDataModule": """
        CHECKPOINT_HYPER_PARAMS_KEY CHECKPOINT_HYPER_PARAMS_NAME CHECKPOINT_HYPER_PARAMS_TYPE
        allow_zero_length_dataloader_with_multiple_devices from_datasets hparams hparams_initial load_from_checkpoint name
        on_after_batch_transfer on_before_batch_transfer on_exception predict_dataloader prepare_data prepare_data_per_node
        remove_ignored_hparams save_hyperparameters setup teardown test_dataloader train_dataloader trainer
        transfer_batch_to_device val_dataloader
    """,
    "Logger": """
        after_save_checkpoint finalize group_separator log_dir log_graph log_hyperparams log_metrics name root_dir save
        save_dir version
    """,
    "Strategy": """
        handles_gradient_accumulation launcher lr_scheduler_configs model_sharded_context on_exception on_predict_end
        on_predict_start on_test_end on_test_start on_train_batch_start on_train_end on_train_start on_validation_end
        on_validation_start post_training_step process_dataloader register_strategies setup_optimizers
        setup_precision_plugin strategy_name tensor_init_context
        accelerator all_gather backward barrier batch_to_device broadcast checkpoint_io connect is_global_zero
        lightning_module lightning_module_state_dict lightning_restore_optimizer load_checkpoint load_model_state_dict
        load_optimizer_state_dict model model_to_device optimizer_state optimizer_step optimizers post_backward pre_backward
        precision_plugin predict_step reduce reduce_boolean_decision remove_checkpoint restore_checkpoint_after_setup
        root_device save_checkpoint setup setup_environment teardown test_step training_step validation_step
    """,
    "Profiler": """
        describe local_rank profile setup start stop summary teardown
    """,
}
FORMER = {
    "Trainer": "add_argparse_args from_argparse_args default_attributes",
    "Callback": """
        on_batch_start on_batch_end on_epoch_start on_epoch_end on_init_start on_init_end on_pretrain_routine_start
        on_pretrain_routine_end on_before_accelerator_backend_setup
    """,
    "LightningModule": """
        configure_sharded_model
        get_progress_bar_dict get_tqdm_dict load_from_metrics on_batch_start on_batch_end on_epoch_start on_epoch_end
        on_pre_performance_check on_post_performance_check on_predict_model_train on_pretrain_routine_start
        on_pretrain_routine_end on_sanity_check_start single_gpu summarize tbptt_split_batch use_amp use_ddp use_ddp2 use_dp
        use_tpu
    """,
    "LightningDataModule": """
        add_argparse_args from_argparse_args dims size train_transforms val_transforms test_transforms on_save_checkpoint
        on_load_checkpoint
    """,
    "Logger": "close experiment rank",
}
"""Names that Lightning's classes had in 2020 or later."""
OF_OURS = {
    "Trainer": "stop trial_run",  # documented, and called by nobody in the house
    "Strategy": """
        global_rank holds_whole_parameters load_optimizer_state load_optimizer_states local_rank model_state_dict node_rank
        num_devices num_nodes optimizer_states precision processes world_size
    """,  # ranks as Lightning's strategies of several processes have them; and what whoever writes one of ours writes
}
_TAKEN = """
    accumulation accumulation_schedule all_gather asked_accumulation at_rest backward bar_items carried ckpt_is_named classic
    clip_gradients course evaluation_cut evaluation_to_resume fit_state fitting flight follow_accumulation_schedule forget_modes
    generators_outside generators_to_restore goes_on history hooks in_stage keep_modes latest_loss loaders losses manual_backward
    metrics modes_by_name optimization optimizers_for_user options own_optimization plan progress raise_if_signalled
    random_outside random_state_to_restore read_mapping read_returned ready_step remove_checkpoint restore_modes
    saving_when_signalled steps stop stop_reason told_names trial_run validation_follows warn
    begin begin_fit log_row note_epoch time_of_save fresh_fit aside log_axis window_length place start model_name names callback
"""
TAKEN = _TAKEN.split()
QUIET = {**kit.QUIET, "limit_train_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 1, "enable_checkpointing": True}


@pytest.mark.parametrize("name", OF_LIGHTNING)
def test_our_own_public_names_begin_with_ours(name: str) -> None:
    classes = (leyden.Callback, leyden.LightningModule, leyden.LightningDataModule, Logger, Strategy, Profiler)
    owner: Any = leyden.Trainer(**kit.QUIET) if name == "Trainer" else {each.__name__: each for each in classes}[name]
    ours = {each for each in dir(owner) if not each.startswith(("_", "leyden_"))} - set(dir(nn.Module()))
    allowed = " ".join(names.get(name, "") for names in (OF_LIGHTNING, FORMER, OF_OURS)).split()
    # those of 0.1.0 are there once a class of its time was defined
    older = {each for each in ours & TODAY.keys() if getattr(owner, each) == getattr(owner, TODAY[each], None)}
    assert sorted(ours - older - set(allowed)) == []


def live(mine: type[leyden.Trainer], folder: Path) -> Any:
    """Every verb once, and a fit that goes on from a checkpoint."""
    run = mine(**{**QUIET, "max_epochs": 1, "default_root_dir": folder, "log_every_n_steps": 1, "logger": True})
    module = Logging()
    run.fit(module)
    run.validate(module, verbose=False)
    run.test(module, verbose=False)
    run.predict(module)
    run.save_checkpoint(folder / "mine.ckpt")
    again = mine(**{**QUIET, "max_epochs": 2, "default_root_dir": folder, "accumulate_grad_batches": 2})
    result = again.fit(Logging(), ckpt_path=folder / "mine.ckpt")
    assert (result.status, result.epochs, result.steps) == ("finished", 2, 3)
    return run


def test_attributes(tmp_path: Path) -> None:
    class Mine(leyden.Trainer):
        def __init__(self, **keywords: Any) -> None:
            for name in TAKEN:
                setattr(self, name, "mine")
            super().__init__(**keywords)
            for name in TAKEN:
                assert getattr(self, name) == "mine"
                setattr(self, name, {})

    run = live(Mine, tmp_path)
    assert [name for name in TAKEN if getattr(run, name) != {}] == []


def test_methods(tmp_path: Path) -> None:
    def own(self: Any) -> str:
        return "mine"

    run = live(type("Mine", (leyden.Trainer,), dict.fromkeys(TAKEN, own)), tmp_path)
    assert [name for name in TAKEN if getattr(run, name)() != "mine"] == []


def test_early_stopping_does_not_need_our_stop(tmp_path: Path) -> None:
    class Mine(leyden.Trainer):
        stop = None  # type: ignore[assignment]  # on purpose

    class Flat(Logging):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", 1.0)

    stopping = leyden.callbacks.EarlyStopping("val_loss", patience=1)
    assert Mine(**{**QUIET, "max_epochs": 5, "callbacks": [stopping]}).fit(Flat()).status == "stopped"


def test_progress_and_the_reason_of_a_stop_may_be_read() -> None:
    run: Any = leyden.Trainer(**{**QUIET, "max_epochs": 1})
    run.fit(Logging())
    assert (run.progress.batches, run.stop_reason) == (2, None)
    assert not hasattr(run, "history")


def test_a_strategy_with_attributes_of_its_own() -> None:
    class Mine(SingleDeviceStrategy):
        def __init__(self) -> None:
            super().__init__("cpu")
            for name in ("storage", "place", "route", "moves", "move", "clip", "complete", "stepping", "accumulating"):
                setattr(self, name, {})

    run = leyden.Trainer(**{**QUIET, "max_epochs": 1, "strategy": Mine(), "accelerator": "auto", "gradient_clip_val": 1.0})
    run.fit(Logging())
    assert run.global_step == 2


def test_a_profiler_with_attributes_of_its_own() -> None:
    class Mine(Profiler):
        def __init__(self) -> None:
            super().__init__()
            self.active: dict[str, int] = {}
            self.around = self.along = 0

        def start(self, action_name: str) -> None:
            self.active[action_name] = 1

        def stop(self, action_name: str) -> None:
            pass

    profiler = Mine()
    leyden.Trainer(**{**QUIET, "max_epochs": 1, "profiler": profiler}).fit(Logging())
    assert any("training_step" in name for name in profiler.active)
