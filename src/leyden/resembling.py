"""Names that are not a hook's and mean one: other words for the same, other frameworks' hooks, a letter too many."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable

_WORDS = {
    # another word, in the name of a method: the one that hooks have
    **dict.fromkeys(("training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validating", "dev"), "validation"),
    **dict.fromkeys(("eval", "evaluate", "evaluation", "evaluating"), "validation"),
    **dict.fromkeys(("testing", "tst"), "test"),
    **dict.fromkeys(("prediction", "predicting", "predictions"), "predict"),
    **dict.fromkeys(("fitting",), "fit"),
    **dict.fromkeys(("begin", "begins", "starts", "started", "starting"), "start"),
    **dict.fromkeys(("ends", "ended", "finish", "finished", "finishes", "done", "complete", "completed"), "end"),
    **dict.fromkeys(("loader", "loaders", "dataloaders", "dl"), "dataloader"),
    **dict.fromkeys(("optimizer", "optimiser", "optimisers", "optim", "optims", "optimization"), "optimizers"),
    **dict.fromkeys(("iter", "iteration", "minibatch"), "batch"),
    **dict.fromkeys(("epochs",), "epoch"),
    **dict.fromkeys(("steps",), "step"),
    **dict.fromkeys(("config", "configurate"), "configure"),
    **dict.fromkeys(("callback",), "callbacks"),
    **dict.fromkeys(("ckpt", "checkpoints"), "checkpoint"),
    **dict.fromkeys(("saving",), "save"),
    **dict.fromkeys(("loading",), "load"),
}  # fmt: skip
_FOREIGN = {
    # a method that other frameworks call: the hook that is called then
    "on_step_start": "on_train_batch_start",
    "on_step_begin": "on_train_batch_start",
    "on_step_end": "on_train_batch_end",
    "on_substep_end": "on_train_batch_end",
    "on_log": "on_train_batch_end",
    "on_save": "on_save_checkpoint",
    "on_load": "on_load_checkpoint",
    "on_evaluate": "on_validation_end",
    "on_predict": "on_predict_end",
    "on_prediction_step": "on_predict_batch_end",
    "on_optimizer_step": "on_before_optimizer_step",
    "on_pre_optimizer_step": "on_before_optimizer_step",
    "on_backward_start": "on_before_backward",
    "on_backward_begin": "on_before_backward",
    "on_backward_end": "on_after_backward",
    "on_loader_start": "on_train_epoch_start",
    "on_loader_end": "on_train_epoch_end",
    "on_stage_start": "on_fit_start",
    "on_stage_end": "on_fit_end",
    "on_experiment_start": "setup",
    "on_experiment_end": "teardown",
    "on_setup": "setup",
    "on_teardown": "teardown",
    "on_error": "on_exception",
    "on_train": "on_train_start",
    "on_validation": "on_validation_start",
    "on_test": "on_test_start",
    "on_fit": "on_fit_start",
    "handle_batch": "training_step",
    "create_optimizer": "configure_optimizers",
    "create_optimizers": "configure_optimizers",
    "configure_scheduler": "configure_optimizers",
    "configure_schedulers": "configure_optimizers",
    "configure_lr_scheduler": "configure_optimizers",
    "configure_lr_schedulers": "configure_optimizers",
    "before_step": "on_before_optimizer_step",
    "after_step": "on_train_batch_end",
    "after_loss": "on_before_backward",
    "before_run": "on_fit_start",
    "after_run": "on_fit_end",
}
FAMILIES = tuple(
    f"on_{word}_"
    for word in (
        *("train", "validation", "val", "test", "predict", "fit", "sanity", "before", "after", "save", "load", "epoch", "batch"),
        *("training", "valid", "validate", "eval", "evaluation", "testing", "prediction", "fitting"),
    )
)
"""How the names of hooks begin, and what nobody else begins a name with."""


def nearest(name: str, hooks: Iterable[str]) -> list[str]:
    """The hooks that are one letter away from ``name``, or that it is another word for; nothing where it is a name of its own."""
    hooks = list(hooks)
    near = [hook for hook in hooks if abs(len(hook) - len(name)) <= 1 and one_edit_apart(name, hook)]
    meant = _meaning(name)
    if near:  # one may be an old name, and the same word for today's
        return [*near, *(hook for hook in hooks if hook not in (name, *near) and _meaning(hook) == meant)]
    foreign = _FOREIGN.get(name)
    if foreign is not None:
        return [foreign] if foreign in hooks else []
    near = [hook for hook in hooks if _meaning(hook) == meant]
    if not near and name.startswith("on_"):
        near = difflib.get_close_matches(name, hooks, n=1, cutoff=0.86)
    return near


@functools.cache
def _meaning(name: str) -> tuple[str, ...]:
    """The words of a name, in whatever order and by whatever synonyms they are said."""
    said = [word for word in name.lower().split("_") if word]
    words = [word if word == "config" and at else _WORDS.get(word, word) for at, word in enumerate(said)]  # a noun but in front
    if words[:1] == ["get"]:
        del words[0]
    before_or_after = {"before": "start", "after": "end"}.get(words[0]) if words else None
    if before_or_after is not None and words[-1] not in ("backward", "step", "grad", "transfer"):
        words = [*words[1:], before_or_after]
        if words[0] in ("epoch", "batch"):  # with nothing said, training's
            words = ["train", *words]
    if words[-1:] in (["start"], ["end"]) or words[:1] in (["before"], ["after"]):
        words = ["on", *words] if "on" not in words else words
    if len(words) == 3 and words[0] == "on" and words[1] in ("epoch", "batch") and words[2] in ("start", "end"):
        words = ["on", "train", *words[1:]]  # as in the years when that was a hook's name
    return tuple(sorted(words))


def one_edit_apart(first: str, second: str) -> bool:
    """Whether one letter put in, left out, changed, or swapped with its neighbour turns ``first`` into ``second``."""
    if first == second:
        return False
    if len(first) > len(second):
        first, second = second, first
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    if len(second) > len(first):
        return first[at:] == second[at + 1 :]
    swapped = first[at : at + 2] == second[at : at + 2][::-1]
    return first[at + 1 :] == second[at + 1 :] or (swapped and first[at + 2 :] == second[at + 2 :])
