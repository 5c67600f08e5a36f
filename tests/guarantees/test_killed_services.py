"""Guarantee 2, for W&B and MLflow: a job that is killed and run again goes on in its runs, and no row is lost or there twice."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import kit
from services import csv_rows, mlflow_values, single, wandb_history, wandb_records, wandb_rows
from warm_python import python

JOBS = """
    import os, signal, sys

    sys.path.insert(0, sys.argv[1])
    import mlflow.tracking, torch, wandb.sdk.launch
    import kit, leyden
    from leyden.callbacks import ModelCheckpoint
    from leyden.loggers import CSVLogger, MLFlowLogger, WandbLogger

    def job(kill):
        torch.manual_seed(3)
        table = CSVLogger("c", version=0)
        loggers = [WandbLogger(project="p", save_dir="w", offline=True), MLFlowLogger("e", save_dir="m"), table]
        die = kit.at_batch(kill, lambda: os.kill(os.getpid(), signal.SIGKILL))
        data = kit.DataLoader(torch.randn(60, 4, generator=torch.Generator().manual_seed(1)), batch_size=3, shuffle=True)
        trainer = leyden.Trainer(
            **{**kit.QUIET, "logger": loggers, "enable_checkpointing": True, "max_epochs": 2, "log_every_n_steps": 1},
            callbacks=[ModelCheckpoint(every_n_train_steps=8), die],
        )
        trainer.fit(kit.Net(), data, data, ckpt_path="last")
        with open("run", "w") as file:
            file.write(loggers[0].version)

    torch.set_num_threads(1)
    kit.Net().configure_optimizers()  # what is loaded before the fork is loaded once
    for kill in (29, -1):
        child = os.fork()
        if not child:
            job(kill)
            sys.exit()
        print("ended", os.waitpid(child, 0)[1])
"""


def test_a_killed_and_rerun_job_has_the_rows_of_one_that_was_not(tmp_path: Path) -> None:
    done = python("-c", dedent(JOBS), Path(kit.__file__).parent, folder=tmp_path)
    assert [line for line in done.stdout.splitlines() if line.startswith("ended")] == ["ended 9", "ended 0"], done.stderr
    table = csv_rows(tmp_path / "c" / "lightning_logs" / "version_0" / "metrics.csv")
    assert len(table) == 42
    assert wandb_rows(tmp_path / "w") == table
    assert [row["_step"] for row in wandb_history(tmp_path / "w")] == list(range(42))
    assert {record.run_id for record in wandb_records(tmp_path / "w", "run")} == {(tmp_path / "run").read_text()}
    assert mlflow_values(f"file:{tmp_path / 'm'}") == single(table)
    assert len(list((tmp_path / "m").glob("*/*/metrics"))) == 1
