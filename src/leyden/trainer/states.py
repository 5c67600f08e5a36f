"""The names under which a trainer's state is known elsewhere."""

from leyden.state.stage import RunningStage, TrainerFn, TrainerState, TrainerStatus

__all__ = ["RunningStage", "TrainerFn", "TrainerState", "TrainerStatus"]
