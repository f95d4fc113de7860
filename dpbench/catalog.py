"""Find methods, datasets, models and grids by name: built-in, in a user's folder, installed, or in one file.

A name may carry parameters: `orderdp[explore=0.8]`. Listing imports nothing that it lists.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import dpbench
from dpbench import plain_yaml, plugins
from dpbench.aliases import ALIASES
from dpbench.errors import UsageError
from dpbench.parameters import build, check_kind, unknown
from dpbench.source import digest

if TYPE_CHECKING:
    from torch import nn

    from dpbench.data import Dataset
    from dpbench.method import PruningMethod


# where the methods, datasets and models that come with dpbench may lie: installed, and in a checkout
OURS = [Path(dpbench.__file__).resolve().parent, Path(dpbench.__file__).resolve().parent.parent]
FIRST = {"images": "cnn", "tables": "mlp", "texts": "bag"}  # the model to begin with, for each kind of samples
NAME = 1000  # characters of a name with its parameters; they are listed in tables and sent to MLflow


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split `name[key=value,...]` into the name and its parameters, values read as YAML."""
    if len(text) > NAME or not text.isprintable():
        reason = f"more than {NAME} characters" if len(text) > NAME else "a character that cannot be printed"
        raise UsageError(f"cannot read {plain_yaml.brief(text)}: it has {reason}")
    match = re.fullmatch(r"([^\[\]]+?)(?:\[(.*)\])?", text.strip())
    items = _items(match[2] or "") if match else None
    if match is None or items is None:
        raise UsageError(f"cannot read {text!r}; write name or name[key=value,...]")
    params: dict[str, Any] = {}
    for item in filter(None, items):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"cannot read {item!r} in {text!r}; write key=value")
        if key.strip() in params:
            raise UsageError(f"{text!r} gives {key.strip()!r} twice")
        params[key.strip()] = _value(value.strip(), text)
    return match[1].strip(), params


def _items(body: str) -> list[str] | None:
    """Split at the commas outside of inner brackets, which belong to a value; None where brackets do not match."""
    items, depth = [""], 0
    for char in body:
        depth += (char == "[") - (char == "]")
        if depth < 0:
            return None
        if char == "," and depth == 0:
            items.append("")
        else:
            items[-1] += char
    return items if depth == 0 else None


def label(name: str, params: dict[str, Any]) -> str:
    """Write a name and its parameters as `parse` reads them."""
    body = ",".join(f"{key}={_plain(value)}" for key, value in params.items())
    return f"{name}[{body}]" if body else name


_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


def _value(written: str, text: str) -> Any:
    """Read a scalar as YAML does, and 1e-5 as the number that YAML 1.1 does not see in it."""
    if _EXPONENT.fullmatch(written):
        return float(written)
    try:
        value, _ = plain_yaml.load(written, text)
    except UsageError:
        value = [written]
    if isinstance(value, list | dict):
        raise UsageError(f"cannot read the value {written!r} in {text!r}; it is a number, a word, true, false or null")
    return value


def _plain(value: Any) -> str:
    """Write a scalar as `_value` reads it."""
    written = yaml.safe_dump(value, width=float("inf")).splitlines()[0]
    return f"'{written}'" if isinstance(value, str) and _EXPONENT.fullmatch(value) else written


def method_names() -> list[str]:
    """Every method's name, sorted."""
    return sorted(_modules("methods").keys() | _installed("methods").keys())


def dataset_names() -> list[str]:
    """Every dataset's name, sorted."""
    return sorted(_modules("datasets").keys() | _installed("datasets").keys())


def model_names() -> list[str]:
    """Every model's name, sorted."""
    return sorted(_modules("models").keys() | _installed("models").keys())


def grid_names() -> list[str]:
    """Every built-in grid's name, sorted."""
    return sorted(f.name[:-5] for f in files("dpbench.leaderboards").iterdir() if f.name.endswith(".yaml"))


def method_class(name: str) -> type[PruningMethod]:
    """Import the class of a method by its name."""
    from dpbench.method import PruningMethod

    return _find("methods", name, PruningMethod, method_names())


def dataset_class(name: str) -> type[Dataset]:
    """Import the class of a dataset by its name."""
    from dpbench.data import Dataset

    return _find("datasets", name, Dataset, dataset_names())


