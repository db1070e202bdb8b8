"""Every way to leave out a check of `secagg`, found in the source; a mutant leaves out one, in memory.

A check is a call of `require` or `refuse`, a `raise` that names its exception, or a quiet no: `return False`, `return
None`, `None if ... else ...`. Where a condition joins several facts, each of them is a check of its own.
"""

import ast
import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import cotune.secagg

FOLDER = Path(cotune.secagg.__file__).parent
WHOLE = "the whole check"
_NO_CHECKS = ("__init__", "refused")  # `refused` is the function that refuses itself


@dataclass(frozen=True)
class Mutant:
    """One check left out.

    Attributes:
        module: stem of the file. function: qualified name of the outermost function around the check.
        code: of the refusal, or what is raised or returned. text: what the refusal says.
        lacks: WHOLE, or the fact of the condition that is left out. lines: where the mutated code stands.
    """

    module: str
    function: str
    code: str
    text: str
    lacks: str
    lines: range
    tree: ast.Module = field(repr=False, compare=False)
    node: ast.AST = field(repr=False, compare=False)
    instead: ast.AST = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Stable as long as the check is: no line number."""
        return f"{self.module}.{self.function}: {self.text}: {self.lacks}"

    @property
    def places(self) -> frozenset[tuple[str, int]]:
        """(module, line) of each line that changes."""
        return frozenset((self.module, line) for line in self.lines)

    @property
    def path(self) -> Path:
        """The file."""
        return FOLDER / f"{self.module}.py"


def find(path: Path) -> list[Mutant]:
    """Every mutant of a module, in the order of the source."""
    tree = ast.parse(path.read_text())
    found: list[Mutant] = []
    for function, qualified in _functions(tree):
        for check in _checks(function):
            for node, instead, lacks in check.changes(function):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)  # type: ignore[attr-defined]
                found.append(Mutant(path.stem, qualified, check.code, check.text, lacks, lines, tree, node, instead))
    return sorted(found, key=lambda mutant: mutant.lines.start)


def find_all(folder: Path = FOLDER) -> list[Mutant]:
    """Every mutant of the room."""
    return [mutant for path in sorted(folder.glob("*.py")) if path.stem not in _NO_CHECKS for mutant in find(path)]


def _functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Functions of the module and methods of its classes; what is nested in them belongs to them."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node, node.name
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield inner, f"{node.name}.{inner.name}"


Change = tuple[ast.AST, ast.AST, str]


@dataclass(frozen=True)
class _Check:
    """A check: the node to take out, and the condition under which the code goes on (`held`) or says no."""

    code: str
    text: str
    node: ast.AST | None
    instead: ast.AST
    condition: ast.expr | None
    held: bool

    def changes(self, function: ast.FunctionDef) -> Iterator[Change]:
        """What can be left out."""
        if self.node is not None:
            yield self.node, self.instead, WHOLE
        if self.condition is not None:
            yield from _facts(self.condition, self.held, function)


def _checks(function: ast.FunctionDef) -> Iterator[_Check]:
    conditions = {
        id(inner): node.test for node in ast.walk(function) if isinstance(node, ast.If) for inner in node.body
    }
    for node in ast.walk(function):
        condition = conditions.get(id(node))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            arguments = node.value.args
            if node.value.func.id == "require":
                yield _Check(_said(arguments[1]), _said(arguments[2]), node, ast.Pass(), arguments[0], True)
            elif node.value.func.id == "refuse":
                yield _Check(_said(arguments[0]), _said(arguments[1]), node, ast.Pass(), condition, False)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            text = _said(node.exc.args[0])
            yield _Check(ast.unparse(node.exc.func), text, node, ast.Pass(), condition, False)
        elif isinstance(node, ast.Return) and _says_no(node.value) and node is not function.body[-1]:
            yield _Check(ast.unparse(node), _about(function), node, ast.Pass(), condition, False)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.IfExp):
            if _says_no(node.value.body):
                yield _Check("None", _about(function), node.value, node.value.orelse, node.value.test, False)
            elif _says_no(node.value.orelse):
                yield _Check("None", _about(function), node.value, node.value.body, node.value.test, True)
        elif isinstance(node, ast.Return) and _is_bool(function) and node.value is not None:
            yield _Check("return False", _about(function), None, node, node.value, True)


def _is_bool(function: ast.FunctionDef) -> bool:
    return isinstance(function.returns, ast.Name) and function.returns.id == "bool"


def _says_no(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def _about(function: ast.FunctionDef) -> str:
    return (ast.get_docstring(function) or "").split("\n")[0]


def _said(node: ast.expr) -> str:
    """A text as it stands in the source, placeholders in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.FormattedValue) else part for part in node.values)
        return "".join(_said(p) if isinstance(p, ast.Constant) else "{" + ast.unparse(p) + "}" for p in parts)
    return f"{{{ast.unparse(node)}}}"


