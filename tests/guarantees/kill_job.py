"""A small training job that is killed and started again, and the means to do so: for the kill-anywhere test and the soak.

Everything in it that could go wrong in a resume is there on purpose: dropout, shuffling, random augmentation from three sources,
accumulation windows that epochs cut short, a scheduler that steps with the optimizer, shuffled validation in the middle of an
epoch and of a window, two loggers, checkpoints of the best and the last.

    python kill_job.py '{"folder": "somewhere"}'       runs the job once; the same command again goes on
    python kill_job.py zygote                          forks jobs, as lines on its standard input ask for them
"""

from __future__ import annotations

import builtins
import gc
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

EPOCHS = 3
SAMPLES = 50  # 13 batches of 4 and one of 2: the last accumulation window of an epoch holds one batch
BATCH = 4
INTERRUPTED, TERMINATED = 130, 143


@dataclass(frozen=True)
class Job:
    """One configuration of the job, and the folder of one run of it.

    Args:
        folder: where everything is written.
        data: ``"map"``, ``"iterable"`` or ``"stateful"`` (torchdata's StatefulDataLoader).
        workers: worker processes of each loader.
        rhythm: ``"steps"``: checkpoints every 3 optimizer steps; ``"epoch"``: after each epoch.
        asynchronous: whether checkpoints are written in the background.
        padding: numbers in a buffer that makes the checkpoint large (4 bytes each).
        folders: ``"fixed"``: the loggers' and checkpoints' folders are given; ``"numbered"``: the defaults.
        writers: ``"one"`` ModelCheckpoint, or ``"two"``: the best by one metric in one folder, by another in another.
        validation_rows: whether validation logs each batch too.
        accumulate: batches a step.
        kinds: ``"usual"``, or ``"all"``: training depends on state of every kind that a checkpoint has to hold besides. A
            generator of the module's own and one of the loader's, a sampler that counts its passes, a buffer that is not
            persistent, a deque and a float64 number in the optimizer, a scheduler inside a scheduler, layers thawed in epoch 1
            with a group of their own, torchmetrics in a list that training and validation share. ``"finetuned"``: callbacks
            thaw a backbone in epoch 1 and a neck with still batch norms in epoch 2, and another keeps a running mean.
        rewrites: the callback that puts other weights into the module: ``"ema"``, ``"swa"`` (with
            batch norm, and so a pass for it after the last epoch), ``"prune"``, or ``""`` for none.
        accelerator: the Trainer's.
    """

    folder: str
    data: str = "map"
    workers: int = 0
    rhythm: str = "steps"
    asynchronous: bool = False
    padding: int = 0
    folders: str = "fixed"
    writers: str = "one"
    validation_rows: bool = False
    accumulate: int = 2
    kinds: str = "usual"
    rewrites: str = ""
    accelerator: str = "cpu"


@dataclass(frozen=True)
class Kill:
    """When and how the process ends.

    Args:
        place: what the process does when it sends the signal to itself (see :func:`lay_fuses`); ``""``: the signal comes
            from outside, whatever it does.
        count: at which time the place is reached, counted from 1.
        seconds: for a signal from outside, how long after the start.
        number: the signal.
    """

    place: str = ""
    count: int = 0
    seconds: float = 0.0
    number: int = signal.SIGKILL


# -- inside the process that is killed
class Fuse:
    """Counts how often each place is reached, and sends the signal when its turn has come."""

    def __init__(self, kill: Kill | None) -> None:
        self.kill = kill
        self.reached: Counter[str] = Counter()
        self.process = os.getpid()

    @property
    def kills(self) -> bool:
        """Whether the process is not to see what comes after."""
        return self.kill is not None and self.kill.number == signal.SIGKILL

    def is_due(self, place: str) -> bool:
        """Note that ``place`` is reached; whether this is the moment."""
        if os.getpid() != self.process:
            return False  # a worker
        self.reached[place] += 1
        return self.kill is not None and self.kill.place == place and self.reached[place] == self.kill.count

    def burn(self) -> None:
        assert self.kill is not None
        os.kill(os.getpid(), self.kill.number)

    def at(self, place: str) -> None:
        if self.is_due(place):
            self.burn()


