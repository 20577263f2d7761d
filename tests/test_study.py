"""The mini-study: rows name fields that exist, finished runs stay, and the tables say what the runs gave."""

from __future__ import annotations

import json
import sys
from functools import reduce

import pytest
import yaml
from matplotlib.text import Text

from lightning_modules.cli.main import main
from tests.study import publish, record, run, training
from tests.study import rows as study
from tests.study.figures import draw
from tests.study.record import Record, from_json, kept
from tests.study.rows import Run, Study, all_studies, read_study, studies_of_scenes, words
from tests.study.run import _fine_tuned
from tests.study.tables import claims_table, results_table, section, values, verdict
from tests.study.training import fine_tune, fit, step_cost

PROGRAM = """
import json, pathlib, sys
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
if words[0] == "measure":
    model = pathlib.Path(words[5])  # after --split and --seed and their values
    run = model.parent.parent / "run.json"
    numbers = json.loads(run.read_text()) if run.is_file() else {"R@1": 0.7, "weight": 0}
    pathlib.Path(value("--out")).write_text(json.dumps({"numbers": numbers}))
    sys.exit()
if words[0] in ("prepare", "evaluate"):
    out = pathlib.Path(value("--out"))
    if words[0] == "prepare":
        out.mkdir(), (out / "manifest.json").touch()
    else:
        out.write_text(json.dumps({"numbers": {f"{name}/R@1": 0.3 for name in value("--benchmark").split(",")}}))
    sys.exit()
folder = pathlib.Path(value("--runs"), value("--name"))
if "--fail" in words:
    sys.exit("this went wrong")
numbers = {"R@1": float(value("--seed_everything")) / 10, "weight": float(value("--weight"))}
if "tests.study.step_cost.StepCost" in words:
    (folder / "cost.json").write_text(json.dumps({"seconds_of_a_step": 1 + float(value("--weight"))}))
    sys.exit()
(folder / "run.json").write_text(json.dumps(numbers))
"""
real = training._run
SEARCHES = sorted(f"search/{file.stem}" for file in (study.STUDIES / "search").glob("*.yaml"))
TINY = Study(
    name="tiny",
    start="first",
    config="method.yaml",
    settings={"epochs": 1},
    rows={"a": {"weight": 0.5}, "+ b": {"weight": 1}},
    columns={"R@1": "R@1"},
    claims={},
    figures={"a.svg": {"title": "a and b", "across": ["R@1", "R@1"]}},
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A trainer that only writes what it was asked for; the folder where it works."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "method.yaml").write_text("first: 1\n")
    monkeypatch.setattr(training, "PROGRAM", (sys.executable, str(tmp_path / "program.py")))
    monkeypatch.setattr(training, "MEASURE", (*training.PROGRAM, "measure"))
    for module in (record, training):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", all_studies())
def test_every_row_sets_fields_that_exist(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    found = read_study(name)
    asked = [(Run(found, row, 0).configs(), Run(found, row, 0).fields()) for row in found.rows]
    configs = {}
    for files in {tuple(files) for files, _ in asked}:
        with pytest.raises(SystemExit):
            main(["fit", *(word for file in files for word in ("--config", str(study.ROOT / file))), "--print_config"])
        configs[files] = yaml.safe_load(capsys.readouterr().out)
    for files, fields in asked:
        for field in fields:
            reduce(lambda node, key: node[key], field.split("."), configs[tuple(files)])
        assert found.start is None or configs[tuple(files)]["model"]["init_args"]["pretrained"] == found.start
    assert all(one != other for n, one in enumerate(asked) for other in asked[:n])


def test_fields_are_words_of_a_command():
    assert words({"a.b": 1, "c": None, "d": [], "e": "clim"}) == [
        "--a.b",
        "1",
        "--c",
        "null",
        "--d",
        "[]",
        "--e",
        "clim",
    ]


def test_an_unknown_study_is_refused():
    with pytest.raises(FileNotFoundError, match=r"no study 'other'; there are .*mulclip"):
        read_study("other")


def test_a_study_may_be_like_another_on_other_scenes():
    methods, other = read_study("methods"), read_study("scenes_2")
    assert (other.name, other.scenes_seed, other.figures) == ("scenes_2", 2, {})
    assert other._replace(name="methods", scenes_seed=0, figures=methods.figures) == methods


def test_a_finished_run_stays_until_its_command_or_config_changes(program):
    run = Run(TINY, "+ b", 2)
    done = fine_tune(run, program / "out")
    assert done["numbers"] == {"R@1": 0.2, "weight": 1}
    assert run.folder(program / "out").parent == program / "out/trained"
    given = done["command"]
    assert given[given.index("--epochs") + 1] == "1"
    marker = run.folder(program / "out") / "marker"
    marker.touch()
    assert fine_tune(run, program / "out") == done
    assert marker.exists()
    changed = Run(TINY._replace(settings={"epochs": 2}), "+ b", 2)
    assert fine_tune(changed, program / "out")["command"] != done["command"]
    assert changed.folder(program / "out") != run.folder(program / "out")
    (program / "method.yaml").write_text("first: 2\n")
    assert fine_tune(run, program / "out")["configs"] == [{"first": 2}]
    assert not marker.exists()


def test_rows_that_train_alike_are_trained_once_and_measured_on_each_split(program, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "_run", lambda command, *rest: asked.append(command) or real(command, *rest))
    same = TINY._replace(name="same", rows={"c": {"weight": 0.5}}, split="dev")
    studies = [TINY._replace(rows={"a": {"weight": 0.5}}), same, TINY._replace(rows={"a": {"weight": 0.5}})]
    found = _fine_tuned(studies, 1, 3, program / "out")
    assert found == {"tiny": {"a": [{"R@1": 0.0}] * 2}, "same": {"c": [{"R@1": 0.0}]}}
    assert [command[2] for command in asked].count("fit") == 1
    measured = [command[command.index("--split") + 1] for command in asked if "measure" in command]
    assert sorted(measured) == ["dev", "held_out"]


def test_other_scenes_are_trained_and_measured_on(program, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "_run", lambda command, *rest: asked.append(command) or real(command, *rest))
    other = TINY._replace(scenes_seed=2, rows={"a": {"config": "method.yaml", "weight": 1}})
    fine_tune(Run(other, "a", 0), program / "out")
    trained, measured = asked
    assert trained[trained.index("--data.scenes.seed") + 1] == "2"
    assert measured[measured.index("--seed") + 1] == "2"
    assert Run(other, "a", 0).folder(program) != Run(other._replace(scenes_seed=0), "a", 0).folder(program)


def test_a_study_of_photographs_prepares_trains_and_evaluates(program, monkeypatch):
    (program / "studies").mkdir()
    (program / "recipe.yaml").write_text("second: 1\n")
    text = """{start: null, config: method.yaml, recipe: recipe.yaml, benchmarks: [single, joined], settings: {},
      rows: {a: {weight: 0.5}}, columns: {R@1: single/R@1, joined: joined/R@1}, claims: {}, figures: {}}"""
    (program / "studies/photographs.yaml").write_text(text)
    monkeypatch.setattr(study, "STUDIES", program / "studies")
    assert (all_studies(), studies_of_scenes()) == (["photographs"], [])
    asked, out = [], program / "out"
    monkeypatch.setattr(training, "_run", lambda command, *rest: asked.append(command[2:]) or real(command, *rest))
    given = ["run.py", "photographs", "--seeds", "2", "--out", str(out), "--root", str(program)]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", given)
        run.main()
    prepare, *fits_and_evaluations = asked
    assert prepare[:2] == ["prepare", "flickr8k"]
    assert [words[0] for words in fits_and_evaluations].count("fit") == 3  # two seeds, and what a step costs
    fitted = next(words for words in fits_and_evaluations if words[0] == "fit")
    assert fitted[1:5] == ["--config", "method.yaml", "--config", "recipe.yaml"]
    assert fitted[fitted.index("--data.shards") + 1] == str(out / "flickr8k/train")
    evaluated = next(words for words in fits_and_evaluations if words[0] == "evaluate")
    assert evaluated[evaluated.index("--root") + 1] == str(program)
    assert "| a | 30.0 ± 0.0 | 30.0 ± 0.0 | 1.00 |" in (out / "results.md").read_text()
    monkeypatch.setattr(sys, "argv", given[:-2])
    with pytest.raises(SystemExit):
        run.main()


def test_rows_may_train_from_scratch(program):
    alone = TINY._replace(start=None)
    assert training.start_numbers(alone, program / "out") is None
    found = Record(None, {"a": results(0.1), "+ b": results(0.2)}, {"a": 1, "+ b": 1})
    lines = results_table(alone, found).splitlines()
    assert lines[2:] == ["| a | 10.0 | 1.00 |", "| + b | 20.0 | 1.00 |"]
    with pytest.raises(ValueError, match="needs a study with a start"):
        values(alone._replace(columns={"kept": ["R@1"]}), "kept", results(0.1), None)


def test_a_row_may_have_a_config_of_its_own(program):
    rows = {"a": {}, "b": {"config": "other.yaml", "weight": 2}}
    found = TINY._replace(settings={"epochs": 1, "weight": 0}, rows=rows)
    (program / "other.yaml").write_text("second: 1\n")
    one, other = (fine_tune(Run(found, row, 0), program / "out") for row in rows)
    assert (one["command"][2], one["numbers"]["weight"]) == ("method.yaml", 0)
    assert (other["command"][2], other["numbers"]["weight"]) == ("other.yaml", 2)
    assert "--config" not in other["command"][3:]


def test_a_run_that_fails_names_its_log_and_is_done_again(program):
    given = ["--seed_everything", "1", "--weight", "1"]
    with pytest.raises(RuntimeError, match=r"status 1: see .*log.txt"):
        fit(["method.yaml"], program / "x", [*given, "--fail"], threads=1)
    assert "this went wrong" in (program / "x/log.txt").read_text()
    fit(["method.yaml"], program / "x", given, threads=1)
    assert json.loads((program / "x/run.json").read_text())["weight"] == 1


def results(*numbers):
    return [{"R@1": number} for number in numbers]


def test_the_table_has_mean_and_spread_over_seeds():
    found = Record({"R@1": 0.5}, {"a": results(0.1, 0.2, 0.3), "+ b": [{}]}, {"a": 2.0, "+ b": 3.0})
    assert results_table(TINY, found).splitlines() == [
        "| | R@1 | step |",
        "|---|---|---|",
        "| what all start from | 50.0 |  |",
        "| a | 20.0 ± 10.0 | 1.00 |",
        "| + b | – | 1.50 |",
    ]


def test_a_column_may_be_a_share_of_the_start():
    runs, start = [{"up": 0.2, "down": 0.4}, {"up": 0.6, "down": 0.6}], {"up": 0.5, "down": 0.7}
    shares = TINY._replace(columns={"kept": ["up", "down"]})
    assert values(shares, "kept", runs, start) == pytest.approx([50, 100])


@pytest.mark.parametrize(
    ("ours", "theirs", "over", "not_below"),
    [
        ((0.5, 0.5, 0.5), (0.4, 0.4, 0.4), "seen", "seen"),
        ((0.4, 0.4, 0.4), (0.5, 0.5, 0.5), "reversed", "reversed"),
        ((0.4, 0.5, 0.6), (0.45, 0.48, 0.5), "not seen", "not seen"),  # 2.3 ± 6.0: it may be 9.6 below
        ((0.48, 0.49, 0.5), (0.49, 0.5, 0.5), "not seen", "not seen"),  # -0.7 ± 0.7: it may be 2 below
        ((0.497, 0.498, 0.499), (0.5, 0.5, 0.5), "reversed", "seen"),  # -0.2 ± 0.06: below, by less than a point
        # standard errors 1 / sqrt(3) each: twice their root sum of squares is 1.63
        ((0.51, 0.52, 0.53), (0.495, 0.505, 0.515), "not seen", "seen"),
        ((0.51, 0.52, 0.53), (0.493, 0.503, 0.513), "seen", "seen"),
        ((0.493, 0.503, 0.513), (0.51, 0.52, 0.53), "reversed", "not seen"),
    ],
)
def test_what_becomes_of_a_claim(ours, theirs, over, not_below):
    found = Record({"R@1": 0.3}, {"a": results(*ours), "+ b": results(*theirs)}, {})
    for key, wanted in (("over", over), ("not_below", not_below)):
        assert verdict(TINY, {"column": "R@1", "row": "a", key: "+ b"}, found)[0] == wanted
    claimed = TINY._replace(claims={"more is more": {"column": "R@1", "row": "a", "over": "+ b"}})
    assert claims_table(claimed, found).splitlines()[2].startswith(f"| more is more | {over} | R@1 | ")


def test_one_seed_tells_nothing_of_a_claim():
    found = Record(None, {"a": results(0.5), "+ b": results(0.4, 0.4)}, {})
    claim = {"column": "R@1", "row": "a", "over": "+ b"}
    assert verdict(TINY, claim, found) == ("open: one seed", "+10.0")


@pytest.mark.parametrize("name", [*all_studies(), *SEARCHES])
def test_claims_and_figures_name_rows_and_columns(name):
    found = read_study(name)
    other, done = ({c: 0.1 * n for c in found.shown()} for n in (1, 2))
    numbers = Record(None if found.start is None else other, {row: [done, other] for row in found.rows}, {})
    assert len(claims_table(found, numbers).splitlines()) == 2 + len(found.claims)
    for wanted in found.figures.values():
        figure = draw(found, wanted, numbers)
        written = {text.get_text() for text in figure.findobj(Text)}
        assert wanted["title"] in written
        assert {f"{column}, %" for column in wanted.get("across", wanted.get("columns"))} <= written
        assert set(wanted.get("lines", found.rows)) <= written


def test_cost_of_a_step_by_a_short_run(program):
    run_of_b = Run(TINY, "+ b", 0)
    assert step_cost(run_of_b, program / "out") == 2
    (folder,) = (program / "out/cost").iterdir()
    given = json.loads((folder / "study.json").read_text())["command"]
    assert given[given.index("--trainer.max_steps") + 1] == "16"


def test_all_of_it(program, monkeypatch, capsys):
    (program / "studies").mkdir()
    text = yaml.safe_dump({key: value for key, value in TINY._asdict().items() if key != "name"}, sort_keys=False)
    (program / "studies/tiny.yaml").write_text(text)
    monkeypatch.setattr(study, "STUDIES", program / "studies")
    monkeypatch.setattr(sys, "argv", ["run.py", "tiny", "--seeds", "2", "--jobs", "2", "--out", str(program / "out")])
    run.main()
    assert "4/4  tiny, + b, seed 1" in capsys.readouterr().out
    assert "| what all start from | 70.0 |  |" in (program / "out/results.md").read_text()
    assert "| a | 5.0 ± 7.1 | 1.00 |" in (program / "out/results.md").read_text()
    assert b"<svg" in (program / "out/a.svg").read_bytes()
    found = json.loads((program / "out/results.json").read_text())
    assert [numbers["R@1"] for numbers in found["tiny"]["rows"]["+ b"]["seeds"]] == [0, 0.1]


def test_results_are_taken_over_into_the_page(program, monkeypatch):
    monkeypatch.setattr(study, "STUDIES", program)
    monkeypatch.setattr(publish, "read_study", lambda name: TINY)
    (program / "README.md").write_text("before\n<!-- study: tiny -->\n<!-- end of study -->\nafter\n")
    (program / "a.svg").write_text("<svg/>")
    taken = Record(
        kept(TINY, {"R@1": 0.123456, "R@5": 1}), {"a": results(0.1), "+ b": results(0.2)}, {"a": 1, "+ b": 2}
    )
    publish.publish([(TINY, taken)], program)
    shown = section(TINY, taken, "results/")
    assert "![a and b](results/a.svg)" in shown
    text = (program / "README.md").read_text()
    assert text == f"before\n<!-- study: tiny -->\n\n{shown}\n\n<!-- end of study -->\nafter\n"
    assert publish.filled(program / "README.md") == text
    assert (program / "results/a.svg").read_text() == "<svg/>"
    known = json.loads((program / "results/results.json").read_text())["tiny"]
    assert from_json(TINY, known) == taken
    for changed in (TINY._replace(settings={"epochs": 2}), TINY._replace(start=None), TINY._replace(rows={"a": {}})):
        with pytest.raises(ValueError, match="tiny has other rows, fields or another start than its results"):
            from_json(changed, known)


def test_what_is_published_is_not_trained_again(program, monkeypatch):
    (program / "studies").mkdir()
    monkeypatch.setattr(study, "STUDIES", program / "studies")
    fields = {key: value for key, value in TINY._asdict().items() if key not in ("name", "figures")}
    fields["columns"] = {"R@1": "R@1", "weight": "weight"}
    alike = {"rows": {"c": {"weight": 0.5}, "d": {"weight": 2}}, "columns": {"R@1": "R@1"}, "figures": {}}
    pages = "".join(f"<!-- study: {name} -->\n<!-- end of study -->\n" for name in ("tiny", "alike"))
    (program / "studies/README.md").write_text(pages)

    def start(*given):
        (program / "studies/tiny.yaml").write_text(yaml.safe_dump(fields | {"figures": {}}, sort_keys=False))
        (program / "studies/alike.yaml").write_text(yaml.safe_dump(fields | alike, sort_keys=False))
        out = program / f"out{len(list(program.glob('out*')))}"  # another machine's
        monkeypatch.setattr(sys, "argv", ["run.py", *given, "--publish", "--jobs", "1", "--out", str(out)])
        run.main()
        known = json.loads((program / "studies/results/results.json").read_text())
        seeds = {row: [one["R@1"] for one in own["seeds"]] for row, own in known[given[0]]["rows"].items()}
        folders = (out / "trained").glob("*/run.json")
        trained = sorted((one["weight"], one["R@1"]) for one in map(json.loads, (f.read_text() for f in folders)))
        return seeds, trained

    assert start("tiny", "--seeds", "1") == ({"a": [0], "+ b": [0]}, [(0.5, 0), (1, 0)])
    assert start("tiny", "--seeds", "2", "--add") == ({"a": [0, 0.1], "+ b": [0, 0.1]}, [(0.5, 0.1), (1, 0.1)])
    # "c" trains like "a"; "alike" shows less than "tiny", which cannot take its numbers
    assert start("alike", "--seeds", "2", "--add") == ({"c": [0, 0.1], "d": [0, 0.1]}, [(2, 0), (2, 0.1)])
    fields["rows"] = fields["rows"] | {"d": {"weight": 2}}
    assert start("tiny", "--seeds", "2", "--add")[1] == [(2, 0), (2, 0.1)]
    (program / "method.yaml").write_text("first: 1 # the same\n")
    assert start("tiny", "--seeds", "2", "--add")[1] == []
    (program / "method.yaml").write_text("first: 2\n")
    assert len(start("tiny", "--seeds", "2", "--add")[1]) == 6
    assert len(start("tiny", "--seeds", "2")[1]) == 6


@pytest.mark.parametrize(("folder", "names"), [(study.STUDIES, all_studies()), (study.STUDIES / "search", SEARCHES)])
def test_the_page_shows_the_results_that_are_kept(folder, names):
    page, results = folder / "README.md", folder / publish.RESULTS
    text = page.read_text(encoding="utf-8")
    assert {block[2] for block in publish.BLOCK.finditer(text)} == set(names)
    assert publish.filled(page) == text
    known = json.loads(results.read_text(encoding="utf-8"))
    assert known.keys() <= set(names)
    for name in known:
        for figure in read_study(name).figures:
            assert b"<svg" in (results.parent / figure).read_bytes()


def test_a_study_that_was_not_run_says_so(program, monkeypatch):
    monkeypatch.setattr(publish, "read_study", lambda name: TINY)
    block, page = "<!-- study: tiny -->\n{}<!-- end of study -->\n", program / "README.md"
    page.write_text(block.format("old"))
    assert publish.filled(page) == block.format("\nNot run yet: `make study STUDIES=tiny`.\n\n")


def test_a_search_is_measured_on_dev_and_times_no_step(program, monkeypatch):
    (program / "studies/search").mkdir(parents=True)
    search = {key: value for key, value in TINY._asdict().items() if key != "name"}
    search |= {"split": "dev", "figures": {}, "learned": "b is better."}
    (program / "studies/search/tiny.yaml").write_text(yaml.safe_dump(search, sort_keys=False))
    (program / "studies/search/README.md").write_text("<!-- study: search/tiny -->\n<!-- end of study -->\n")
    monkeypatch.setattr(study, "STUDIES", program / "studies")
    measured = []
    monkeypatch.setattr(training, "_run", lambda command, *rest: measured.append(command) or real(command, *rest))
    monkeypatch.setattr(sys, "argv", ["run.py", "search/tiny", "--seeds", "1", "--publish", "--out", str(program)])
    run.main()
    measures = [command for command in measured if "measure" in command]
    assert len(measures) == 3  # the start and both rows
    assert all(command[command.index("--split") + 1] == "dev" for command in measures)
    assert not [command for command in measured if "tests.study.step_cost.StepCost" in command]
    page = (program / "studies/search/README.md").read_text()
    assert "| + b | 0.0 |\n\nb is better.\n" in page
    assert all_studies() == []
