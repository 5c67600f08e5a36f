"""The class of a 2020 tutorial on PyTorch Lightning 0.7.1, running as it was written, but for its import line.

Only the author's own slips are mended: `param1` and `param2` are accepted, `self.batch_size` is set, and `ln2` is fed
with the output of `ln1`. Everything else stands as in 2020: `configure_optimizer`, steps that return dicts,
`validation_epoch_end(self, outputs)`, `gpus=`, `resume_from_checkpoint=`, `trainer.test()` without arguments. (Today's is
`--help`.) Needs scikit-learn: pip install 'leyden[examples]'.
"""

import argparse
import logging

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.metrics import accuracy_score
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden import Trainer


def read_data(split):  # read_data是自定義的讀取資料Method. 可以按照自己需求調整
    """Three clouds of points in 768 dimensions, one a class, drawn from a generator of their own."""
    seed = {"train": 1, "test": 2, "validation": 3}[split]
    centres = torch.randn(3, 768, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (384 if split == "train" else 96,), generator=generator)
    x = 0.3 * centres[y] + torch.randn(len(y), 768, generator=generator)
    return TensorDataset(x, y)


class PytorchLightningModel(pl.LightningModule):  # 這邊一定要繼承pl.LightningModule
    def __init__(self, param1, param2):  # 初始化時可以將基本設定傳入。
        super().__init__()
        self.batch_size = 32
        self.ln1 = nn.Linear(768, 256)
        self.ln2 = nn.Linear(256, 3)

    def prepare_data(self):  # 此方法會在初始化後優先執行。 所以可以在此方法中先將會用到的資料都讀取進來.
        self.train_set = read_data("train")
        self.test_set = read_data("test")
        self.val_set = read_data("validation")
        logging.info("===== Data is ready... =====")

    def configure_optimizer(self):  # 自動訓練時會呼叫此方法來獲取Optimizer.
        return Adam(self.parameters(), lr=1e-3)  # 這邊注意要調整的參數是`self.parameters()`

    # 以下三個方法則是設定進行訓練及驗證時所要使用的Data Loader格式。
    def train_dataloader(self):
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, batch_size=self.batch_size, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.test_set, batch_size=self.batch_size, shuffle=True)

    def forward(self, x):  # 定義模型在forward propagation時如何進行.
        output = self.ln1(x)
        output = self.ln2(output)
        return output

    def training_step(self, batch, batch_idx):  # 定義訓練過程的Step要如何進行
        x, y = batch  # 從self.train_dataloader()的Data Loader取一個batch出來。
        output = self.forward(x)
        criterion = nn.CrossEntropyLoss()
        loss = criterion(output, y)
        logs = {"loss": loss}
        return {"loss": loss, "log": logs}

    def validation_step(self, batch, batch_idx):  # 定義Validation如何進行，以這邊為例就再加上了計算Acc.
        x, y = batch
        logits = self.forward(x)
        loss = F.cross_entropy(logits, y)

        # acc
        a, y_hat = torch.max(logits, dim=1)
        val_acc = accuracy_score(y_hat.cpu(), y.cpu())
        val_acc = torch.tensor(val_acc)

        return {"val_loss": loss, "val_acc": val_acc}

    def validation_epoch_end(self, outputs):  # 在Validation的一個Epoch結束後，計算平均的Loss及Acc.
        avg_loss = torch.stack([x["val_loss"] for x in outputs]).mean()
        avg_val_acc = torch.stack([x["val_acc"] for x in outputs]).mean()

        tensorboard_logs = {"val_loss": avg_loss, "avg_val_acc": avg_val_acc}
        return {"avg_val_loss": avg_loss, "progress_bar": tensorboard_logs}

    def test_step(self, batch, batch_idx):  # 定義 Test 階段
        x, y = batch
        logits = self.forward(x)
        loss = F.cross_entropy(logits, y)

        # acc
        a, y_hat = torch.max(logits, dim=1)
        val_acc = accuracy_score(y_hat.cpu(), y.cpu())
        val_acc = torch.tensor(val_acc)

        return {"test_acc": val_acc}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()

    model = PytorchLightningModel(param1=768, param2=5)  # 自行封裝成Pytorch Lightning的模型

    # Trainer 有不同的參數可以調整訓練時的行為
    trainer = pl.Trainer()  # 使用CPU (1000 epochs by default, as in 2020, so it is not run here)
    if torch.cuda.is_available():
        trainer = pl.Trainer(gpus=1)  # 使用GPU
    trainer = pl.Trainer(fast_dev_run=True)  # 訓練時，使用單一個batch作為ㄧ個Epoch (Train -> Validation -> Test)
    trainer.fit(model)  # 呼叫.fit() 就會自動進行Model的training step及validation step.

    # 透過CPU訓練
    trainer = Trainer(gpus=0, max_epochs=3, accumulate_grad_batches=2)
    trainer.fit(model)

    # 進行Evaluation
    trainer.test()
    trainer.test(model)

    # 載入先前訓練好的Checkpoint File並且重新進行Evaluation/Inference.
    PATH = trainer.checkpoint_callback.best_model_path
    model = PytorchLightningModel(param1=768, param2=5)
    trainer = Trainer(resume_from_checkpoint=PATH, gpus=0)
    trainer.test(model)
