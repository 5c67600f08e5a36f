"""Several processes, one device each."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from leyden.checkpoint.files import CheckpointIO
from leyden.data.share import ALONE, Share
from leyden.devices.accelerators import Accelerator
from leyden.devices.precision import Precision, make_precision
from leyden.distributed.backends import check_backend
from leyden.distributed.environment import ClusterEnvironment, detect_environment
from leyden.distributed.group import Group, Launcher, Started
from leyden.distributed.launchers.launching import Launching
from leyden.distributed.launchers.lifeline import runs_again
from leyden.distributed.layer_sync import TorchSyncBatchNorm
from leyden.distributed.left_behind import LeftBehind
from leyden.distributed.unforeseen import Unforeseen
from leyden.errors import InvalidType, Unsupported
from leyden.spelling import exact_arguments
from leyden.strategies.single import SingleDeviceStrategy
from leyden.strategies.skips import ByHand
from leyden.strategies.unowned import Unowned


@exact_arguments
class ParallelStrategy(SingleDeviceStrategy):
    """Several processes that train together, on one device each. Subclasses say how they share the module.

    Args:
        accelerator: the kind of device.
        parallel_devices: the devices of this machine, one for each of its processes.
        cluster_environment: who started the processes and numbers them; found out where it is left open.
        checkpoint_io: what puts checkpoints to disk.
        precision_plugin: the number formats.
    """

    strategy_name: str | None = None
    leyden_exchanges_by_name = False
    """Whether nothing but ``manual_backward`` exchanges gradients in manual optimization."""
    _by_hand: ByHand | None = None
    _unowned: Unowned | None = None

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        parallel_devices: Sequence[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        *,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        if cluster_environment is not None and not isinstance(cluster_environment, ClusterEnvironment):
            raise InvalidType("cluster_environment", cluster_environment, "a ClusterEnvironment, or None to find it out")
        devices = list(parallel_devices or ())
        super().__init__(devices[0] if devices else "cpu", accelerator, checkpoint_io, precision_plugin)
        if accelerator is None:  # it is the one that the Trainer is asked for
            self._accelerator = None
            self._given.discard("accelerator")
        self.parallel_devices = devices
        self._brings_devices = bool(devices)
        self.cluster_environment = cluster_environment
        self._detected: ClusterEnvironment | None = None
        self._process_group_backend, self._timeout = process_group_backend, timeout
        self._share = True
        self._synced = False
        self._unforeseen: Unforeseen | None = None
        self._left: LeftBehind | None = None

    @property
    def leyden_devices(self) -> Sequence[torch.device]:
        """The ``parallel_devices`` that were given to it; empty where the Trainer says them."""
        return self.parallel_devices if self._brings_devices else ()

    def leyden_forget(self) -> None:
        super().leyden_forget()
        if self.cluster_environment is self._detected:
            self.cluster_environment = None

    def set_world_ranks(self) -> None:
        """Read this process's numbers from who started it. Called where they may have become others."""
        if isinstance(self.processes, Group):
            self.processes.number()

    @property
    def process_group_backend(self) -> str | None:
        """The backend that was asked for; ``None`` leaves the choice to the devices."""
        return self._process_group_backend

    @property
    def num_processes(self) -> int:
        """The processes of this machine, one for each of its devices."""
        return len(self.parallel_devices)

    def block_backward_sync(self) -> AbstractContextManager[Any]:
        """Backwards inside it stay each process's own, where the strategy exchanges gradients in them."""
        return self.leyden_accumulating()

    def leyden_make_precision(self, precision: str | int | None, device: torch.device) -> Precision:
        """The number formats for the Trainer's ``precision``."""
        return make_precision(precision, device)

    def leyden_launcher(self) -> Launcher:
        """How this machine's processes begin, where no cluster's launcher has started them."""
        return Started()

    def leyden_assemble(
        self, devices: Sequence[torch.device], nodes: int, environment: ClusterEnvironment | None, shares: bool
    ) -> None:
        """The Trainer's words are known: ``devices`` of each of ``nodes`` machines, and whether samplers are shared out."""
        if not self._brings_devices:
            self.parallel_devices = list(devices)
        check_backend(self._process_group_backend, self.parallel_devices)
        if self.cluster_environment is None:
            self.cluster_environment = self._detected = environment or detect_environment()
        self._share = shares
        started = self.cluster_environment.creates_processes_externally
        self.processes = Group(
            self.cluster_environment,
            Started() if started and not runs_again() else self.leyden_launcher(),
            nodes=nodes,
            per_node=len(self.parallel_devices),
            backend=self._process_group_backend,
            timeout=self._timeout,
        )
        self.launcher = Launching(self.processes)
        self.num_devices = len(self.parallel_devices)
        self._device = self.root_device
        self.leyden_moves = self._device.type != "cpu"

    @property
    def root_device(self) -> torch.device:
        devices = self.parallel_devices
        return devices[self.local_rank % len(devices)] if devices else self._device

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        """Whose samples are whose, in the words of :class:`torch.utils.data.DistributedSampler`."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def leyden_share(self) -> Share:
        if self.processes.alone:
            return ALONE
        if not self._share:
            return Share(processes=self.processes)
        told = self.distributed_sampler_kwargs
        return Share(told["rank"], told["num_replicas"], processes=self.processes)

    # -- checkpoints after a fit
    def leyden_leave(self, own: Mapping[str, Any]) -> None:
        if self.processes.alone:
            return
        self._left = self._left or LeftBehind(self.processes)
        self._left.leave(own)

    def leyden_of_all(self, own: Any, at_rest: bool) -> list[Any]:
        left = None if self._left is None or not at_rest or self.leyden_in_verb else self._left.of_all()
        return super().leyden_of_all(own, at_rest) if left is None else left

    def leyden_saving(self, what: str) -> AbstractContextManager[None]:
        if self.processes.alone or self.leyden_in_verb:
            return super().leyden_saving(what)
        return self.processes.called_by_all(what, alone=self.leyden_saves_alone)

    @property
    def leyden_saves_alone(self) -> bool:
        """Whether the first process has all that a checkpoint holds, now that no verb runs."""
        return False

    @property
    def leyden_in_verb(self) -> bool:
        """Whether a verb runs in all processes."""
        return getattr(self.processes, "watch", None) is not None

    # -- what one process does alone
    def leyden_no_loss(self, progress: Any, optimizer: Any, zero: Any = None, entered: bool = True) -> None:
        if self._unforeseen is None or optimizer is None:
            return
        number = [each is optimizer for each in self.optimizers].index(True) if len(self.optimizers) > 1 else 0
        self._unforeseen.meet(
            f"batch {progress.batches}, optimizer {number}, no loss",
            f"training_step gave no loss for batch {progress.batch} of epoch {progress.epoch} (or the loader gave None)",
            "All processes take part in the exchange of gradients: let all of them skip a batch, or return 0 * loss on this one. "
            "Under strategy='ddp' a single process's is left out where training_step itself says 'return None'.",
        )

    def leyden_by_hand(self) -> ByHand | None:
        self._by_hand = None if self._unforeseen is None else ByHand(self._unforeseen, self.leyden_exchanges_by_name)
        return self._by_hand

    # -- parameters that no engine knows
    def leyden_unowned(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Those of ``parameters`` whose gradients no engine exchanges, and somebody has to."""
        return []

    def leyden_beside(self) -> Iterable[Tensor]:
        """What begins alike on all processes, beside parameters that no engine knows."""
        return ()

    def leyden_see_optimizers(self) -> None:
        """Heed from now on what the optimizers have that no engine knows."""
        if self._unforeseen is not None:
            self._unowned = Unowned(
                self.leyden_peers,
                self._unforeseen,
                lambda: self.optimizers,
                self.leyden_unowned,
                self.leyden_beside,
                self._was_given,
            )
            self._unowned.look()

    def _was_given(self) -> None:
        """An optimizer was given other parameters."""

    def leyden_keep_up(self) -> None:
        """A step begins, of what is trained by now."""
        if self._unowned is not None:
            self._unowned.look()
            if self._by_hand is not None and self._unowned.parameters:
                self._by_hand.by_name = True

    @property
    def leyden_exchanging(self) -> bool:
        """Whether the running batch's backward exchanges gradients."""
        return True

    @property
    def leyden_backs_plainly(self) -> bool:
        return super().leyden_backs_plainly and self.processes.alone

    def leyden_backed(self) -> None:
        if self._unowned is not None and self.leyden_exchanging:
            self._unowned.average()

    def leyden_expect_backward(self, loss: Tensor) -> None:
        if self._by_hand is not None:
            self._by_hand.backwards += 1

    def leyden_ended_early(self, epoch: int, batches: int) -> None:
        if self._unforeseen is not None:
            self._unforeseen.meet(
                f"epoch {epoch}, end after {batches}",
                f"The training data of epoch {epoch} ended after {batches} batches, before its own length,",
                "Correct the length of its sampler or dataset, or give the loader none: then all end together.",
            )

    def leyden_place(self, module: nn.Module) -> None:
        sync, trainer = self.leyden_layer_sync, getattr(module, "_trainer", None)
        self._synced = sync is not None and not self.processes.alone and (trainer is None or trainer.leyden_fitting)
        if self._synced:
            if isinstance(sync, TorchSyncBatchNorm) and self._device.type == "cpu" and any(map(_is_batch_norm, module.modules())):
                raise Unsupported(
                    "sync_batchnorm=True puts torch's SyncBatchNorm in the place of batch norms, and that runs on GPUs alone. "
                    "Leave it out on the CPU, or use layers that look at each sample by itself (GroupNorm, LayerNorm)."
                )
            sync.apply(module)
        super().leyden_place(module)

    def setup_environment(self) -> None:
        self._unforeseen, self._unowned = None if self.processes.alone else Unforeseen(self.processes), None
        self._device = self.root_device
        super().setup_environment()

    def teardown(self) -> None:
        super().teardown()
        if self.cluster_environment is not None:
            self.cluster_environment.teardown()
        if self._synced and self._module is not None:
            self._synced = False
            self.leyden_layer_sync.revert(self._module)


def _is_batch_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)
