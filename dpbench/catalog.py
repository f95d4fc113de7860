"""Find methods, datasets, models and grids by name: built-in, in a user's folder, installed, or in one file.

A name may carry parameters: `orderdp[explore=0.8]`. Listing imports nothing that it lists.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dpbench import places, plain_yaml, plugins, published_lists
from dpbench.aliases import ALIASES
from dpbench.errors import UsageError
from dpbench.parameters import build, check_kind, items_of, unknown, value_of, written
from dpbench.source import digest

if TYPE_CHECKING:
    from torch import nn

    from dpbench.data import Dataset
    from dpbench.method import PruningMethod


FIRST = {"images": "cnn", "tables": "mlp", "texts": "bag"}  # the model to begin with, for each kind of samples
NAME = 1000  # characters of a name with its parameters; they are listed in tables and sent to MLflow


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split `name[key=value,...]` into the name and its parameters, values read as YAML."""
    if len(text) > NAME or not text.isprintable():
        reason = f"more than {NAME} characters" if len(text) > NAME else "a character that cannot be printed"
        raise UsageError(f"cannot read {plain_yaml.brief(text)}: it has {reason}")
    match = re.fullmatch(r"([^\[\]]+?)(?:\[(.*)\])?", text.strip())
    items = items_of(match[2] or "") if match else None
    if match is None or items is None:
        raise UsageError(f"cannot read {text!r}; write name or name[key=value,...]")
    params: dict[str, Any] = {}
    for item in filter(None, items):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"cannot read {item!r} in {text!r}; write key=value")
        if key.strip() in params:
            raise UsageError(f"{text!r} gives {key.strip()!r} twice")
        params[key.strip()] = value_of(value.strip(), text)
    return match[1].strip(), params


def label(name: str, params: dict[str, Any]) -> str:
    """Write a name and its parameters as `parse` reads them."""
    body = ",".join(f"{key}={written(value)}" for key, value in params.items())
    return f"{name}[{body}]" if body else name


def names(kind: str) -> list[str]:
    """The names of all "methods", "datasets" or "models", of the built-in "grids", or of known "subsets", sorted."""
    if kind == "subsets":
        return sorted(published_lists.lists())
    if kind == "grids":
        return sorted(file.stem for file in places.LEADERBOARDS.glob("*.yaml") if not file.stem.endswith(".claims"))
    return sorted(_modules(kind) | _installed(kind).keys())


def method_class(name: str) -> type[PruningMethod]:
    """Import the class of a method by its name."""
    from dpbench.method import PruningMethod

    return _find("methods", name, PruningMethod)


def dataset_class(name: str) -> type[Dataset]:
    """Import the class of a dataset by its name."""
    from dpbench.data import Dataset

    return _find("datasets", name, Dataset)


def load_method(text: str) -> PruningMethod:
    """Return the method that `text` names, ready for `setup`: a name, `name[key=value]`, or a file's path."""
    from dpbench import beside  # it imports pydantic, and listing does without

    name, params = parse(resolve("methods", text))
    own, more = beside.split(method_class(name), params)
    method = build(method_class(name), name, own)
    plugins.check_stated(method, name)
    beside.give(method, name, more)
    return method


def load_dataset(text: str) -> Dataset:
    """Return the dataset that `text` names; its files are not read yet."""
    name, params = parse(resolve("datasets", text))
    return build(dataset_class(name), name, params)


