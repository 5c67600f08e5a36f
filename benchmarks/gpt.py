"""The example gpt.py beside the same model in a script of plain PyTorch: tokens a second, eager and compiled, fp32 and bf16.

    python benchmarks/gpt.py                      # on the GPU where there is one, else on the CPU
    python benchmarks/gpt.py --layers 12 --heads 12 --width 768 --context 1024 --batch_size 16 --device cuda

Both sides train the example's Transformer on the same batches, with the same optimizer, schedule and clipping. The script by hand
does nothing else. Leyden runs the example's module as it stands: with a loss that is logged, a CSV logger, a monitor of the
learning rate and a progress bar; validation and checkpoints are left out, since the script has none. Compiled, both compile the
loss of a batch, the model in it.

Each run has a process and a terminal of its own, and the runs alternate. The clock starts when step `--warm` is entered and stops
when step `--warm + --steps` is; on a GPU both wait for it. A ratio is the median over rounds, of the two runs of a round. A
further run of each counts what makes the host wait for the GPU.

    python benchmarks/gpt.py --beside             # on the CPU: both in one process, four steps of one and four of the other

A ratio is then of two stretches that follow each other, in the processor's time: what other programs do strikes both.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from beside import Beside
from measuring import at_a_terminal, machine, table

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "gpt.py"
SIDES, WAYS, PRECISIONS = ("bare", "leyden"), ("eager", "compiled"), ("fp32", "bf16")
RUNS = [f"{side}-{how}-{precision}" for precision in PRECISIONS for how in WAYS for side in SIDES]
MEANING = {"bare": "by hand", "leyden": "leyden"}
STRETCH = 4
WAITS = "called a synchronizing CUDA operation"


class Clock:
    """Counts steps as they are entered; reads the time, or counts what waits for the GPU, between two of them."""

    def __init__(self, task: argparse.Namespace) -> None:
        import torch

        self.torch, self.cuda = torch, task.device == "cuda"
        self.counts = task.read == "waits"
        self.first, self.last, self.count = task.warm, task.warm + task.steps, -1
        self.seen: dict[str, float] = {}
        self.waits = 0
        self.begin = 0.0

    def tick(self) -> bool:
        """A step begins; true from the last one on."""
        self.count += 1
        if self.count in (self.first, self.last):
            self._end_of_timing()
        over: bool = self.count >= self.last
        return over

    def _end_of_timing(self) -> None:
        begins = self.count == self.first
        if self.counts:
            if begins:
                warnings.simplefilter("always")
                warnings.showwarning = self._note
            self.torch.cuda.set_sync_debug_mode("warn" if begins else "default")
            self.seen["waits"] = self.waits / (self.last - self.first)
            return
        if self.cuda:
            self.torch.cuda.synchronize()
        now = time.perf_counter()
        if not begins:
            self.seen["seconds"] = now - self.begin
        self.begin = now

    def _note(self, message: Any, *others: Any, **named: Any) -> None:
        self.waits += WAITS in str(message)


@functools.cache
def example() -> Any:
    """The example, which has the name of this file."""
    specification = importlib.util.spec_from_file_location("gpt_example", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module  # where its classes say that they are
    specification.loader.exec_module(module)
    return module


def prepared(task: argparse.Namespace) -> tuple[Any, Any, int]:
    """The example's module and data, and the steps that a run takes at most."""
    import torch

    gpt = example()
    torch.manual_seed(0)
    most = task.warm + task.steps + 1
    shape = {name: getattr(task, name) for name in ("layers", "heads", "width", "context")}
    return gpt.GPT(shape, warmup=10, steps=most), gpt.Text(task.context, task.batch_size, task.most), most


