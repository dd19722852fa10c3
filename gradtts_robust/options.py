"""Command-line options made of dataclasses and signatures, with lists as a shell user writes them and mistakes told in one line."""
from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import get_args, get_origin, get_type_hints


def parse(argv: Sequence[str], *targets: Callable, program: str, description: str, positionals: dict[str, dict] | None = None) -> dict:
    """Parses a command's arguments, and `--config FILE.yaml` before them.

    Args:
        argv: words after the command.
        targets: settings dataclasses, and functions whose keyword arguments are options.
        positionals: name -> keywords of `add_argument`.

    Returns:
        Name -> value, nested dataclasses built.

    Raises:
        ValueError: an unknown or missing option, a value of the wrong type, or a recipe that cannot be read.
    """
    from jsonargparse import ActionConfigFile, ArgumentParser

    parser = ArgumentParser(prog=program, description=description, exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of these settings; options after it override it")
    for name, words in (positionals or {}).items():
        parser.add_argument(name, **words)
    lists: dict[str, type] = {}
    for target in targets:
        add = parser.add_class_arguments if isinstance(target, type) else parser.add_function_arguments
        add(target)
        lists |= list_options(target)
    for action in parser._actions:
        if lists.keys() & set(action.option_strings):
            action.metavar = "VALUE..."
    try:
        parsed = parser.parse_args(gather(argv, lists))
    except argparse.ArgumentError as error:
        raise ValueError(_explained(str(error), argv)) from None
    except UnicodeDecodeError:
        raise ValueError(f"{', '.join(_recipes(argv))}: not UTF-8 text; save the recipe as UTF-8") from None
    values = vars(parser.instantiate(parsed))
    values.pop("config", None)
    return values


def list_options(target: Callable, prefix: str = "--") -> dict[str, type]:
    """Options of a dataclass or function that take a list or tuple, and the type of its items."""
    found = {}
    for name, hint in get_type_hints(target).items():
        if dataclasses.is_dataclass(hint):
            found |= list_options(hint, f"{prefix}{name}.")
        for kind in (hint, *get_args(hint)):
            if get_origin(kind) in (list, tuple):
                found[prefix + name] = get_args(kind)[0]
    return found


def gather(argv: Sequence[str], lists: dict[str, type]) -> list[str]:
    """Turns `--option A B` and `--option A --option B`, a list to a shell user, into the `--option=["A", "B"]` of jsonargparse.

    Args:
        argv: words after the command.
        lists: see `list_options`.
    """
    words, rest = list(argv), []
    if "--" in words:
        words, rest = words[:words.index("--")], words[words.index("--"):]
    gathered: list[str] = []
    values: dict[str, list[str]] = {}
    while words:
        option, sign, value = words[0].partition("=")
        word = words.pop(0)
        if option not in lists:
            gathered.append(word)
            continue
        given = [value] if sign else []
        while words and not re.match(r"-(?!\d|\.\d|$)", words[0]):
            given.append(words.pop(0))
        if not given:
            gathered.append(word)
            continue
        # the last place counts, as a recipe between two would override the first
        gathered = [other for other in gathered if not other.startswith(option + "=")]
        values[option] = [*values.get(option, []), *given]
        gathered.append(f"{option}={_as_list(values[option], lists[option])}")
    return gathered + rest


def _as_list(values: list[str], kind: type) -> str:
    if len(values) == 1 and re.fullmatch(r"\[.*\]", values[0]):
        return values[0]
    return json.dumps(values) if kind is str else f"[{','.join(values)}]"


def _explained(message: str, argv: Sequence[str]) -> str:
    """jsonargparse's message in the words of a command line; the recipe is named where the mistake is in it."""
    message = " ".join(message.split())
    recipes = _recipes(argv)
    found = re.match(r'Parser key "([^"]+)": ', message)
    of_recipe = re.search(r"is not accepted$|does not accept option|^Unexpected config|^Problems parsing config", message)
    if found and not any(word.startswith("--" + found[1]) for word in argv if not word.startswith("--config")):
        of_recipe = found
    message = re.sub(r'^Parser key "config": |^Problems parsing config: ', "", message)
    message = re.sub(r'^Parser key "([^"]+)": ', r"--\1: ", message)
    message = re.sub(r"Expected an? (.*?)\. Got value: ", lambda match: f"expected {_type_name(match[1])}, got ", message)
    message = re.sub(r"Does not validate against any of the Union subtypes Subtypes: \[(.*)\] Errors: .* Given value: ", lambda match:
                     f"expected {' or '.join(map(_type_name, re.split(', (?=<class|typing)', match[1])))}, got ", message)
    return f"{', '.join(recipes) + ': ' if recipes and of_recipe else ''}{message}; see --help"


def _recipes(argv: Sequence[str]) -> list[str]:
    return [after if word == "--config" else word.partition("=")[2]
            for word, after in zip(argv, [*argv[1:], ""]) if word.partition("=")[0] == "--config"]


def _type_name(kind: str) -> str:
    kind = re.sub(r"<class '([\w.]+)'>", r"\1", kind).replace("typing.", "")
    choices = re.fullmatch(r"Literal\[(.*)\]", kind)
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
    return f"one of {choices[1]}" if choices else names.get(kind, kind)