def _facts(node: ast.expr, held: bool, function: ast.FunctionDef) -> Iterator[Change]:
    """The facts that a condition joins, each replaced by what makes it not matter.

    Args:
        held: whether the condition must be true for the code to go on; else it must be false.
    """
    if isinstance(node, ast.BoolOp):
        for operand in node.values:
            if isinstance(node.op, ast.And) == held:
                yield operand, ast.Constant(held), ast.unparse(operand)
            yield from _facts(operand, held, function)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _facts(node.operand, not held, function)
    elif isinstance(node, ast.Compare) and held:
        yield from _links(node)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("all", "any", "bool"):
        if isinstance(node.args[0], ast.GeneratorExp):
            yield from _facts(node.args[0].elt, held, function)
        else:
            yield from _facts(node.args[0], held, function)
    elif isinstance(node, ast.Name):
        assigned = [
            other.value
            for other in ast.walk(function)
            if isinstance(other, ast.Assign) and other.lineno < node.lineno
            if isinstance(other.targets[0], ast.Name) and other.targets[0].id == node.id
        ]
        if assigned:
            yield from _facts(max(assigned, key=lambda value: value.lineno), held, function)


def _links(node: ast.Compare) -> Iterator[Change]:
    """Each link of a chain (a <= b <= c), and each place of a tuple that must be equal to another."""
    operands = [node.left, *node.comparators]
    links = [
        ast.Compare(left, [op], [right]) for left, op, right in zip(operands[:-1], node.ops, operands[1:], strict=True)
    ]
    for number, link in enumerate(links if len(links) > 1 else []):
        others = links[:number] + links[number + 1 :]
        yield node, others[0] if len(others) == 1 else ast.BoolOp(ast.And(), list(others)), ast.unparse(link)
    right = node.comparators[0]
    if len(links) == 1 and isinstance(node.ops[0], ast.Eq) and isinstance(right, ast.Tuple) and len(right.elts) > 1:
        for number, element in enumerate(right.elts):
            same = ast.Subscript(node.left, ast.Constant(number), ast.Load())
            yield element, same, f"{ast.unparse(node)}, place {number}"


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Run with one check left out: the code of the loaded function is exchanged, so whoever holds it runs it."""
    memo: dict[int, object] = {}
    tree = copy.deepcopy(mutant.tree, memo)
    changed = ast.fix_missing_locations(_Exchange(memo[id(mutant.node)], copy.deepcopy(mutant.instead)).visit(tree))
    module = compile(changed, str(mutant.path), "exec")
    [code] = [code for code in _codes(module) if code.co_qualname == mutant.function]
    function = _loaded(mutant)
    before = function.__code__
    try:
        function.__code__ = code
        yield
    finally:
        function.__code__ = before


def _loaded(mutant: Mutant) -> FunctionType:
    """The function as it is loaded, out of its decorators."""
    found: Any = importlib.import_module(f"cotune.secagg.{mutant.module}")
    for name in mutant.function.split("."):
        found = vars(found)[name]
    while not isinstance(found, FunctionType) or hasattr(found, "__wrapped__"):
        found = next(
            getattr(found, name) for name in ("__wrapped__", "__func__", "fget", "func") if hasattr(found, name)
        )
    return found


class _Exchange(ast.NodeTransformer):
    """Put one node in the place of another."""

    def __init__(self, old: object, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.old:
            return ast.copy_location(self.new, node)
        return self.generic_visit(node)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)