def by_hand(task: argparse.Namespace, compiled: bool, bf16: bool) -> Iterator[Any]:
    """What the example does, written down, one step at a time; gives the model as each step begins."""
    import torch

    gpt = example()
    module, data, _ = prepared(task)
    data.setup("fit")
    model, loader = module.model.to(task.device), data.train_dataloader()
    optimizer = gpt.optimizer_of(model, module.learning_rate, fused=task.device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, module.share_of_rate)
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def loss_of(batch: list[torch.Tensor]) -> torch.Tensor:
        loss: torch.Tensor = gpt.loss_of(model, batch)
        return loss

    step: Callable[[list[torch.Tensor]], torch.Tensor] = torch.compile(loss_of) if compiled else loss_of
    while True:
        for batch in loader:
            yield model
            batch = [each.to(task.device, non_blocking=True) for each in batch]
            with torch.autocast(task.device, torch.bfloat16, enabled=bf16):
                loss = step(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(stepped, 1.0)
            optimizer.step()
            schedule.step()


def with_leyden(tick: Callable[[], bool | None], task: argparse.Namespace, compiled: bool, bf16: bool) -> Any:
    """The example's module as it stands, trained; ``tick`` is called as a step begins, and says whether it is the last."""
    import torch

    import leyden
    from leyden.callbacks import LearningRateMonitor
    from leyden.loggers import CSVLogger

    class Ticking(leyden.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if tick():
                trainer.should_stop = True

    module, data, most = prepared(task)
    trainer = leyden.Trainer(
        accelerator="gpu" if task.device == "cuda" else "cpu",
        devices=1,
        max_steps=most,
        precision="bf16-mixed" if bf16 else "32-true",
        gradient_clip_val=1.0,
        limit_val_batches=0,
        log_every_n_steps=10,
        logger=CSVLogger("logs"),
        enable_checkpointing=False,
        callbacks=[LearningRateMonitor(), Ticking()],
    )
    trainer.fit(torch.compile(module) if compiled else module, datamodule=data)  # type: ignore[arg-type]  # a module all the same
    return module.model


def run_here(task: argparse.Namespace) -> None:
    """Do one run in this process, and leave what was read in the file that was named."""
    side, how, precision = task.run.split("-")
    ways = how == "compiled", precision == "bf16"
    if task.read == "pairs":
        import torch

        torch.set_num_threads(1)
        beside = Beside(by_hand(task, *ways), task.device, STRETCH)
        with_leyden(beside.tick, task, *ways)
        Path(task.result).write_text(json.dumps({"pairs": beside.pairs[task.warm // STRETCH :]}))
        return
    clock = Clock(task)
    if side == "leyden":
        with_leyden(clock.tick, task, *ways)
    else:
        for _ in by_hand(task, *ways):
            if clock.tick():
                break
    Path(task.result).write_text(json.dumps(clock.seen))


def measure(task: argparse.Namespace, name: str, read: str) -> Any:
    """One run in a fresh process: its seconds, how often it waited a step, or the pairs of both sides."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--run", name, "--read", read, "--result", str(result)]
        for option in ("steps", "warm", "device", "layers", "heads", "width", "context", "batch_size", "most"):
            command += [f"--{option}", str(getattr(task, option))]
        code, shown = at_a_terminal(command, folder)
        if code or not result.exists():
            raise SystemExit(f"{name} failed with exit status {code}:\n{shown[-4000:]}")
        return json.loads(result.read_text())[read]


def report_beside(task: argparse.Namespace) -> None:
    """Measure both sides in one process for each way, and print the table."""
    import torch

    import leyden

    rows = []
    for name in [each for each in task.only if each.startswith("leyden")]:
        pairs = [pair for _ in range(task.repeats) for pair in measure(task, name, "pairs")]
        low, middle, high = statistics.quantiles((theirs / ours for ours, theirs in pairs), n=4)
        milliseconds = statistics.median(theirs for _, theirs in pairs) / STRETCH * 1e3
        rows.append(
            [name.removeprefix("leyden-").replace("-", ", "), f"{milliseconds:.0f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
        )
        print(f"{name}: {middle:.3f}", file=sys.stderr)
    print(machine({"torch": torch.__version__, "leyden": leyden.__version__}) + "\n")
    table(["one step", "by hand, ms", "tokens/s x by hand", "quartiles"], rows)


def report(task: argparse.Namespace) -> None:
    """Measure the runs in turn, and print the table."""
    import torch

    import leyden
    from leyden.devices.flops import get_available_flops

    tokens = task.steps * task.batch_size * task.context
    speeds: dict[str, list[float]] = {name: [] for name in task.only}
    for repeat in range(task.repeats):
        for name in task.only:
            speeds[name].append(tokens / measure(task, name, "seconds"))
            print(f"round {repeat + 1} of {task.repeats}: {name} {speeds[name][-1]:,.0f} tokens/s", file=sys.stderr)
    cuda = task.device == "cuda"
    waits = {name: measure(task, name, "waits") for name in task.only} if cuda else {}
    module, _, _ = prepared(task)
    each = module.model.flops_per_token(task.context)

    rows = []
    for name, seen in speeds.items():
        side, how, precision = name.split("-")
        pairs = zip(seen, speeds.get(f"bare-{how}-{precision}", []), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        peak = get_available_flops(torch.device("cuda"), dtype) if cuda else None
        rows.append(
            [
                f"{MEANING[side]}, {how}, {precision}",
                f"{statistics.median(seen):,.0f}",
                f"{min(seen):,.0f} to {max(seen):,.0f}",
                f"{statistics.median(ratios):.3f}" if ratios else "",
                f"{statistics.median(seen) * each / peak:.1%}" if peak else "not on the CPU",
                f"{waits[name]:.2f}" if cuda else "not on the CPU",
            ]
        )
    device = torch.cuda.get_device_name() if cuda else "CPU, one thread"
    parameters = sum(p.numel() for p in module.parameters()) / 1e6
    print(machine({"torch": torch.__version__, "leyden": leyden.__version__}))
    print(
        f"{device}; {parameters:.1f} M parameters: {task.layers} layers, width {task.width}; batches of {task.batch_size} x "
        f"{task.context} bytes; {task.steps} steps after {task.warm}, {task.repeats} rounds\n"
    )
    table(["one run", "tokens/s, median", "range", "x by hand", "of peak FLOPs", "waits for the GPU a step"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=RUNS, default=RUNS, metavar="RUN", help=f"out of: {', '.join(RUNS)}")
    add("--steps", type=int, default=60, help="timed steps (60)")
    add("--warm", type=int, default=20, help="steps before the clock starts, in which compilation happens (20)")
    add("--repeats", type=int, default=5, help="rounds (5)")
    add("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    for name, value in (("layers", 4), ("heads", 4), ("width", 128), ("context", 128), ("batch_size", 16), ("most", 8_000_000)):
        add(f"--{name}", type=int, default=value, help=f"of the example ({value})")
    for name in ("run", "result"):
        add(f"--{name}", help=argparse.SUPPRESS)
    add("--beside", action="store_true", help="both in one process, in turn, by the processor's time")
    add("--read", default="seconds", help=argparse.SUPPRESS)
    task = parser.parse_args()
    if task.device is None:
        import torch

        task.device = "cuda" if torch.cuda.is_available() else "cpu"
    if task.run:
        run_here(task)
    elif task.beside:
        report_beside(task)
    else:
        report(task)


if __name__ == "__main__":
    main()