def load_method(text: str) -> PruningMethod:
    """Return the method that `text` names, ready for `setup`: a name, `name[key=value]`, or a file's path."""
    name, params = parse(resolve(text))
    method = build(method_class(name), name, params)
    plugins.check_stated(method, name)
    return method


def load_dataset(text: str) -> Dataset:
    """Return the dataset that `text` names; its files are not read yet."""
    name, params = parse(text)
    return build(dataset_class(name), name, params)


def model_factory(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds a model: it is named like its module, or after a colon."""
    module_name, _, attribute = name.partition(":")
    if module_name not in model_names():
        raise unknown("model", module_name, model_names())
    found = _import("models", module_name)
    factory = getattr(found, attribute or module_name, None) if inspect.ismodule(found) else found
    if inspect.ismodule(found) and factory is None:
        raise UsageError(f"{module_name}.py has no function {attribute or module_name}(shape, classes, ...)")
    if not callable(factory):
        raise UsageError(f"{name}: it names {factory!r}; a function of (shape, classes, ...) is needed")
    return factory


def check_model(text: str) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """Return the function and the parameters that `text` names."""
    name, params = parse(text)
    factory = model_factory(name)
    allowed = list(inspect.signature(factory).parameters)[2:]
    for key, value in params.items():
        if key not in allowed:
            raise unknown(f"parameter of the model {name}", key, allowed)
        default = inspect.signature(factory).parameters[key].default
        if default is not None:
            check_kind(f"{name}: {key} = {value!r}", value, default)
    return factory, params


def models_for(dataset: str) -> list[str]:
    """The models that take what the dataset holds, the one to begin with first."""
    kind = load_dataset(dataset).kind
    taken = [name for name in model_names() if kind in kinds(name)]
    return sorted(taken, key=lambda name: name != FIRST.get(kind))


def kinds(model: str) -> tuple[str, ...]:
    """The kinds of samples that a model takes: the KINDS of its module; all kinds where it has none."""
    factory = model_factory(parse(model)[0])
    return getattr(sys.modules[factory.__module__], "KINDS", tuple(FIRST))


def fits(dataset: str, model: str) -> bool:
    """Whether the model takes what the dataset holds."""
    return load_dataset(dataset).kind in kinds(model)


def fitting(models: list[str], datasets: list[str]) -> list[str]:
    """Those of the models that fit one of the datasets, and for a dataset that none fits the first of its kind."""
    chosen = [model for model in models if any(fits(dataset, model) for dataset in datasets)]
    for dataset in datasets:
        if not any(fits(dataset, model) for model in chosen):
            chosen.append(FIRST[load_dataset(dataset).kind])
    return chosen


def load_model(text: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build the model that `text` names for samples of `shape`; weights come from torch's generator."""
    factory, params = check_model(text)
    return factory(shape, classes, **params)


def resolve(text: str) -> str:
    """Turn `path/to/file.py[:Class][params]` into the name of a method linked from that file, an alias into what it
    means; pass other names on.
    """
    path, params = parse(text)
    file, _, attribute = path.partition(".py:")
    if not attribute and not path.endswith(".py"):
        if path not in ALIASES or path in method_names():
            return text
        name, meant = parse(ALIASES[path])
        return label(name, meant | params)
    try:
        source = Path(file + ".py" if attribute else path).expanduser().resolve()
        there = source.is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle, the home of nobody
        raise UsageError(f"no file {plain_yaml.brief(path)}: {getattr(error, 'strerror', None) or error}") from None
    if not there:
        raise UsageError(f"no file {source}")
    name = plug_in(source) + (f":{attribute}" if attribute else "")
    return label(name, params)


def plug_in(source: Path) -> str:
    """Link a method's file into a plug-in home of this process and its workers; return the method's name."""
    name = source.stem
    if not name.isidentifier():
        raise UsageError(f"{source.name}: rename it so that its name is a Python identifier, it names the method")
    if any((Path(part) / "methods" / source.name).resolve() == source for part in dpbench.__path__):
        return name
    if name in method_names():
        raise UsageError(f"{source.name}: a method named {name!r} exists already; rename the file")
    (_home() / "methods" / source.name).symlink_to(source)
    importlib.invalidate_caches()
    return name


def searched(name: str) -> list[dataclasses.Field[Any]]:
    """The parameters of a method that declare what may be searched: choices, or a range with both ends."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(method_class(name))  # type: ignore[arg-type]
    ranges = {field.name: [field.metadata.get(key) for key in ("low", "high", "choices")] for field in fields}
    return [f for f in fields if ranges[f.name][2] is not None or None not in ranges[f.name][:2]]


def at_least_keep(name: str) -> list[str]:
    """The parameters of a method that count as the share kept where they are below it."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(method_class(name))  # type: ignore[arg-type]
    return [field.name for field in fields if field.metadata.get("at_least_keep")]


def source_digest(kind: str, name: str) -> str:
    """Hash the code of a method's, dataset's or model's module, with what it imports from its own folder."""
    {"methods": method_class, "datasets": dataset_class, "models": model_factory}[kind](name)  # imports the module
    module = name.partition(":")[0]
    inside = f"dpbench.{kind}.{module}"
    return digest(sys.modules[inside if module in _modules(kind) else _installed(kind)[module].module])


@cache
def _home() -> Path:
    """Make this process's temporary plug-in home; DPBENCH_PATH hands it to the workers."""
    holder = tempfile.TemporaryDirectory(prefix="dpbench-")
    _keep_alive.append(holder)
    home = Path(holder.name)
    (home / "methods").mkdir()
    dpbench.__path__.append(str(home))
    os.environ["DPBENCH_PATH"] = os.pathsep.join(filter(None, [os.environ.get("DPBENCH_PATH"), str(home)]))
    return home


def linked() -> bool:
    """Whether a method's file was linked into a plug-in home that ends with this process."""
    return bool(_keep_alive)


_keep_alive: list[tempfile.TemporaryDirectory[str]] = []


def _modules(folder: str) -> dict[str, str]:
    """The modules in every portion of the namespace package, by name."""
    portions = [str(Path(part) / folder) for part in dpbench.__path__]
    return {m.name: f"dpbench.{folder}.{m.name}" for m in pkgutil.iter_modules(portions)}


@cache
def _installed(group: str) -> Any:
    """The entry points of installed packages, by name; looking through all packages takes milliseconds."""
    return {e.name: e for e in entry_points(group=f"dpbench.{group}")}


def _find(folder: str, name: str, base: type, names: list[str]) -> Any:
    """Import the one subclass of `base` in the module `name`, or the class after a colon.

    Classes whose names begin with an underscore are parts of others and do not count.
    """
    module_name, _, attribute = name.partition(":")
    if module_name not in names:
        raise unknown(folder.removesuffix("s"), module_name, names + list(ALIASES) * (folder == "methods"))
    module = _import(folder, module_name)
    if inspect.isclass(module) and issubclass(module, base):  # an entry point may name the class
        return module
    if not inspect.ismodule(module):
        raise UsageError(f"{module_name}: the entry point names {module!r}; a subclass of {base.__name__} is needed")

    def own(value: Any) -> bool:
        return inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__

    classes = {key: value for key, value in vars(module).items() if own(value) and not key.startswith("_")}
    if attribute:
        chosen = getattr(module, attribute, None)  # a module may make its classes by __getattr__
        if not own(chosen):
            raise unknown(f"{base.__name__} in {module_name}.py", attribute, list(classes))
        return chosen
    if len(classes) != 1:
        raise UsageError(
            f"{module_name}.py has {len(classes)} subclasses of {base.__name__}"
            + (
                f" ({', '.join(classes)}); say which: {module_name}.py:{next(iter(classes))}"
                if classes
                else "; it needs one"
            )
        )
    return next(iter(classes.values()))


def _import(folder: str, name: str) -> Any:
    """Import a plug-in's module, or what its entry point names."""
    path = f"dpbench.{folder}.{name}"
    load = partial(importlib.import_module, path)
    if name not in _modules(folder):
        entry = _installed(folder)[name]
        try:
            path, load = entry.module, entry.load
        except AttributeError:
            raise UsageError(f"{name}: its entry point is {entry.value!r}; module or module:name is needed") from None
    ours = any((root / folder / f"{name}.py").is_file() for root in OURS)
    return plugins.load(name, path, load, ours)
