"""Does every TensorRT name in our source exist? Run in a process of its own, against real bindings.

    python truth.py bindings-folder fake-module source.py …

prints one JSON object: the bindings' version, what was checked, and what is wrong. It reads the source's syntax trees
and follows TensorRT's objects through them: from the module and annotated parameters, through attributes, calls and
assignments, with the types that the bindings' own docstrings give. So a method is looked up on the class it is called
on, its arguments are compared with its signatures, and a value whose type cannot be told is a failure, not a gap.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOADERS = ("load_tensorrt", "load_library", "library_for_building")
CPP_NAMES = {"nvonnxparser::IParserError": "ParserError", "nvinfer1::IRuntimeCache": "IRuntimeCache"}
PACKAGES = ("tensorrt_bindings", "tensorrt_rtx_bindings")
SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> (.+)$")
PLAIN_TYPES = re.compile(r"^(None|bool|int|float|str|bytes|object|(list|List|tuple|Tuple)\[.*\]|capsule)$")


@dataclass(frozen=True)
class Module:
    """The module tensorrt."""


@dataclass(frozen=True)
class Class:
    """One of its classes."""

    value: type


@dataclass(frozen=True)
class Instance:
    """An object of one of its classes."""

    value: type


@dataclass(frozen=True)
class Method:
    """A bound method, by its owner."""

    owner: type
    name: str


@dataclass(frozen=True)
class Plain:
    """No TensorRT object; `known` is None, or why TensorRT's answer could not be followed."""

    untold: str | None = None


@dataclass
class Signature:
    """One overload."""

    names: list[str]
    required: int
    returns: str


