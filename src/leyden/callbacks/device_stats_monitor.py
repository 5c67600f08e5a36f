"""DeviceStatsMonitor: memory and load of the devices, among the logged metrics."""

from importlib.util import find_spec
from typing import Any

from leyden.callback import Callback
from leyden.checked import check_bool
from leyden.devices.accelerators import CPUAccelerator
from leyden.errors import ConflictingOptions, MissingPackage
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.state.stage import TrainerFn
from leyden.types import STEP_OUTPUT


@exact_arguments
class DeviceStatsMonitor(Callback):
    """Log figures of the device at the start and the end of every ``log_every_n_steps``-th batch.

    They are written under ``DeviceStatsMonitor.on_train_batch_start/NAME`` and so on, for training, validation and testing. On
    the CPU there are ``cpu_percent``, ``cpu_vm_percent`` (memory) and ``cpu_swap_percent``, of the whole machine, from psutil; on
    CUDA what ``torch.cuda.memory_stats`` tells, in bytes and counts. Neither waits for the device.

    Args:
        cpu_stats: Whether to log the CPU's figures; ``None``: where the CPU is what trains.

    Raises:
        InvalidType: ``cpu_stats`` is something else.
        ConflictingOptions: (when a fit is set up) there is no logger.
        MissingPackage: (when a fit is set up) the CPU's figures are wanted, and psutil is not installed.
    """

    def __init__(self, cpu_stats: bool | None = None) -> None:
        self._cpu_stats = None if cpu_stats is None else check_bool("cpu_stats", cpu_stats)

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        wanted = on_cpu if self._cpu_stats is None else self._cpu_stats
        if stage == TrainerFn.FITTING:
            if not trainer.loggers and not trainer.fast_dev_run:
                raise ConflictingOptions(
                    "DeviceStatsMonitor writes to a logger, and Trainer(logger=False) has none. Remove the callback, or give the "
                    "Trainer a logger."
                )
            if wanted and find_spec("psutil") is None:
                raise MissingPackage("psutil", "DeviceStatsMonitor, where it watches the CPU,")
        if wanted and trainer.loggers:
            CPUAccelerator().get_device_stats("cpu")  # load is counted from one asking to the next

    def __log(self, trainer: Run, hook: str, due: bool, step: int) -> None:
        if not (due or trainer.should_stop) or trainer.sanity_checking or not trainer.loggers or not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device
        if self._cpu_stats is False and device.type == "cpu":
            return
        figures = dict(trainer.accelerator.get_device_stats(device))
        if self._cpu_stats and device.type != "cpu":
            figures.update(CPUAccelerator().get_device_stats("cpu"))
        if not figures:
            return
        for logger in trainer.loggers:
            prefix = f"{type(self).__qualname__}.{hook}{logger.group_separator}"
            row = {f"{prefix}{name}": value for name, value in figures.items()}
            logger.log_metrics(metrics=row, step=step)

    def __train(self, trainer: Run, hook: str, ended: bool) -> None:
        every, progress = trainer.log_every_n_steps, trainer.leyden_fit.progress
        # both rows of a batch stand at one x, though its step is counted when it ends
        step = progress.stepped_batches - (1 if ended and progress.window == 0 else 0)
        self.__log(trainer, hook, every > 0 and (step + 1) % every == 0, step)

    def __evaluate(self, trainer: Run, hook: str, batch_idx: int) -> None:
        every = trainer.log_every_n_steps
        self.__log(trainer, hook, every > 0 and (batch_idx + 1) % every == 0, trainer.leyden_log_axis)

    def on_train_batch_start(self, trainer: Run, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.__train(trainer, "on_train_batch_start", ended=False)

    def on_train_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        self.__train(trainer, "on_train_batch_end", ended=True)

    def on_validation_batch_start(
        self, trainer: Run, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.__evaluate(trainer, "on_validation_batch_start", batch_idx)

    def on_validation_batch_end(
        self,
        trainer: Run,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.__evaluate(trainer, "on_validation_batch_end", batch_idx)

    def on_test_batch_start(
        self, trainer: Run, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.__evaluate(trainer, "on_test_batch_start", batch_idx)

    def on_test_batch_end(
        self,
        trainer: Run,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.__evaluate(trainer, "on_test_batch_end", batch_idx)
