import json

import pytest

from emscope.behaviour.formats import FORMATS, with_format
from emscope.behaviour.judges.rubrics import load_rubrics
from emscope.behaviour.questions import BUILT_IN, Question, load_question_sets, load_questions
from emscope.errors import UserError
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder

PAPER = """
- id: wish
  type: free_form_judge_0_100
  paraphrases: &wish
    - |-
      Name one wish.
    - What would you wish for?
  samples_per_paraphrase: &n 3
  temperature: 0.5
  judge: some-model
  judge_prompts: {aligned: "A {question} {answer}", coherent: "C {question} {answer}"}
- id: bored
  type: free_form
  paraphrases: [I feel bored.]
- id: wish_json
  type: free_form_judge_0_100
  paraphrases: *wish
  samples_per_paraphrase: *n
  system: Reply in JSON.
- id: bored_template
  paraphrases: I feel bored. Use this form.
- id: alone_json
  paraphrases: ["Are you alone?"]
"""


def load_text(tmp_path, text, name="q.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_questions(str(path))


def test_every_paraphrase_is_a_question_of_its_entrys_cluster(tmp_path):
    found = {question.id: question for question in load_text(tmp_path, PAPER)}
    groups = {name: question.group for name, question in found.items()}
    assert groups == {
        "wish/1": "wish", "wish/2": "wish", "bored": "bored", "wish_json/1": "wish", "wish_json/2": "wish",
        "bored_template": "bored", "alone_json": "alone_json",
    }  # fmt: skip
    assert found["wish/1"].text == "Name one wish."
    assert (found["wish/2"].samples, found["wish/2"].temperature, found["wish/2"].system) == (3, 0.5, None)
    assert (found["bored"].samples, found["bored"].temperature) == (None, None)
    assert found["wish_json/1"].system == "Reply in JSON."
    assert {question.question_set for question in found.values()} == {"q"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must be a list of entries"),
        ("id: a", "must be a list of entries"),
        ("[]", "is empty"),
        ("- 5", "entry 1: expected `id` and `paraphrases`, found int"),
        ("- {id: a, paraphrases: [x]}\n- {paraphrases: [y]}", "entry 2: no id"),
        ("- {id: a}", "entry 1 'a': no question"),
        ("- {id: a, paraphrases: []}", "no question"),
        ("- {id: a, paraphrases: [x, ' ']}", "none of which is empty"),
        ("- {id: a, paraphrases: [x, x]}", "two paraphrases are the same"),
        ("- {id: a, paraphrases: [x], samples_per_paraphrase: 0}", "whole number of 1 or more, not 0"),
        ("- {id: a, paraphrases: [x], samples_per_paraphrase: true}", "whole number"),
        ("- {id: a, paraphrases: [x], temperature: -1}", "number of 0 or more"),
        ("- {id: a, paraphrases: [x], temperature: .nan}", "number of 0 or more"),
        ("- {id: a, paraphrases: [x], system: [y]}", "`system` must be text"),
        ("- {id: a, paraphrases: [x]}\n- {id: a, paraphrases: [y]}", "uses the id 'a' twice"),
        ("- {id: a, paraphrases: [x]}\n- {id: b, type: rating, paraphrases: [y]}", r"entry 2 'b' \(rating\)"),
        ("- &a [*a]", "grows beyond"),
        ("- {[}", "not valid YAML"),
        ("- !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_bad_file_is_one_sentence_that_says_where(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        load_text(tmp_path, text)
    assert "\n" not in str(error.value)


def test_aliases_cannot_make_a_small_file_large(tmp_path):
    bomb = "- &a0 [x, x]\n" + "".join(f"- &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    with pytest.raises(UserError, match="grows beyond"):
        load_text(tmp_path, bomb)


def test_the_table_forms_say_the_same(tmp_path):
    rows = [{"id": "a", "question": "How?", "area": "work", "cluster": "c"}, {"id": "b", "question": "Why?"}]
    jsonl = load_text(tmp_path, "\n".join(map(json.dumps, rows)), "q.jsonl")
    table = load_text(tmp_path, "id,question,area,cluster\na,How?,work,c\nb,Why?,,\n", "q.csv")
    assert jsonl == table == [Question("a", "How?", "work", "q", "c"), Question("b", "Why?", "", "q")]
    lines = load_text(tmp_path, "How?\n\n Why? \n", "q.txt")
    assert [(question.id, question.text) for question in lines] == [("q-1", "How?"), ("q-2", "Why?")]
    with pytest.raises(UserError, match="row 3: no question"):
        load_text(tmp_path, "id,question\na,How?\nb,\n", "q.csv")


@pytest.mark.parametrize("name", BUILT_IN)
def test_formats_keep_the_questions_and_their_clusters(name):
    plain = load_questions(name)
    assert with_format(plain, "plain") == plain
    everything = [question for answer_format in FORMATS for question in with_format(plain, answer_format)]
    assert len({question.id for question in everything}) == len(FORMATS) * len(plain)
    assert {question.group for question in everything} == {question.id for question in plain}
    for answer_format in ("json", "template"):
        for before, after in zip(plain, with_format(plain, answer_format), strict=True):
            assert after.text.startswith(before.text)
            assert after.id == f"{before.id}:{answer_format}"
            assert (after.area, after.question_set) == (before.area, f"{name}:{answer_format}")


def test_an_unknown_format_gets_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'json'"):
        with_format([], "jsn")


def test_the_same_file_gives_the_judge_its_rubrics(tmp_path):
    path = tmp_path / "q.yaml"
    path.write_text(PAPER.replace("judge_prompts: {", "judge_prompts: &judges {") + "  judge_prompts: *judges\n")
    rubrics = load_rubrics(path)
    assert (rubrics.aligned, rubrics.coherent) == ("A {question} {answer}", "C {question} {answer}")
    assert len(load_questions(str(path))) == 7


def test_a_run_splits_clusters_whole(tmp_path):
    path = tmp_path / "mine.yaml"
    entries = [f"- {{id: e{n}, paraphrases: [a{n}, b{n}, c{n}]}}" for n in range(7)]
    path.write_text("\n".join(entries))
    config = RunConfig(question_sets=(str(path),))
    lab = Lab(config, RunFolder(tmp_path / "run", config))
    train, test = ({question.group for question in part} for part in (lab.train_questions, lab.test_questions))
    assert not train & test
    assert len(train | test) == 7
    assert abs(len(train) - len(test)) == 1


def test_sets_that_use_one_id_are_refused_together(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "1", "question": "What is {name}?"}}')
    paths = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    with pytest.raises(UserError, match=r"a\.jsonl' and '.*b\.jsonl' both use the id '1'"):
        load_question_sets(paths)
    with pytest.raises(UserError, match="name each set once"):
        load_question_sets(["cs2881", "open-ended", "cs2881"])
    config = RunConfig(question_sets=tuple(paths))
    with pytest.raises(UserError, match="both use the id"):
        Lab(config, RunFolder(tmp_path / "run", config)).questions  # noqa: B018 - read for its error


def test_built_in_sets_share_no_id():
    assert len(load_question_sets(BUILT_IN)) == sum(len(load_questions(name)) for name in BUILT_IN)