def model_factory(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds a model: it is named like its module, or after a colon."""
    module_name, _, attribute = name.partition(":")
    found = _import("models", module_name)
    factory = getattr(found, attribute or module_name, None) if inspect.ismodule(found) else found
    if inspect.ismodule(found) and factory is None:
        hint = "" if attribute else f"; name another: {module_name}.py:FUNCTION"
        raise UsageError(f"{module_name}.py has no function {attribute or module_name}(shape, classes, ...){hint}")
    if not callable(factory):
        what = "it" if inspect.ismodule(found) else "the entry point"
        raise UsageError(f"{name}: {what} names {factory!r}; a function of (shape, classes, ...) is needed")
    return factory


def check_model(text: str) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """Return the function and the parameters that `text` names."""
    name, params = parse(resolve("models", text))
    factory = model_factory(name)
    allowed = list(inspect.signature(factory).parameters)[2:]
    for key, value in params.items():
        if key not in allowed:
            raise unknown(f"parameter of the model {name}", key, allowed)
        default = inspect.signature(factory).parameters[key].default
        if default is not None:
            check_kind(f"{name}: {key} = {value!r}", value, default)
    listed = _declared(factory, "names")
    if listed and allowed[0] not in params:
        raise UsageError(f"{name}: which of its models? write {name}:NAME")
    if listed and params[allowed[0]] not in (known := listed()):
        raise unknown(f"model of {name}", str(params[allowed[0]]), known)
    return factory, params


def model_files(text: str) -> dict[str, str]:
    """The files and folders that a model's parameters name, whose content is part of a run's identity."""
    factory, params = check_model(text)
    return {key: params[key] for key in _declared(factory, "FILES") or () if params.get(key)}


def models_for(dataset: str) -> list[str]:
    """The models that take what the dataset holds, the one to begin with first."""
    kind = load_dataset(dataset).kind
    taken = [name for name in names("models") if takes(name, kind)]
    return sorted(taken, key=lambda name: name != FIRST.get(kind))


def takes(model: str, kind: str) -> bool:
    """Whether a model takes samples of this kind: KINDS of its module names it, or its module has no KINDS."""
    stated = _declared(model_factory(parse(resolve("models", model))[0]), "KINDS")
    return stated is None or kind in stated


def _declared(factory: Callable[..., nn.Module], name: str) -> Any:
    """What the module of a model declares beside it, None if it does not."""
    return getattr(sys.modules[factory.__module__], name, None)


def fits(dataset: str, model: str) -> bool:
    """Whether the model takes what the dataset holds."""
    return takes(model, load_dataset(dataset).kind)


def fitting(models: list[str], datasets: list[str]) -> list[str]:
    """Those of the models that fit one of the datasets, and for a dataset that none fits the first of its kind.

    UsageError where its kind has no first model.
    """
    chosen = [model for model in models if any(fits(dataset, model) for dataset in datasets)]
    for dataset in datasets:
        if not any(fits(dataset, model) for model in chosen):
            kind = load_dataset(dataset).kind
            if kind not in FIRST:
                listed = ", ".join(models_for(dataset)) or "none is known"
                raise UsageError(f"{dataset}: say --model; for samples of the kind {kind!r}: {listed}")
            chosen.append(FIRST[kind])
    return chosen


def load_model(text: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build the model that `text` names for samples of `shape`; weights come from torch's generator."""
    factory, params = check_model(text)
    return factory(shape, classes, **params)


def resolve(kind: str, text: str) -> str:
    """Turn `path/to/file.py[:attribute][params]` into the name of a plug-in from that file, and a method's alias into
    what it means; pass other names on.

    Of a dataset or a model `name:REST[...]` becomes `name[first=REST,...]`, by its own first parameter.
    """
    path, params = parse(text)
    match = _FILE.fullmatch(path)
    if match is None:
        if kind != "methods":
            return _spelt_out(kind, path, params)
        if path not in ALIASES or path in names(kind):
            return text
        name, meant = parse(ALIASES[path])
        return label(name, meant | params)
    try:
        file = Path(match["file"]).expanduser().resolve()
        there = file.is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, links in a circle, the home of nobody
        raise UsageError(f"no file {plain_yaml.brief(path)}: {getattr(error, 'strerror', None) or error}") from None
    if not there:
        raise UsageError(f"no file {file}")
    return _spelt_out(kind, plug_in(kind, file) + match["attribute"], params)


def _spelt_out(kind: str, path: str, params: dict[str, Any]) -> str:
    name, colon, rest = path.partition(":")
    if not colon or kind == "methods" or name not in names(kind):  # its use tells whether an earlier command knew it
        return label(path, params)
    if kind == "datasets":
        from dpbench.data import Dataset  # not before a dataset is loaded: torch takes a second to import

        common = {field.name for field in dataclasses.fields(Dataset)}
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(dataset_class(name))
        taken = [field.name for field in fields if field.name not in common]
    elif f"dpbench.models.{name}" in places.FILES or callable(getattr(_import(kind, name), rest, None)):
        return label(path, params)  # a function of the module
    else:
        taken = list(inspect.signature(model_factory(name)).parameters)[2:]
    if not taken:
        raise UsageError(f"nothing may follow the colon of {path}: the {kind[:-1]} {name} has no parameters of its own")
    if taken[0] in params:
        raise UsageError(f"{path}: {taken[0]} is given twice, after the colon and in brackets")
    return label(name, {taken[0]: rest} | params)


# not `folder:PATH`, whatever the path's end
_FILE = re.compile(r"(?!\w+:)(?P<file>.+?\.py)(?P<attribute>(:.+)?)")


def plug_in(kind: str, file: Path) -> str:
    """Make a file known as a method, dataset or model of this process and its workers; return its name."""
    name, package, one = file.stem, f"dpbench.{kind}", kind.removesuffix("s")
    if not name.isidentifier():
        raise UsageError(f"{file.name}: rename it so that its name is a Python identifier, it names the {one}")
    if any((Path(folder) / file.name).resolve() == file for folder in places.FOLDERS[package]):
        return name
    if places.FILES.get(f"{package}.{name}") != str(file):
        if name in names(kind):
            raise UsageError(f"{file.name}: a {one} named {name!r} exists already; rename the file")
        places.FILES[f"{package}.{name}"] = str(file)
    return name


def elsewhere(kind: str, text: str) -> str:
    """Write a plug-in's text so that another command can read it: one of a single file with the file's full path."""
    name, params = parse(resolve(kind, text))
    module, colon, attribute = name.partition(":")
    file = places.FILES.get(f"dpbench.{kind}.{module}", module)
    return label(f"{file}{colon}{attribute}", params)


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
    return digest(module_of(kind, name))


def module_of(kind: str, name: str) -> ModuleType:
    """The imported module of a method, dataset or model."""
    {"methods": method_class, "datasets": dataset_class, "models": model_factory}[kind](name)  # imports the module
    module = name.partition(":")[0]
    inside = f"dpbench.{kind}.{module}"
    return sys.modules[inside if module in _modules(kind) else _installed(kind)[module].module]


def _modules(kind: str) -> set[str]:
    """The names of the modules in the folders of this kind, and of the single files."""
    package = f"dpbench.{kind}"
    files = {module.removeprefix(f"{package}.") for module in places.FILES if module.startswith(f"{package}.")}
    return files | {module.name for module in pkgutil.iter_modules(places.FOLDERS[package])}


@cache
def _installed(kind: str) -> Any:
    """The entry points of installed packages, by name; looking through all packages takes milliseconds."""
    return {e.name: e for e in entry_points(group=f"dpbench.{kind}")}


def _find(kind: str, name: str, base: type) -> Any:
    """Import the one subclass of `base` in the module `name`, or the class after a colon.

    Classes whose names begin with an underscore are parts of others and do not count.
    """
    module_name, _, attribute = name.partition(":")
    module = _import(kind, module_name)
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
        have = f"{module_name}.py has {len(classes)} subclasses of {base.__name__}"
        if not classes or kind == "datasets":  # there a path stands after the colon
            raise UsageError(f"{have}; it needs one")
        raise UsageError(f"{have} ({', '.join(classes)}); say which: {module_name}.py:{next(iter(classes))}")
    return next(iter(classes.values()))


def _import(kind: str, name: str) -> Any:
    """Import a plug-in's module, or what its entry point names."""
    path = f"dpbench.{kind}.{name}"
    load = partial(importlib.import_module, path)
    if name not in _modules(kind):
        entry = _installed(kind).get(name)
        if entry is None:
            raise unknown(kind.removesuffix("s"), name, names(kind) + list(ALIASES) * (kind == "methods"))
        try:
            path, load = entry.module, entry.load
        except AttributeError:
            raise UsageError(f"{name}: its entry point is {entry.value!r}; module or module:name is needed") from None
    ours = any((root / kind / f"{name}.py").is_file() for root in places.OURS)
    return plugins.load(name, path, load, ours)
