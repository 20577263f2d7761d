"""Messages of libraries in one line: the setting's whole name, the rule, the value, the nearest name."""

from __future__ import annotations

import pytest
from jsonargparse import Namespace

from lightning_modules import BetaClip, Method
from lightning_modules.cli.parser_errors import first_sentence, named, one_line, shortened, unknown
from lightning_modules.cli.setting_names import class_settings, flat

KNOWN = ["model", "data.batch_size", "data.shards", "trainer.max_steps", "trainer.max_epochs", "model.optim.lr"]
UNION = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning_modules.methods.base.Method'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning_modules.BetaClip':
        {}
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='beta', val='x')"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            UNION.format("Option 'betta' is not accepted"),
            "model.betta: BetaClip has no such setting; did you mean beta?",
        ),
        (
            UNION.format("unrecognized arguments: --encoder.image_widht=3"),
            "model.encoder.image_widht: encoder has no such setting; did you mean image_width?",
        ),
        (
            UNION.format("Parser key \"beta\":\n          Expected a <class 'float'>. Got value: x"),
            "model.beta must be a number, got 'x'",
        ),
        (
            UNION.format("Parser key \"objective\":\n          Expected a typing.Literal['ce', 'bce']. Got value: mse"),
            "model.objective must be one of ce, bce, got 'mse'",
        ),
        ("Parser key \"trainer.max_steps\": Expected a <class 'int'>. Got value: x",) * 1
        + ("trainer.max_steps must be a whole number, got 'x'",),
        (
            "unrecognized arguments: --data.batchsize 3",
            "data.batchsize: no such setting; did you mean data.batch_size?",
        ),
        ("unrecognized arguments: --batch_size=3", "batch_size: no such setting; did you mean data.batch_size?"),
        ("unrecognized arguments: three", "what is 'three' for? Settings begin with --"),
        (
            "Subcommand 'fit' does not accept option 'modle.class_path'",
            "modle: no such setting; did you mean model?",
        ),
        ("argument -c/--config: expected one argument", "--config needs a value"),
        ("quite another message\n  in two lines", "quite another message in two lines"),
    ],
)
def test_the_parsers_messages(message, line):
    assert one_line(message, KNOWN)[1] == line


def test_types_that_a_setting_may_have():
    message = """Parser key "trainer.limit_val_batches":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'float'>, <class 'NoneType'>]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'float'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: x"""
    assert one_line(message)[1] == "trainer.limit_val_batches must be a number or null, got 'x'"


def test_a_long_list_of_choices_does_not_hide_the_value():
    names = ", ".join(repr(f"choice-{n}") for n in range(20))
    message = f'Parser key "a.b": Expected a typing.Literal[{names}]. Got value: '
    assert one_line(message + "chioce-3")[1] == "a.b cannot be 'chioce-3'; did you mean choice-3?"
    line = shortened(one_line(message + "zzz")[1])
    assert line.startswith("a.b cannot be 'zzz'; it must be one of choice-0")
    assert len(line) <= 200 - len("lightning: error: ")


def test_names_of_rules_become_whole():
    optim = Namespace(lr=-1.0, final_lr_ratio=0.1)
    settings = Namespace(
        model=Namespace(class_path="a.B", init_args=Namespace(beta=1.5, size=8, optim=optim)),
        data=Namespace(size=8, shards="none"),
        trainer=Namespace(callbacks=[Namespace(class_path="a.C", init_args=Namespace(decay=2))], lr=3),
    )
    values = dict(flat(settings))
    assert named("beta must lie in [0, 1], got 1.5", values) == ("model.beta", "model.beta must lie in [0, 1], got 1.5")
    assert named("optim.lr must be 0 or more, got -1.0", values)[0] == "model.optim.lr"
    assert named("lr must be 0 or more, got -1.0", values)[0] == "model.optim.lr"  # not trainer.lr, which is 3
    assert named("size must be a multiple of 3, got 8", values)[0] == "model.size"  # data's follows it
    assert named("decay must be below 1, got 2", values)[0] == "trainer.callbacks.decay"
    assert named("none does not exist", values) == ("data.shards", "data.shards: none does not exist")
    assert named("nothing that is set", values) == ("", "nothing that is set")


def test_near_and_far_names():
    assert issubclass(BetaClip, Method)  # imported, so that it is known
    known = [*KNOWN, *class_settings(Method, "model")]
    assert unknown("beta", known).rule == ": no such setting; did you mean model.beta?"
    assert unknown("trainer.max_step", known).rule == ": no such setting; did you mean trainer.max_steps?"
    assert "--help` lists them" in unknown("zzzz", known).rule
    assert unknown("data.qqqq", known).key == "data.qqqq"


def test_the_first_sentence_is_enough():
    told = "`Trainer(x='3.5')` is wrong. Read the documentation, e.g. here. And so on."
    assert first_sentence(told) == "Trainer(x='3.5') is wrong"


def test_a_class_that_is_no_method_and_help_on_none():
    message = UNION.replace("Given value: NestedArg(key='beta', val='x')", "Given value: torch.nn.Linear").replace(
        "Problem with given class_path 'lightning_modules.BetaClip':\n        {}",
        "Import path does not correspond to a subclass of Method",
    )
    assert one_line(message)[1] == "model: torch.nn.Linear is no Method"
    told = one_line("--model.help: Expected a dot import path string: BetaClpi", classes=["BetaClip"])[1]
    assert told == "--model.help: no class 'BetaClpi'; did you mean BetaClip?"