def signatures(function: Any) -> list[Signature]:
    """The overloads in a binding's docstring, without self."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        match = SIGNATURE.match(line.strip())
        if match and "*args" not in match[2]:
            parts = split_top(match[2])
            names = [part.split(":")[0].strip() for part in parts]
            optional = sum("=" in part for part in parts)
            found.append(Signature(names[1:], len(parts) - 1 - optional, match[3].strip()))
    return found


def split_top(text: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [part for part in [*parts, text[start:]] if part.strip()]


@dataclass
class Checker:
    """Follows TensorRT's objects through our source."""

    trt: Any
    failures: list[str] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    followed: set[int] = field(default_factory=set)
    file: str = ""

    def run(self, files: list[Path]) -> None:
        """Check every function of every file."""
        trees = {path: ast.parse(path.read_text()) for path in files}
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    self.functions[node.name] = node
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    kind = self.annotated(node.annotation)
                    if kind is not None:
                        self.attributes[node.target.id] = kind
        for path, tree in trees.items():
            self.file = path.name
            self.block(tree.body, {})
            self.gaps(tree)

    def gaps(self, tree: ast.Module) -> None:
        """Attributes that carry a name of TensorRT's but were not reached: an object was not recognised as its own.

        Names of one word (`name`, `shape`) are everybody's; TensorRT's long ones are not.
        """
        kinds = [kind for kind in vars(self.trt).values() if isinstance(kind, type)]
        known = {name for kind in kinds for name in dir(kind) if "_" in name.strip("_")}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in known and id(node) not in self.followed:
                self.fail(node, f"{ast.unparse(node)} looks like TensorRT's but its owner is not annotated")

    def fail(self, node: ast.AST, text: str) -> None:
        self.failures.append(f"{self.file}:{getattr(node, 'lineno', '?')}: {text}")

    def annotated(self, annotation: ast.expr | None) -> Any:
        """Instance for `trt.X` and `trt.X | None`, Module for ModuleType, else None."""
        if isinstance(annotation, ast.BinOp):
            return self.annotated(annotation.left) or self.annotated(annotation.right)
        if isinstance(annotation, ast.Name) and annotation.id == "ModuleType":
            return Module()
        if isinstance(annotation, ast.Attribute) and ast.unparse(annotation.value) == "trt":
            kind = self.member(annotation, Module(), annotation.attr)
            return Instance(kind.value) if isinstance(kind, Class) else None
        return None

    def block(self, body: list[Any], scope: dict[str, Any]) -> None:
        for statement in body:
            self.statement(statement, scope)

    def statement(self, node: Any, scope: dict[str, Any]) -> None:
        if isinstance(node, ast.FunctionDef):
            inner = dict(scope)
            for argument in (*node.args.args, *node.args.kwonlyargs):
                inner[argument.arg] = self.annotated(argument.annotation) or Plain()
            self.annotated(node.returns)
            self.block(node.body, inner)
        elif isinstance(node, ast.ClassDef):
            self.subclass(node, scope)
            self.block(node.body, dict(scope))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            self.assignment(node, scope)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.expression(child, scope)
                elif isinstance(child, ast.withitem):
                    self.expression(child.context_expr, scope)
                else:
                    self.statement(child, scope)

    def assignment(self, node: Any, scope: dict[str, Any]) -> None:
        kind = self.expression(node.value, scope) if node.value is not None else Plain()
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                scope[target.id] = kind
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for part, value in zip(target.elts, node.value.elts, strict=True):
                    if isinstance(part, ast.Name):
                        scope[part.id] = self.expression(value, scope)
            elif isinstance(target, ast.Attribute):
                self.stored(target, scope)

    def stored(self, target: ast.Attribute, scope: dict[str, Any]) -> None:
        """`config.x = …`: x must exist and be writable."""
        owner = self.expression(target.value, scope)
        if isinstance(owner, Instance):
            self.member(target, owner, target.attr)
            entry = getattr(owner.value, target.attr, None)
            if isinstance(entry, property) and entry.fset is None:
                self.fail(target, f"{owner.value.__name__}.{target.attr} cannot be set")

    def subclass(self, node: ast.ClassDef, scope: dict[str, Any]) -> None:
        """A class of ours below one of TensorRT's: what it overrides must be there, with as many parameters."""
        for base in node.bases:
            kind = self.expression(base, scope)
            if not isinstance(kind, Class):
                continue
            scope[node.name] = kind
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    self.member(method, Instance(kind.value), method.name)
                    names = [argument.arg for argument in method.args.args[1:]]
                    known = [each.names for each in signatures(getattr(kind.value, method.name, None))]
                    if names not in known:
                        self.fail(method, f"{kind.value.__name__}.{method.name}{names} overrides one of {known}")

    def expression(self, node: Any, scope: dict[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return scope.get(node.id, Plain())
        if isinstance(node, ast.Attribute):
            return self.attribute(node, scope)
        if isinstance(node, ast.Call):
            return self.call(node, scope)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            return self.comprehension(node, scope)
        if isinstance(node, ast.Lambda):
            return self.expression(node.body, scope)
        if isinstance(node, ast.IfExp):
            self.expression(node.test, scope)
            kinds = [self.expression(node.body, scope), self.expression(node.orelse, scope)]
            return next((kind for kind in kinds if not isinstance(kind, Plain)), Plain())
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child, scope)
        return Plain()

    def comprehension(self, node: Any, scope: dict[str, Any]) -> Plain:
        inner = dict(scope)
        for generator in node.generators:
            self.expression(generator.iter, inner)
            for name in ast.walk(generator.target):
                if isinstance(name, ast.Name):
                    inner[name.id] = Plain()
            for condition in generator.ifs:
                self.expression(condition, inner)
        for part in ("elt", "key", "value"):
            if hasattr(node, part):
                self.expression(getattr(node, part), inner)
        return Plain()

    def attribute(self, node: ast.Attribute, scope: dict[str, Any]) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in self.attributes:
            return self.attributes[node.attr]
        if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr == "_trt":
            return Module()
        owner = self.expression(node.value, scope)
        if isinstance(owner, Plain):
            if owner.untold is not None:
                self.fail(node, f".{node.attr} of {owner.untold}: its type cannot be told, pass it to an annotated one")
            return Plain()
        if isinstance(owner, Method):
            self.fail(node, f".{node.attr} of a method")
            return Plain()
        return self.member(node, owner, node.attr)

    def member(self, node: ast.AST, owner: Any, name: str) -> Any:
        """The kind of `owner.name`; a failure where there is no such name."""
        self.followed.add(id(node))
        value = self.trt if isinstance(owner, Module) else owner.value
        told = name if isinstance(owner, Module) else f"{value.__name__}.{name}"
        self.checked.add(told)
        if not hasattr(value, name):
            self.fail(node, f"TensorRT {self.trt.__version__} has no {told}")
            return Plain()
        entry = getattr(value, name)
        if isinstance(entry, type):
            return Class(entry)
        if isinstance(entry, property):
            return self.returned((entry.fget.__doc__ or "").strip().rpartition("-> ")[2], told)
        if callable(entry) and not isinstance(owner, Module):
            return Method(value, name)
        return Instance(type(entry)) if type(entry).__module__.startswith("tensorrt") else Plain()

    def call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        for argument in node.args:
            self.expression(argument.value if isinstance(argument, ast.Starred) else argument, scope)
        for keyword in node.keywords:
            self.expression(keyword.value, scope)
        if isinstance(node.func, ast.Name) and isinstance(scope.get(node.func.id), (type(None), Plain)):
            if node.func.id in LOADERS:
                return Module()
            ours = self.functions.get(node.func.id)
            return (self.annotated(ours.returns) if ours is not None else None) or Plain()
        kind = self.expression(node.func, scope)
        if isinstance(kind, Class):
            self.arguments(node, kind.value.__init__, kind.value.__name__)
            return Instance(kind.value)
        if isinstance(kind, Method):
            function = getattr(kind.owner, kind.name)
            told = f"{kind.owner.__name__}.{kind.name}"
            unbound = kind.name == "__init__"
            fitting = self.arguments(node, function, told, skipped=1 if unbound else 0)
            return self.returned(fitting.returns, told) if fitting is not None else Plain()
        return Plain()

    def arguments(self, node: ast.Call, function: Any, told: str, *, skipped: int = 0) -> Signature | None:
        """The overload that takes these arguments; a failure where there is none."""
        given = len(node.args) - skipped
        names = [keyword.arg for keyword in node.keywords]
        known = signatures(function)
        for each in known:
            rest = each.names[given:]
            needed = [name for name in rest if each.names.index(name) < each.required]
            if given <= len(each.names) and set(names) <= set(rest) and set(needed) <= set(names):
                return each
        if known:
            self.fail(node, f"{told} takes {[each.names for each in known]}, given {given} and {names}")
        return None

    def returned(self, text: str, told: str) -> Any:
        """The kind that a docstring's return type names."""
        name = CPP_NAMES.get(text, text.rpartition(".")[2])
        if isinstance(getattr(self.trt, name, None), type):
            return Instance(getattr(self.trt, name))
        if PLAIN_TYPES.match(text):
            return Plain()
        return Plain(untold=f"{told}, which returns {text!r}")


def check_fake(trt: Any, fake: Any) -> tuple[list[str], int]:
    """Names, members and parameters of the fake that the real bindings lack; and how many were compared."""
    wrong, count = [], 0
    for name, value in public(vars(fake).items()):
        count += 1
        if not hasattr(trt, name):
            wrong.append(f"the fake has {name}, TensorRT {trt.__version__} has not")
        elif isinstance(value, type):
            below, more = check_fake_class(getattr(trt, name), value, name)
            wrong, count = wrong + below, count + more
    return wrong, count


def check_fake_class(real: Any, value: type, told: str) -> tuple[list[str], int]:
    wrong, count = [], 0
    for name, entry in public(vars(value).items()):
        count += 1
        if not hasattr(real, name):
            wrong.append(f"the fake has {told}.{name}, the real one has not")
        elif isinstance(entry, type):
            below, more = check_fake_class(getattr(real, name), entry, f"{told}.{name}")
            wrong, count = wrong + below, count + more
        elif isinstance(entry, property) != isinstance(getattr(real, name), property) and callable(entry):
            wrong.append(f"{told}.{name} is a property in one and a method in the other")
        elif callable(entry) and hasattr(entry, "__code__"):
            names = list(entry.__code__.co_varnames[1 : entry.__code__.co_argcount])
            known = [each.names for each in signatures(getattr(real, name))]
            if known and not any(each[: len(names)] == names for each in known):
                wrong.append(f"the fake's {told}.{name}{names}, the real one takes {known}")
    return wrong, count


def public(entries: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in entries if not name.startswith("_") and name != "annotations"]


def main() -> None:
    bindings, fake_name, *files = sys.argv[1:]
    sys.path.insert(0, bindings)
    trt = importlib.import_module(next(name for name in PACKAGES if (Path(bindings) / name).is_dir()))
    checker = Checker(trt)
    checker.run([Path(file) for file in files])
    wrong, compared = check_fake(trt, importlib.import_module(fake_name)) if fake_name else ([], 0)
    print(
        json.dumps(
            {
                "version": trt.__version__,
                "checked": sorted(checker.checked),
                "failures": sorted(set(checker.failures)),
                "fake_failures": wrong,
                "fake_names": compared,
            }
        )
    )


if __name__ == "__main__":
    main()
