"""Checks of tensors while tests run, by jaxtyping's import hook: shapes, element types, and that axes of one name have
one length in all arguments, results and dataclass fields.

Other arguments stay free, since tests pass wrong ones on purpose, to see them refused in one clear line. Methods are
left out: Lightning reads their settings from the frame of ``__init__``, which the hook would wrap.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TypeVar

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook

F = TypeVar("F", bound=Callable)
PACKAGES = ("losses", "datamodules", "eval", "lightning_modules.networks", "lightning_modules.inference")
_NAMES_A_TENSOR = re.compile(r"\b(Tensor|Scalar|Slice)\b")  # the last two are aliases


def install() -> None:
    """Check the functions of ``PACKAGES``, from their import on."""
    vars(_import_hook)["JaxtypingTransformer"] = _WithTensorsOnly
    jaxtyping.install_import_hook(PACKAGES, "tests.helpers.shape_checker.check_shapes")


def check_shapes(function: F) -> F:
    """``function`` with beartype on those annotations that name a tensor."""
    annotations = getattr(function, "__annotations__", None)
    if annotations:
        function.__annotations__ = {name: kind for name, kind in annotations.items() if "Tensor" in str(kind)}
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


class _WithTensorsOnly(_import_hook.JaxtypingTransformer):
    """Leaves functions without a tensor as they are: the hook would bind the arguments of each call, a quarter of the
    time of all tests.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        kinds = [node.returns, *(argument.annotation for argument in arguments if argument is not None)]
        if any(kind is not None and _NAMES_A_TENSOR.search(ast.unparse(kind)) for kind in kinds):
            return super().visit_FunctionDef(node)
        self.generic_visit(node)
        return node