def lay_fuses(fuse: Fuse) -> None:
    """Let every system call that changes a file on the way of a checkpoint or a log reach a place of its own.

    Where bytes are written, the process dies after the first half of them.
    """
    from tensorboard.compat.tensorflow_stub.io import gfile

    from leyden.checkpoint.durable import Disk

    def around(name: str, place: str) -> None:
        function: Callable[..., Any] = getattr(os, name)

        def replaced(*args: Any, **kwargs: Any) -> Any:
            fuse.at(place)
            result = function(*args, **kwargs)
            fuse.at(f"{place} done")
            return result

        setattr(os, name, replaced)

    for name, place in {
        "replace": "rename",
        "fsync": "sync",
        "remove": "remove",
        "unlink": "unlink",
        "link": "link",
        "truncate": "truncate",
    }.items():
        around(name, place)

    write = Disk.write

    def half(self: Disk, file: Any, data: Any) -> int:
        if fuse.is_due("checkpoint write"):
            if fuse.kills:
                write(self, file, data[: len(data) // 2])
                file.flush()
            fuse.burn()
        return write(self, file, data)

    Disk.write = half  # type: ignore[method-assign]

    events = gfile.GFile.write

    def half_event(self: Any, content: Any) -> Any:
        if fuse.is_due("event write"):
            if fuse.kills:
                events(self, content[: len(content) // 2])
                self.flush()
            fuse.burn()
        return events(self, content)

    gfile.GFile.write = half_event

    plain = builtins.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        handle = plain(file, mode, *args, **kwargs)
        if isinstance(file, str) and os.path.basename(file).startswith("metrics.csv") and ("w" in mode or "+" in mode):
            return HalfWritten(handle, fuse)
        return handle

    builtins.open = opened  # type: ignore[assignment]

    if fuse.kill is not None and fuse.kill.place == "call":
        sys.setprofile(lambda _, event, __: fuse.at("call") if event == "call" else None)


class HalfWritten:
    """A file that dies in the middle of a write."""

    def __init__(self, file: Any, fuse: Fuse) -> None:
        self._file, self._fuse = file, fuse

    def write(self, data: Any) -> Any:
        if self._fuse.is_due("table write"):
            if self._fuse.kills:
                self._file.write(data[: len(data) // 2])
                self._file.flush()
            self._fuse.burn()
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def run_job(job: Job, kill: Kill | None) -> int:
    """Train, from the beginning or from where the last process was; the exit code."""
    import numpy as np
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

    import leyden
    from leyden.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint, SpikeDetection
    from leyden.loggers import CSVLogger, TensorBoardLogger
    from leyden.plugins.io import AsyncCheckpointIO

    torch.set_num_threads(1)
    fuse = Fuse(kill)
    table = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(3))

    def augmented(sample: torch.Tensor) -> torch.Tensor:
        fuse.at("sample")
        return sample + 0.1 * torch.randn(6) + 0.1 * random.random() + 0.1 * float(np.random.rand())

    class Table(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return SAMPLES

        def __getitem__(self, index: int) -> torch.Tensor:
            return augmented(table[index])

    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            worker = get_worker_info()
            first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
            for index in range(first, SAMPLES, step):
                yield augmented(table[index])

    class Net(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(6) if job.rewrites == "swa" else nn.Identity()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 1))
            if job.padding:
                self.register_buffer("padding", torch.arange(job.padding, dtype=torch.float32))

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            fuse.at("training step")
            loss = (self.net(self.norm(batch)) - batch.sum(dim=1, keepdim=True)).pow(2).mean()
            self.log("loss", loss, on_step=True, on_epoch=True)
            if self.trainer.current_epoch:
                self.log("late", batch.mean(), on_step=True, on_epoch=True)  # a new column of the table
            return loss

        def on_after_backward(self) -> None:
            fuse.at("backward done")

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            fuse.at("sanity check" if self.trainer.sanity_checking else "validation step")
            loss = (self.net(self.norm(batch)) - batch.sum(dim=1, keepdim=True)).pow(2).mean()
            self.log("val_loss", loss, on_step=job.validation_rows, on_epoch=True)

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Remembers(torch.optim.SGD):
        """Steps by the newest gradients."""

        def step(self, closure: Any = None) -> Any:
            loss = None if closure is None else closure()
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        if parameter.grad is not None:
                            state = self.state[parameter]
                            state.setdefault("newest", deque(maxlen=3)).append(parameter.grad.clone())
                            state["mean"] = state.get("mean", 0) * 0.9 + parameter.grad.double() / 3
                            parameter.sub_(group["lr"] * (sum(state["newest"]) + state["mean"].float()))
            return loss

    class Inside(torch.optim.lr_scheduler.LRScheduler):
        """Goes by another scheduler after some steps."""

        def __init__(self, optimizer: Any, after: Any) -> None:
            self.after = after
            super().__init__(optimizer)

        def get_lr(self) -> list[Any]:
            return [group["lr"] for group in self.optimizer.param_groups]

        def step(self, epoch: int | None = None) -> None:
            super().step(epoch)
            if self.last_epoch > 5:
                self.after.step()

    class Counting(Sampler[int]):
        """Seeds itself by a count of its passes."""

        def __init__(self, generator: torch.Generator) -> None:
            self.passes, self.generator = 0, generator

        def __len__(self) -> int:
            return SAMPLES

        def __iter__(self) -> Iterator[int]:
            self.passes += 1
            shift = int(torch.randint(SAMPLES, (), generator=self.generator))
            order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(self.passes))
            yield from ((order + shift) % SAMPLES).tolist()

    class AllKinds(Net):
        """What it trains on depends on state of every kind."""

        def __init__(self) -> None:
            super().__init__()
            import torchmetrics

            self.net[0].requires_grad_(False)
            self.held = {"generator": [torch.Generator().manual_seed(5)]}
            self.means = [torchmetrics.MeanMetric()]
            self.register_buffer("centre", torch.zeros(6), persistent=False)

        def on_fit_start(self) -> None:
            self.means[0].to(self.device)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.means[0].update(batch.mean())
            self.log("held", self.means[0], on_step=False, on_epoch=True)
            self.centre.mul_(0.9).add_(batch.mean(0) / 10)
            noise = torch.randn(batch.shape, generator=self.held["generator"][0]).to(batch.device)
            return super().training_step(batch - self.centre + 0.1 * noise, batch_idx)

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            self.means[0].update(batch.mean())
            self.log("val_held", self.means[0], on_step=False, on_epoch=True)
            super().validation_step(batch - self.centre, batch_idx)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.net[0].requires_grad_(True)
                optimizer: Any = self.optimizers(False)
                optimizer.add_param_group({"params": list(self.net[0].parameters()), "lr": 0.001})

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = Remembers(self.net[3].parameters(), lr=0.01)
            scheduler = Inside(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Finetuned(Net):
        """Parts of it train from the beginning, from epoch 1 on, and from epoch 2 on."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
            self.neck = nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6))

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return super().training_step(self.neck(self.backbone(batch)), batch_idx)

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            super().validation_step(self.neck(self.backbone(batch)), batch_idx)

        def on_train_epoch_start(self) -> None:
            fuse.at("thawed")

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = torch.optim.AdamW(filter(lambda each: each.requires_grad, self.parameters()), lr=0.05)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class ThawNeck(BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.neck, train_bn=False)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 2:
                self.unfreeze_and_add_param_group(pl_module.neck, optimizer, lr=0.01)

    class Places(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            fuse.at("setup")

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            fuse.at("train start")

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            fuse.at("epoch start")

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            fuse.at("batch end")

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            fuse.at("validation end")

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            fuse.at("epoch end")

        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
            fuse.at("save")

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            fuse.at("train end")

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            fuse.at("teardown")

    def loader() -> Any:
        if job.data == "iterable":
            return DataLoader(Stream(), batch_size=BATCH, num_workers=job.workers)
        if job.data == "stateful":
            from torchdata.stateful_dataloader import StatefulDataLoader

            return StatefulDataLoader(Table(), batch_size=BATCH, shuffle=True, num_workers=job.workers)
        if job.kinds == "all":
            generator = torch.Generator().manual_seed(9)
            return DataLoader(Table(), BATCH, sampler=Counting(generator), generator=generator, num_workers=job.workers)
        return DataLoader(Table(), batch_size=BATCH, shuffle=True, num_workers=job.workers)

    fixed = job.folders == "fixed"
    root = Path(job.folder)
    every: dict[str, Any] = {"every_n_train_steps": 3} if job.rhythm == "steps" else {"every_n_epochs": 1}
    best = {"monitor": "val_loss", "save_top_k": 2, "filename": "{epoch}-{step}", **every}
    writers = [ModelCheckpoint(root / "checkpoints" if fixed else None, save_last=job.writers == "one", **best)]
    if job.writers == "two":
        second = {**best, "monitor": "loss", "mode": "max"}
        writers.append(ModelCheckpoint(root / "second" if fixed else None, save_last=True, **second))
    version = "run" if fixed else None
    finetuned = job.kinds == "finetuned"
    keeping = (
        [BackboneFinetuning(1, lambda epoch: 1.5), ThawNeck(), SpikeDetection(rtol=1e9, exclude_batches_path="skip")]
        if finetuned
        else []
    )
    leyden.seed_everything(17)
    lay_fuses(fuse)
    trainer = leyden.Trainer(
        default_root_dir=root,
        accelerator=job.accelerator,
        devices=1,
        max_epochs=EPOCHS,
        accumulate_grad_batches=job.accumulate,
        val_check_interval=5,
        log_every_n_steps=1,
        logger=[CSVLogger(root, "table", version), TensorBoardLogger(root, "events", version)],
        callbacks=[*rewriting(job.rewrites), Places(), *keeping, *writers],
        plugins=[AsyncCheckpointIO()] if job.asynchronous else None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = {"usual": Net, "all": AllKinds, "finetuned": Finetuned}[job.kinds]()
    validation = DataLoader(Table(), batch_size=16, shuffle=True, num_workers=job.workers and 1)
    result = trainer.fit(module, loader(), validation, ckpt_path="last")
    sys.setprofile(None)
    if result.status == "interrupted":
        return INTERRUPTED
    digest = hashlib.sha256()
    for part in (module, trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler, *keeping):
        feed(digest, part.state_dict())
    ended = {
        "digest": digest.hexdigest(),
        "steps": result.steps,
        "epochs": result.epochs,
        "history": result.history,
        "best": os.path.basename(result.best_checkpoint or ""),
        "score": result.best_score,
        "kept": sorted(os.path.basename(path) for path in writers[0].best_k_models),
        "reached": {place: count for place, count in fuse.reached.items() if place != "call"},
        "calls": fuse.reached["call"],
        "folders": [logger.log_dir for logger in trainer.loggers],
        "checkpoints": [writer.dirpath for writer in writers],
    }
    (root / "ended.json").write_text(json.dumps(ended))
    return 0


def rewriting(kind: str) -> list[Any]:
    """The callback that ``Job.rewrites`` asks for."""
    from leyden.callbacks import EMAWeightAveraging, ModelPruning, StochasticWeightAveraging

    if kind == "ema":
        return [EMAWeightAveraging(decay=0.8, update_starting_at_step=2, update_starting_at_epoch=1)]
    if kind == "swa":
        return [StochasticWeightAveraging(0.02, 2, 2)]
    if kind == "prune":
        return [ModelPruning("random_unstructured", amount=0.2, use_lottery_ticket_hypothesis=bool, resample_parameters=True)]
    return []


def feed(digest: Any, value: Any) -> None:
    """Put nested values into a hash, tensors bit by bit."""
    if hasattr(value, "numpy"):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            digest.update(repr(key).encode())
            feed(digest, item)
    elif isinstance(value, list | tuple | deque):
        for item in value:
            feed(digest, item)
    elif hasattr(value, "state_dict"):
        feed(digest, value.state_dict())
    else:
        digest.update(repr(value).encode())


def main(job: Job, kill: Kill | None) -> int:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*set_vital.*")
    warnings.filterwarnings("ignore", message="StochasticWeightAveraging puts SWALR")  # which is what is tried
    os.makedirs(job.folder, exist_ok=True)
    return run_job(job, kill)


# -- the process that forks jobs: it has imported everything, and started nothing
def zygote() -> None:
    import torch._dynamo  # the first optimizer imports it, which takes a second
    import torch.utils.tensorboard
    import torchmetrics  # as long

    import leyden

    _ = leyden.Trainer, leyden.callbacks, leyden.loggers, torchmetrics
    from tensorboard.compat.tensorflow_stub.io import gfile  # noqa: F401
    from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: F401

    import leyden.plugins.io
    import leyden.testing

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what is loaded is looked through by no job's collector, which would copy it
    for line in sys.stdin:
        asked = json.loads(line)
        job = Job(**asked["job"])
        kill = None if asked["kill"] is None else Kill(**asked["kill"])
        child = os.fork()
        if child == 0:
            _be_child(job, kill)
        print(json.dumps({"code": _await(child, kill)}), flush=True)


def _be_child(job: Job, kill: Kill | None) -> None:
    code = 1
    try:
        os.setsid()
        os.makedirs(job.folder, exist_ok=True)
        log = os.open(os.path.join(job.folder, "output.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"-- {kill}", flush=True)
        code = main(job, kill)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except KeyboardInterrupt:
        code = INTERRUPTED  # before fit, or after it
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        import threading

        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        os._exit(code)


def _await(child: int, kill: Kill | None) -> int:
    """Wait for the child's end, and kill it from outside when its time has come."""
    began = time.monotonic()
    waits = kill is not None and not kill.place
    descriptor = os.pidfd_open(child)
    try:
        while True:
            left = None
            if waits:
                assert kill is not None
                left = max(0.0, kill.seconds - (time.monotonic() - began))
            ready, _, _ = select.select([descriptor], [], [], left if left is not None else 120.0)
            if ready:
                break
            os.kill(child, kill.number if waits and kill is not None else signal.SIGKILL)
            waits = False
    finally:
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # workers that it left behind
    return os.waitstatus_to_exitcode(status)


# -- outside
class Runner:
    """Starts jobs: forked from a warm process (``fresh=False``), or each in an interpreter of its own."""

    def __init__(self, fresh: bool = False) -> None:
        self.fresh = fresh
        self._zygote: subprocess.Popen[str] | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._zygote is not None:
            assert self._zygote.stdin is not None
            self._zygote.stdin.close()
            self._zygote.wait(timeout=60)
            assert self._zygote.stdout is not None
            self._zygote.stdout.close()

    def start(self, job: Job, kill: Kill | None = None) -> int:
        """Run the job once; the exit code, negative where a signal ended it."""
        asked = json.dumps({"job": asdict(job), "kill": None if kill is None else asdict(kill)})
        if self.fresh:
            os.makedirs(job.folder, exist_ok=True)
            with open(os.path.join(job.folder, "output.txt"), "a") as log:
                process = subprocess.Popen([sys.executable, __file__, asked], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
                if kill is not None and not kill.place:
                    try:
                        return process.wait(kill.seconds)
                    except subprocess.TimeoutExpired:
                        process.send_signal(kill.number)
                return process.wait(120)
        if self._zygote is None:
            self._zygote = subprocess.Popen(
                [sys.executable, __file__, "zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(asked + "\n")
        self._zygote.stdin.flush()
        return int(json.loads(self._zygote.stdout.readline())["code"])


@dataclass
class Outcome:
    """All that a run leaves behind and that must not depend on whether it was killed."""

    ended: dict[str, Any]
    table: bytes
    scalars: list[tuple[str, int, float]]
    files: dict[str, list[str]]  # of the run's folders
    kills: int = 0
    restarts: int = 0
    missed: list[Kill] = field(default_factory=list)

    def differences(self, other: Outcome) -> list[str]:
        """In what ``other`` differs from this one."""
        mine, others = ({k: v for k, v in o.ended.items() if k not in UNCOMPARED} for o in (self, other))
        found = [f"{key}: {mine[key]!r} became {others[key]!r}" for key in mine if mine[key] != others[key]]
        if self.table != other.table:
            found.append(f"metrics.csv:\n{self.table.decode()}\nbecame\n{other.table.decode()}")
        if self.scalars != other.scalars:
            lost, new = Counter(self.scalars) - Counter(other.scalars), Counter(other.scalars) - Counter(self.scalars)
            found.append(f"TensorBoard: missing {sorted(lost.elements())}, too many {sorted(new.elements())}")
        if self.files != other.files:
            found.append(f"files: {self.files} became {other.files}")
        return found


UNCOMPARED = ("reached", "calls", "folders", "checkpoints")


def outcome(job: Job) -> Outcome:
    """What the finished run of ``job`` has left."""
    ended = json.loads((Path(job.folder) / "ended.json").read_text())
    table, events = ended["folders"]
    files = {f"checkpoints {i}": sorted(os.listdir(path)) for i, path in enumerate(ended["checkpoints"])}
    files["table"] = sorted(name for name in os.listdir(table) if ".abandoned" not in name)
    files["events"] = sorted({name.split(".tfevents.")[0] for name in os.listdir(events) if ".abandoned" not in name})
    return Outcome(ended, (Path(table) / "metrics.csv").read_bytes(), sorted(read_scalars(events)), files)


def read_scalars(folder: str) -> Iterator[tuple[str, int, float]]:
    """Every scalar in every event file of a folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for name in sorted(os.listdir(folder)):
        if "tfevents" in name:
            for event in EventFileLoader(os.path.join(folder, name)).Load():
                for value in event.summary.value:
                    number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                    yield value.tag, int(event.step), float(number)


def survive(runner: Runner, job: Job, kills: Iterable[Kill]) -> Outcome:
    """Start the job, kill it, start it again, and so on until it has ended; what it has left then.

    Raises:
        RuntimeError: it ended with an error of its own.
    """
    done, restarts = 0, 0
    missed = []
    for kill in kills:
        code = runner.start(job, kill)
        if code == 0:
            missed.append(kill)
            break
        if code not in (-kill.number, TERMINATED, INTERRUPTED):
            raise RuntimeError(f"{job} ended with {code} instead of {kill}; see {job.folder}/output.txt")
        done += 1
        restarts += 1
    else:
        code = runner.start(job)
    if code:
        raise RuntimeError(f"{job} ended with {code}; see {job.folder}/output.txt")
    result = outcome(job)
    result.kills, result.restarts, result.missed = done, restarts, missed
    return result


if __name__ == "__main__":
    if sys.argv[1] == "zygote":
        zygote()
    else:
        given = json.loads(sys.argv[1])
        given = given if "job" in given else {"job": given, "kill": None}
        sys.exit(main(Job(**given["job"]), None if given["kill"] is None else Kill(**given["kill"])))
