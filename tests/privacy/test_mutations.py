"""The gate's tests would notice: each place of the gate's code is changed in turn, and each change must make one of
``test_gate``'s functions fail.

A child of this process imports the gate with one change in it, then calls the functions. What the child finds is its
exit code.
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

# The gate's files; of the last one what the others use, as the rest is not its.
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
    """What may stand in a node's place to another effect."""
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
    elif isinstance(node, (ast.Return, ast.Raise, ast.If)) and not _says_none(node):
        yield ast.Pass()


def _says_none(node: ast.stmt) -> bool:
    """A ``return None``: the function's end says the same."""
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


class Spots(ast.NodeVisitor):
    """The places that can be changed: not what is said to a person or to the type checker."""

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
            return  # the documentation's words, which test_domains holds
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
        self.found.append(node)
        super().generic_visit(node)


def spots(tree: ast.Module, names: tuple[str, ...]) -> list[ast.AST]:
    """In the definitions of these names; in all where none are given."""
    found = Spots()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        if not names or any(getattr(one, "id", getattr(one, "name", "")) in names for one in targets):
            found.visit(node)
    return found.found


class Change(ast.NodeTransformer):
    def __init__(self, spot: ast.AST, put: ast.AST) -> None:
        self._spot, self._put = spot, put

    def visit(self, node: ast.AST) -> Any:
        return self._put if node is self._spot else super().visit(node)


def mutants(name: str) -> Iterator[tuple[str, str]]:
    """Each mutant's label and source."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        source = file.read()
    for number, spot in enumerate(spots(ast.parse(source), GATE[name])):
        for put in changes(spot):
            again = ast.parse(source)
            changed = ast.fix_missing_locations(Change(spots(again, GATE[name])[number], put).visit(again))
            line = source.splitlines()[getattr(spot, "lineno", 1) - 1].strip()
            before, after = (ast.unparse(node).partition("\n")[0] for node in (spot, put))
            yield f"{line}: {before} -> {after}", ast.unparse(changed)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module with another source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._name, "exec"), module.__dict__)


def verdict(name: str, source: str) -> int:
    """Of the functions on one mutant, in a child that has nothing of the sidecar loaded yet."""
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
        except BaseException:  # noqa: BLE001 (whatever it is, the mutant did not pass)
            pass
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_is_not_changed_passes() -> None:
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
