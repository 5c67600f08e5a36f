"""The loaders of a run: what they hand on to the sources that they make."""

from __future__ import annotations

from torch.utils.data import DataLoader

from leyden.data.share import Share
from leyden.module import LightningModule
from leyden.options import Limits
from leyden.state.loaders import LoaderOrigin, Loaders
from leyden.state.stage import PREDICT, TRAIN


def begun(loaders: Loaders) -> Loaders:
    data = DataLoader(range(7), shuffle=False)  # type: ignore[arg-type]  # it has all that a dataset needs
    loaders.begin({stage.key: LoaderOrigin(stage, data, None, LightningModule()) for stage in (TRAIN, PREDICT)})
    return loaders


def test_training_drops_and_evaluation_keeps_an_uneven_end() -> None:
    for rank, read in [(0, [0, 3, 6]), (2, [2, 5])]:
        loaders = begun(Loaders(Share(rank, 3)))
        train, predict = loaders.load_train(Limits()), loaders.load_eval(PREDICT, Limits())
        assert predict is not None
        assert (loaders.num_training_batches, loaders.num_eval_batches("predict")) == (2, [3]), "the same on all processes"
        assert [int(batch) for batch, _, _ in train.read()] == read[:2]
        assert [int(batch) for batch, _, _ in predict.read()] == read


def test_indices_are_known_where_they_are_asked_for() -> None:
    loaders = begun(Loaders(Share(1, 2)))
    predict = loaders.load_eval(PREDICT, Limits(), indices=True)
    assert predict is not None
    assert [predict.batch_indices for _ in predict.read()] == [[1], [3], [5]]
    plain = loaders.load_eval(PREDICT, Limits())
    assert plain is not None
    assert [plain.batch_indices for _ in plain.read()] == [None] * 3


def test_a_run_that_is_alone_reads_everything() -> None:
    loaders = begun(Loaders())
    assert [int(batch) for batch, _, _ in loaders.load_train(Limits()).read()] == list(range(7))
