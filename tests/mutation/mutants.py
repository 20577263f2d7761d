"""Small faults that could stand in a module: another comparison, sign, connective, number or branch."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.And: ast.Or, ast.Or: ast.And},
}


class Mutant(NamedTuple):
    """One fault in one module."""

    line: int
    before: str
    after: str
    tree: ast.Module


def count(source: str) -> int:
    """The number of faults that fit into a module's source. Types, texts and names stay as they are, and so does
    ``strict=`` of ``zip``: it asserts what never fails.
    """
    return len(list(_sites(ast.parse(source))))


def mutant(source: str, number: int) -> Mutant:
    """One of them, counted from 0."""
    tree = ast.parse(source)
    node, change = list(_sites(tree))[number]
    before = _shown(node)
    change()
    return Mutant(node.lineno, before, _shown(node), ast.fix_missing_locations(tree))


def _shown(node: ast.expr | ast.stmt) -> str:
    return f"if {ast.unparse(node.test)}" if isinstance(node, (ast.If, ast.IfExp)) else ast.unparse(node)


def _sites(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, Callable[[], None]]]:
    """Sites for faults: the expression or statement, and the function that plants the fault."""
    kept = {id(inner) for node in ast.walk(tree) for part in _untouched(node) for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in kept:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            yield node, lambda node=node: node.ops.__setitem__(0, SWAPPED[type(node.ops[0])]())
        elif isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPPED:
            if not any(isinstance(inner, ast.JoinedStr) or _is_text(inner) for inner in ast.iter_child_nodes(node)):
                yield node, lambda node=node: setattr(node, "op", SWAPPED[type(node.op)]())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            other = ast.UAdd if isinstance(node.op, ast.USub) else None
            yield node, lambda node=node, other=other: _without(node, other)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            yield node, lambda node=node, value=value: setattr(node, "value", value)
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield node, lambda node=node: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))


def _without(node: ast.UnaryOp, other: type[ast.unaryop] | None) -> None:
    if other is None:  # not x: not not x
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    else:
        node.op = other()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _untouched(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.keyword) and node.arg == "strict":
        yield node.value
    for name in ("annotation", "returns"):
        if isinstance(found := getattr(node, name, None), ast.AST):
            yield found
