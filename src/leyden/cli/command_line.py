"""A program of one line: a trainer, a module and a datamodule out of the command line and configuration files, and a verb run."""

import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.checkpoint.files import local_path
from leyden.checkpoint.format import decode
from leyden.checkpoint.verified import peek
from leyden.cli.installed import ActionConfigFile, Namespace
from leyden.cli.makers import LRSchedulerTypeTuple, LRSchedulerTypeUnion, ReduceLROnPlateau, instantiable, instantiate_class
from leyden.cli.older import takes_older_arguments
from leyden.cli.parser import ArgsType, LightningArgumentParser, words_of_command
from leyden.cli.save_config import SaveConfigCallback
from leyden.datamodule import LightningDataModule
from leyden.devices.seed import seed_everything
from leyden.errors import InvalidType, LeydenWarning, MisconfigurationException, PossibleUserWarning, warn_user
from leyden.hooks import overrides
from leyden.hparams_described import CLASS_KEY, checked_description, described_as, is_described
from leyden.module import LightningModule
from leyden.spelling import arguments_of, exact_arguments, unknown_argument
from leyden.trainer.trainer import Trainer
from leyden.version import __version__


@exact_arguments
@takes_older_arguments
class LightningCLI:
    """Makes a module, a datamodule and a trainer from the command line and from configuration files, and runs a verb.

    ``LightningCLI(MyModule, MyDataModule)`` is a whole program: ``python main.py fit --config run.yaml --model.width 64``.

    Args:
        model_class: the module's class, or a function that returns one; ``None``: any, named by ``--model``.
        datamodule_class: the same of the datamodule, named by ``--data``; with ``None`` there need not be one.
        save_config_callback: what keeps the configuration of each run beside its logs; ``None``: nobody.
        save_config_kwargs: arguments for it.
        trainer_class: the trainer's class, or a function that returns one.
        trainer_defaults: defaults of the trainer's arguments that differ from its own. ``callbacks`` are always there, whatever
            a configuration says.
        seed_everything_default: the seed where none is given; ``True``: one is chosen; ``False``: nothing is seeded.
        parser_kwargs: arguments for the parser; or, by the names of subcommands, for theirs.
        parser_class: the parser's class.
        subclass_mode_model: take any subclass of ``model_class``, named by ``--model``.
        subclass_mode_data: the same of the datamodule.
        args: the command line as a list of words, or the configuration as a dict; ``None``: ``sys.argv``.
        run: with subcommands (``fit``, ``validate``, ``test``, ``predict``), of which one is run. ``False``: without; the
            objects are made, and the rest is up to the program.
        auto_configure_optimizers: add ``--optimizer`` and ``--lr_scheduler``, which become the module's ``configure_optimizers``.
        load_from_checkpoint_support: let ``save_hyperparameters`` keep what the configuration says, from which
            ``load_from_checkpoint`` makes everything again, objects among the arguments included.

    Attributes:
        parser, config: the parser, and what it read.
        config_init: the same, with objects made.
        subcommand: the verb that was asked for; ``None`` with ``run=False``.
        trainer, model, datamodule: what was made.
    """

    def __init__(
        self,
        model_class: type[LightningModule] | Callable[..., LightningModule] | None = None,
        datamodule_class: type[LightningDataModule] | Callable[..., LightningDataModule] | None = None,
        save_config_callback: type[SaveConfigCallback] | None = SaveConfigCallback,
        save_config_kwargs: dict[str, Any] | None = None,
        trainer_class: type[Trainer] | Callable[..., Trainer] = Trainer,
        trainer_defaults: dict[str, Any] | None = None,
        seed_everything_default: bool | int = True,
        parser_kwargs: dict[str, Any] | dict[str, dict[str, Any]] | None = None,
        parser_class: type[LightningArgumentParser] = LightningArgumentParser,
        subclass_mode_model: bool = False,
        subclass_mode_data: bool = False,
        args: ArgsType = None,
        run: bool = True,
        auto_configure_optimizers: bool = True,
        load_from_checkpoint_support: bool = True,
    ) -> None:
        if not isinstance(seed_everything_default, int):
            raise InvalidType("seed_everything_default", seed_everything_default, "a seed, True for any, or False for none")
        if args is not None and not isinstance(args, list | tuple | dict | Namespace):
            raise InvalidType("args", args, "a list of words, a configuration as a dict, or None for the command line")
        self.save_config_callback = save_config_callback
        self.save_config_kwargs = save_config_kwargs or {}
        self.trainer_class = trainer_class
        self.trainer_defaults = trainer_defaults or {}
        self.seed_everything_default = seed_everything_default
        self.parser_kwargs = parser_kwargs or {}
        self.parser_class = parser_class
        self.auto_configure_optimizers = auto_configure_optimizers
        self.model_class = model_class
        self.datamodule_class = datamodule_class
        self._model_class = model_class or LightningModule
        self._datamodule_class = datamodule_class or LightningDataModule
        self.subclass_mode_model = model_class is None or subclass_mode_model
        self.subclass_mode_data = datamodule_class is None or subclass_mode_data
        self.subcommand: str | None = None
        self.leyden_subcommand_parsers: dict[str, LightningArgumentParser] = {}
        self._subcommand_method_arguments: dict[str, list[str]] = {}
        self.leyden_instantiators: list[tuple[Callable[..., Any], type, bool]] = []

        main_kwargs, subparser_kwargs = self._setup_parser_kwargs(self.parser_kwargs)
        import_what_can_be_named()
        self.setup_parser(run, main_kwargs, subparser_kwargs)
        self.parse_arguments(self.parser, args)
        self.subcommand = self.config["subcommand"] if run else None
        self._parse_ckpt_path()
        self._set_seed()
        if load_from_checkpoint_support:
            self._add_instantiators()
        self.before_instantiate_classes()
        self.instantiate_classes()
        self.after_instantiate_classes()
        if self.subcommand is not None:
            self._run_subcommand(self.subcommand)

    # -- the parser
    def _setup_parser_kwargs(self, parser_kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of the parser, and those of the subcommands' parsers, by name."""
        verbs = self.subcommands()
        return (
            {name: value for name, value in parser_kwargs.items() if name not in verbs},
            {name: value for name, value in parser_kwargs.items() if name in verbs},
        )

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, dict[str, Any]]
    ) -> None:
        """Make the parser, with its subcommands or without, and add all arguments."""
        self.parser = self.init_parser(**main_kwargs)
        if add_subcommands:
            self._add_subcommands(self.parser, **subparser_kwargs)
        else:
            self._add_arguments(self.parser)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Override to make the parser in another way."""
        kwargs.setdefault("dump_header", [f"leyden=={__version__}"])
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ActionConfigFile,
            help="A configuration file (YAML), or its text; later ones win.",
        )
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments that belong to no class."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=self.seed_everything_default,
            help="The seed of every random number. true: one is chosen; false: nothing is seeded.",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of the trainer, the module and the datamodule."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        for name, value in self.trainer_defaults.items():
            if name != "callbacks":
                try:
                    parser.set_defaults({f"trainer.{name}": value})
                except KeyError:
                    raise unknown_argument("trainer_defaults", name, arguments_of(self.trainer_class)) from None
                except ValueError:
                    kind = type(value)
                    raise InvalidType(
                        f"trainer_defaults[{name!r}]",
                        value,
                        "what a file can say too",
                        f'Give {{"class_path": "{kind.__module__}.{kind.__name__}", "init_args": {{...}}}}, or '
                        f"jsonargparse.lazy_instance({kind.__name__}, ...).",
                    ) from None
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=self.subclass_mode_model)
        required = self.datamodule_class is not None  # else the module may have the loaders
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=self.subclass_mode_data, required=required)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Override to add arguments of your own, and to link some: ``parser.link_arguments("data.width", "model.width")``."""

    def _add_arguments(self, parser: LightningArgumentParser) -> None:
        self.add_default_arguments_to_parser(parser)
        self.add_core_arguments_to_parser(parser)
        self.add_arguments_to_parser(parser)
        if self.auto_configure_optimizers:
            if not parser._optimizers:
                parser.add_optimizer_args((Optimizer,))
            if not parser._lr_schedulers:
                parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        self.link_optimizers_and_lr_schedulers(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Override to have other subcommands: methods of the trainer, and those of their arguments that are no options."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
            "test": {"model", "dataloaders", "datamodule"},
            "predict": {"model", "dataloaders", "datamodule"},
        }

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        subcommands = parser.add_subcommands()
        trainer_class = self.trainer_class if isinstance(self.trainer_class, type) else Trainer
        for name in self.subcommands():
            description = _first_line(getattr(trainer_class, name, None) or getattr(self, name))
            of_this_one = {"description": description, **kwargs.get(name, {})}
            subparser = self._prepare_subcommand_parser(trainer_class, name, **of_this_one)
            self.leyden_subcommand_parsers[name] = subparser
            subcommands.add_subcommand(name, subparser, help=description)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = self.init_parser(**kwargs)
        self._add_arguments(parser)
        skip: set[Any] = set(self.subcommands()[subcommand])
        added = parser.add_method_arguments(klass, subcommand, skip=skip) if hasattr(klass, subcommand) else []
        self._subcommand_method_arguments[subcommand] = added
        return parser

    @staticmethod
    def link_optimizers_and_lr_schedulers(parser: LightningArgumentParser) -> None:
        """Hand optimizers and schedulers that were added with ``link_to`` on to the argument that it names."""
        for key, (kind, target) in {**parser._optimizers, **parser._lr_schedulers}.items():
            if target == "AUTOMATIC":
                continue
            if isinstance(kind, tuple):
                parser.link_arguments(key, target)
            else:
                parser.link_arguments(key, target, compute_fn=functools.partial(_with_class_path, kind))

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Read the command line into :attr:`config`."""
        if args is not None and words_of_command():
            warn_user(
                f"LightningCLI was given args={args!r}, and the command line has words too, which are not read: {sys.argv[1:]}.",
                PossibleUserWarning,
            )
        if isinstance(args, dict | Namespace):
            self.config = parser.parse_object(args)
        else:
            self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Where a checkpoint is to be loaded, the module is made with the arguments that it was saved with."""
        path = local_path(os.fspath((self._get(self.config, "ckpt_path") if self.subcommand else None) or ""))
        if not os.path.isfile(path):
            return
        where = repr(path)
        before = self._get(self.config, "model")
        values = self.leyden_saved_arguments((peek(path) or {}).get("hyper_parameters"), where, before)
        if not values:
            return
        try:
            self.config = self.parser.parse_object({self.subcommand: {"model": values}}, self.config)
        except SystemExit:
            sys.stderr.write(f"This came of the hyper-parameters that stand in {where}.\n")
            raise
        self.leyden_say_what_was_replaced(before, where)

    def leyden_saved_arguments(self, saved: Any, where: str, configured: Any) -> dict[str, Any]:
        """What a checkpoint's hyper-parameters say of the module, as a configuration says it."""
        saved = decode(saved)
        if not isinstance(saved, dict):
            return {}
        if not is_described(saved):  # whatever a program saved: what can be an argument here
            known = configured.get("init_args", {}) if self.subclass_mode_model else configured
            saved = {name: value for name, value in saved.items() if name in known and _is_plain(value)}
            whole = {"class_path": configured.get("class_path"), "init_args": saved}
            return whole if self.subclass_mode_model and saved else saved
        trusted = self._get(self.config, "weights_only") is False
        values = checked_description(_class_of(self._model_class), saved, where, trusted)
        path = values.pop(CLASS_KEY, None)
        if not self.subclass_mode_model:
            return values
        if path is None:  # saved where only one class was possible
            return {"class_path": configured.get("class_path"), "init_args": values}
        return {"class_path": path, "dict_kwargs": values}

    def leyden_say_what_was_replaced(self, before: Any, where: str) -> None:
        """Warn of an argument of the module that was asked for otherwise."""
        after = self._get(self.config, "model")
        kind = _class_of(self._model_class)
        if self.subclass_mode_model:
            kind = instantiable(str(after.get("class_path")))
            before, after = before.get("init_args", {}), after.get("init_args", {})
        parameters = inspect.signature(kind).parameters
        before, after = _as_dict(before), _as_dict(after)
        for name in before.keys() & after.keys() & parameters.keys():
            if before[name] not in (after[name], parameters[name].default):
                warn_user(
                    f"model.{name}={before[name]!r} was asked for, and {where} was saved with {after[name]!r}, which counts.",
                    LeydenWarning,
                )

    # -- what is made
    def before_instantiate_classes(self) -> None:
        """Override to do something when the command line is read, and nothing made yet."""

    def instantiate_classes(self) -> None:
        """Make the module, the datamodule and the trainer."""
        self.config_init = self.parser.leyden_made(self.config, self.leyden_instantiators)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self._add_configure_optimizers_method_to_model(self.subcommand)
        self.trainer = self.instantiate_trainer()

    def after_instantiate_classes(self) -> None:
        """Override to do something when everything is made, and no verb run yet."""

    def _add_instantiators(self) -> None:
        """Let the module and the datamodule keep what the configuration says as their hyper-parameters."""
        import yaml

        dumped = self.parser.dump(self.config, skip_link_targets=False, skip_none=False, format="yaml")
        config = yaml.safe_load(dumped)
        self.config_dump = config[self.subcommand] if self.subcommand else config
        parts: tuple[tuple[str, Any, bool], ...] = (
            ("model", self._model_class, self.subclass_mode_model),
            ("data", self._datamodule_class, self.subclass_mode_data),
        )
        for key, kind, subclasses in parts:
            function = functools.partial(self.leyden_make_described, key)
            self.leyden_instantiators.append((function, _class_of(kind), subclasses))

    def leyden_make_described(
        self, key: str, kind: Any, *args: Any, applied_instantiation_links: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        config = dict(self.config_dump.get(key) or {})
        for target, value in (applied_instantiation_links or {}).items():
            if target.startswith(f"{key}."):
                _set_nested(config, target.removeprefix(f"{key}."), value)
        if "class_path" in config:
            config = {CLASS_KEY: config["class_path"], **(config.get("init_args") or {}), **(config.get("dict_kwargs") or {})}
        with described_as(config):
            return kind(*args, **kwargs)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer of the configuration; ``kwargs`` are arguments in place of those that it says."""
        callbacks = [self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys]
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        return self._instantiate_trainer(config, callbacks)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if "callbacks" in config:
            always = [*callbacks, *_listed(self.trainer_defaults.get("callbacks"))]
            config["callbacks"] = [*_listed(config["callbacks"]), *always]
            if self.save_config_callback is not None and not config.get("fast_dev_run", False):
                said = self.config.get(str(self.subcommand), self.config)
                keeper = self.save_config_callback(self._parser(self.subcommand), said, **self.save_config_kwargs)
                config["callbacks"].append(keeper)
        else:
            name = getattr(self.trainer_class, "__name__", repr(self.trainer_class))
            warn_user(f"{name} takes no argument 'callbacks', so LightningCLI's callbacks cannot be added.", LeydenWarning)
        return self.trainer_class(**config)

    def _parser(self, subcommand: str | None) -> LightningArgumentParser:
        return self.parser if subcommand is None else self.leyden_subcommand_parsers[subcommand]

    # -- optimizers
    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> Any:
        """Override to return something else from the module's ``configure_optimizers``, where the command line has them."""
        if lr_scheduler is None:
            return optimizer
        if isinstance(lr_scheduler, ReduceLROnPlateau):
            plan = {"scheduler": lr_scheduler, "monitor": lr_scheduler.monitor}
            return {"optimizer": optimizer, "lr_scheduler": plan}
        return [optimizer], [lr_scheduler]

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        if not self.auto_configure_optimizers:
            return
        parser = self._parser(subcommand)
        optimizers = _automatic(parser._optimizers)
        schedulers = _automatic(parser._lr_schedulers)
        if len(optimizers) > 1 or len(schedulers) > 1:
            raise MisconfigurationException(
                f"{type(self).__name__} can make one optimizer and one scheduler the module's, and was given "
                f"{', '.join(map(repr, [*optimizers, *schedulers]))}. Add each with link_to='model.<argument>', and let the "
                "module's configure_optimizers return them all."
            )
        if not optimizers:
            return
        of_optimizer = self.leyden_class_of(parser._optimizers, optimizers[0])
        of_scheduler = self.leyden_class_of(parser._lr_schedulers, schedulers[0]) if schedulers else None
        if not of_optimizer:
            if of_scheduler:
                raise MisconfigurationException(
                    f"--{schedulers[0]} was given without --{optimizers[0]}: there is no optimizer for it to schedule."
                )
            return
        if overrides(self.model, LightningModule.configure_optimizers):
            warn_user(
                f"{type(self.model).__name__}.configure_optimizers is not called: the command line gives --{optimizers[0]}.",
                PossibleUserWarning,
            )

        def configure_optimizers(module: LightningModule) -> Any:
            optimizer = instantiate_class(module.parameters(), of_optimizer)
            scheduler = instantiate_class(optimizer, of_scheduler) if of_scheduler else None
            return self.configure_optimizers(module, optimizer=optimizer, lr_scheduler=scheduler)

        functools.update_wrapper(configure_optimizers, self.configure_optimizers, updated=())
        self.model.configure_optimizers = types.MethodType(configure_optimizers, self.model)

    def leyden_class_of(self, added: Mapping[str, tuple[Any, str]], key: str) -> dict[str, Any] | None:
        """What the configuration says of an optimizer or scheduler, with its class."""
        kind, said = added[key][0], self._get(self.config_init, key)
        if not said:
            return None
        return dict(_with_class_path(kind, said)) if not isinstance(kind, tuple) else _as_dict(said)

    # -- the run
    def _get(self, config: Any, key: str, default: Any = None) -> Any:
        """A value of the configuration, which stands inside the subcommand's, where there is one."""
        return config.get(str(self.subcommand), {}).get(key, default) if self.subcommand else config.get(key, default)

    def _run_subcommand(self, subcommand: str) -> None:
        """``before_<verb>``, the verb (a method of this class, else the trainer's), and ``after_<verb>``."""
        for name in (f"before_{subcommand}", subcommand, f"after_{subcommand}"):
            if name == subcommand:
                function = getattr(self, subcommand, None) or getattr(self.trainer, subcommand)
                function(**self._prepare_subcommand_kwargs(subcommand))
            elif callable(getattr(self, name, None)):
                getattr(self, name)()

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        names = self._subcommand_method_arguments[subcommand]
        given = {name: value for name, value in self.config_init[subcommand].items() if name in names}
        given["model"] = self.model
        if self.datamodule is not None:
            given["datamodule"] = self.datamodule
        return given

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if seed is False:
            return
        seed = seed_everything(None if seed is True else seed, workers=True)
        (self.config[self.subcommand] if self.subcommand else self.config)["seed_everything"] = seed


def import_what_can_be_named() -> None:
    """Load the classes that a configuration may give by name alone: the parser knows those that are imported."""
    import leyden.callbacks
    import leyden.loggers
    import leyden.plugins
    import leyden.profilers
    import leyden.strategies

    for room in (leyden.callbacks, leyden.loggers, leyden.plugins, leyden.profilers, leyden.strategies):
        for name in room.__all__:
            getattr(room, name, None)


def _set_nested(config: dict[str, Any], path: str, value: Any) -> None:
    """Put a value that another object gave where the configuration could not say it."""
    *groups, name = path.split(".")
    for group in groups:
        config[group] = config = dict(config.get(group) or {})
    config[name] = value


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | None | list | tuple | dict)


def _first_line(function: Callable[..., Any]) -> str:
    return next(iter((inspect.getdoc(function) or "").splitlines()), "")


def _listed(given: Any) -> list[Any]:
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def _class_of(kind: Any) -> type:
    """A class; of a function, the class that it returns."""
    if isinstance(kind, type):
        return kind
    from leyden.cli.installed import jsonargparse

    made: type = jsonargparse.class_from_function(kind)
    return made


def _automatic(added: Mapping[str, tuple[Any, str]]) -> list[str]:
    return [key for key, (_, target) in added.items() if target == "AUTOMATIC"]


def _with_class_path(kind: type, said: Any) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": _as_dict(said)}


def _as_dict(said: Any) -> dict[str, Any]:
    return said.as_dict() if isinstance(said, Namespace) else dict(said)
