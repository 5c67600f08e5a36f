"""What leyden adds to a validation step and to a prediction step, beside a loop written by hand under `torch.inference_mode()`.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --only plain-validate-log leyden-validate-log --repeats 9

The job and how it is timed stand in measuring.py; nothing is shuffled. Everything that can be switched off is off. What the
hand-written loops do, so that both sides do the same work:

- `validate`: the loss of each batch, which nobody keeps.
- `validate-log`: the loss of each batch, added up on its device with the size of the batch as its weight; the mean is read at the
  end. Leyden's step says `self.log("loss", loss)`, which promises the same mean.
- `predict`: the network's output for each batch, kept in a list.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from measuring import SWITCHED_OFF, Clock, add_arguments, job, machine, report_steps

MEANING = {
    "plain-validate": "validation, by hand",
    "leyden-validate": "validation, leyden",
    "plain-validate-log": "validation with a mean, by hand",
    "leyden-validate-log": "validation with a logged value, leyden",
    "plain-predict": "prediction, by hand",
    "leyden-predict": "prediction, leyden",
}


def by_hand(clock: Clock, what: str) -> Any:
    import torch
    from torch.nn import functional as F

    net, loader = job(shuffle=False)
    net.eval()
    if what == "validate":
        with torch.inference_mode():
            for x, y in loader:
                if clock.tick():
                    break
                F.cross_entropy(net(x), y)
        return None
    if what == "validate-log":
        total, samples = torch.zeros(()), 0
        with torch.inference_mode():
            for x, y in loader:
                if clock.tick():
                    break
                loss = F.cross_entropy(net(x), y)
                total += loss * len(y)
                samples += len(y)
        return (total / samples).item()
    predictions = []
    with torch.inference_mode():
        for x, _ in loader:
            if clock.tick():
                break
            predictions.append(net(x))
    return predictions


def with_leyden(clock: Clock, what: str) -> Any:
    from torch.nn import functional as F

    import leyden

    net, loader = job(shuffle=False)
    logs = what == "validate-log"

    class Job(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            clock.tick()
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            if logs:
                self.log("loss", loss)
            return loss

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            clock.tick()
            x, _ = batch
            return self.net(x)

    most = clock.last + 1
    trainer = leyden.Trainer(accelerator="cpu", limit_val_batches=most, limit_predict_batches=most, **SWITCHED_OFF)
    if what == "predict":
        return trainer.predict(Job(), loader)
    return trainer.validate(Job(), loader, verbose=False)


def run_here(task: argparse.Namespace) -> None:
    """Do one run in this process, and leave what was read in the file that was named."""
    clock = Clock(task)
    side, _, what = task.run.partition("-")
    {"plain": by_hand, "leyden": with_leyden}[side](clock, what)
    Path(task.result).write_text(json.dumps(clock.seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, MEANING)
    task = parser.parse_args()
    if task.run:
        run_here(task)
        return

    import torch

    import leyden

    runs = dict.fromkeys(task.only or MEANING, sys.executable)
    task.steps = task.steps or 3000
    print(machine({"torch": torch.__version__, "leyden": leyden.__version__}) + "\n")
    report_steps(__file__, runs, MEANING, task, step="one step", plain=lambda name: f"plain-{name.partition('-')[2]}")


if __name__ == "__main__":
    main()
