from __future__ import annotations

import ast

import pytest

from tests.mutation.mutants import count, mutant


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = a < b", ["x = a <= b"]),
        ("x = a @ b + c", ["x = a @ b - c"]),
        ("x = a and b or c", ["x = (a and b) and c", "x = (a or b) or c"]),
        ("x = -y", ["x = +y"]),
        ("x = not y", ["x = not not y"]),
        ("x: Float[Tensor, 'a 3'] = 2", ["x: Float[Tensor, 'a 3'] = 3"]),
        ("def f(x: int | None = None, y=True) -> int | None: ...", ["y=False"]),
        ("x = 1 if y else z", ["x = 1 if not y else z", "x = 2 if y else z"]),
        ("x += y", ["x -= y"]),
        ("x = 'a' + b\n'a docstring 3'", []),
        ("x = zip(a, b, strict=True)", []),
    ],
)
def test_faults_one_at_a_time(source, found):
    made = [mutant(source, number) for number in range(count(source))]
    assert len(made) == len(found)
    for one, wanted in zip(made, found, strict=True):
        changed = ast.unparse(one.tree)
        assert wanted in changed
        assert changed != ast.unparse(ast.parse(source))
        assert one.before != one.after
