"""What training, evaluation and prediction consist of. Lightning's loops may be named, and are not offered."""

from leyden.not_offered import answers, stand_in_modules

stand_in_modules(__name__, "evaluation_loop fit_loop training_epoch_loop utilities")
stand_in_modules(__name__, "optimization optimization.automatic optimization.closure optimization.manual")
__getattr__ = answers(__name__)
