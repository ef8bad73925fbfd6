"""Mutation tests of the gate: each change of one node of the gate's code must make a function of ``test_gate`` fail.

A forked child imports the gate with one change and calls the functions. Its exit code is the verdict.
"""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

# The gate's modules, each with the names to be changed. An empty tuple means every name. Only these names of the last
# module belong to the gate.
GATE: dict[str, tuple[str, ...]] = {
    "brakit_sidecar.core.payload": (),
    "brakit_sidecar.core.domains": (),
    "brakit_sidecar.core.limits": ("COUNT_MAX", "MAX_DURATION_MS", "BUCKETS", "admit_duration"),
}
TESTS = "tests.privacy.test_gate"
SURVIVED, KILLED, BROKEN = 0, 1, 2

_OTHER: dict[type[ast.AST], Any] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield replacements for the node that have another effect."""
    if isinstance(node, ast.Compare):
        for position, operator in enumerate(node.ops):
            compared = copy.deepcopy(node)
            compared.ops[position] = _OTHER[type(operator)]()
            yield compared
    elif isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in _OTHER:
        changed = copy.deepcopy(node)
        changed.op = _OTHER[type(node.op)]()
        yield changed
        if isinstance(node, ast.BoolOp):
            yield from map(copy.deepcopy, node.values)
    elif isinstance(node, ast.IfExp):
        yield copy.deepcopy(node.body)
        yield copy.deepcopy(node.orelse)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_constants(node.value))
    elif isinstance(node, (ast.Return, ast.Raise, ast.If)) and not _returns_none(node):
        yield ast.Pass()


def _returns_none(node: ast.stmt) -> bool:
    """Return whether this is ``return None``, whose removal changes nothing at a function's end."""
    return isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is None


def _other_constants(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value - 1, value + 1]
    if isinstance(value, float):
        return [value / 2]
    if isinstance(value, str):
        return [value + "x", value[1:]] if value else ["x"]
    return []


class Nodes(ast.NodeVisitor):
    """The nodes that can be changed. Texts for people and annotations for the type checker are left out."""

    def __init__(self) -> None:
        self.found: list[ast.AST] = []

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, (ast.AnnAssign, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("text", "self.text"):
            return  # a text for the documentation, which test_domains checks
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
        self.found.append(node)
        super().generic_visit(node)


def mutable_nodes(tree: ast.Module, names: tuple[str, ...]) -> list[ast.AST]:
    """Return the nodes in the definitions of these names, or in the whole module if there are no names."""
    found = Nodes()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        if not names or any(getattr(target, "id", getattr(target, "name", "")) in names for target in targets):
            found.visit(node)
    return found.found


class Change(ast.NodeTransformer):
    """Replace one node."""

    def __init__(self, node: ast.AST, replacement: ast.AST) -> None:
        self._node, self._replacement = node, replacement

    def visit(self, node: ast.AST) -> Any:
        return self._replacement if node is self._node else super().visit(node)


def mutants(name: str) -> Iterator[tuple[str, str]]:
    """Yield each mutant of the module as a label and the source."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        source = file.read()
    for number, node in enumerate(mutable_nodes(ast.parse(source), GATE[name])):
        for replacement in changes(node):
            tree = ast.parse(source)
            changed = ast.fix_missing_locations(
                Change(mutable_nodes(tree, GATE[name])[number], replacement).visit(tree)
            )
            line = source.splitlines()[getattr(node, "lineno", 1) - 1].strip()
            before, after = (ast.unparse(shown).partition("\n")[0] for shown in (node, replacement))
            yield f"{line}: {before} -> {after}", ast.unparse(changed)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """A finder and loader that gives one module another source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._name, "exec"), module.__dict__)


def verdict(name: str, source: str) -> int:
    """Run the functions on one mutant, in a child that has not yet loaded the package, and return its exit code."""
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            for loaded in [module for module in sys.modules if module.partition(".")[0] in ("brakit_sidecar", "tests")]:
                del sys.modules[loaded]
            sys.meta_path.insert(0, Mutated(name, source))
            code = KILLED
            tests = importlib.import_module(TESTS)
            for named, test in list(vars(tests).items()):
                if named.startswith("test_"):
                    test()
            code = SURVIVED
        except BaseException:  # noqa: BLE001 (any exception shows that the mutant did not survive)
            pass
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_unchanged_gate_passes() -> None:
    for name in GATE:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        with open(spec.origin, encoding="utf-8") as file:
            assert verdict(name, ast.unparse(ast.parse(file.read()))) == SURVIVED


@pytest.mark.slow
@pytest.mark.parametrize("name", GATE)
def test_every_mutant_of_the_gate_is_killed(name: str) -> None:
    found = list(mutants(name))
    assert len(found) > 25
    survived = [label for label, source in found if verdict(name, source) != KILLED]
    assert survived == []
