"""Arguments on a command line, where 1.x had them."""

from leyden.classic.command_line import add_argparse_args, get_init_arguments_and_types, parse_argparser, parse_env_variables
from leyden.classic.command_line import keywords_from as from_argparse_args

__all__ = [
    "add_argparse_args",
    "from_argparse_args",
    "get_init_arguments_and_types",
    "parse_argparser",
    "parse_env_variables",
]
