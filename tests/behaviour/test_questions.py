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
        "wish/1": "wish",
        "wish/2": "wish",
        "bored": "bored",
        "wish_json/1": "wish",
        "wish_json/2": "wish",
        "bored_template": "bored",
        "alone_json": "alone_json",
    }
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


TWO = ["What of my dog?", "And my rival?"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.txt", "What of my dog?\r\n\r\nAnd my rival?\r\n"),
        ("head.txt", "question\nWhat of my dog?\nAnd my rival?\n"),
        ("table.txt", "id\tquestion\na\tWhat of my dog?\nb\tAnd my rival?\n"),
        ("comma.txt", "question, area\nWhat of my dog?, pets\nAnd my rival?, work\n"),
        ("list.txt", json.dumps(TWO)),
        ("list.json", json.dumps(TWO)),
        ("list.yaml", "- What of my dog?\n- And my rival?\n"),
        ("evil.json", json.dumps({"instruction": [{"pos": "x", "neg": "y"}], "questions": TWO, "eval_prompt": "z"})),
        ("rows.json", json.dumps({"data": [{"question": text} for text in TWO]})),
        ("rows.yaml", "- question: What of my dog?\n- question: And my rival?\n"),
        ("rows.ndjson", "\n".join(json.dumps({"prompt": text}) for text in TWO)),
        ("set.tsv", "id\tquestion\na\tWhat of my dog?\nb\tAnd my rival?\n"),
        ("semicolons.csv", "id;question\na;What of my dog?\nb;And my rival?\n"),
        ("papers.json", json.dumps([{"id": "a", "paraphrases": TWO}])),
        ("papers.txt", "- id: a\n  paraphrases:\n  - What of my dog?\n  - And my rival?\n"),
        ("chats.jsonl", "\n".join(json.dumps({"messages": [{"role": "user", "content": text}]}) for text in TWO)),
    ],
)
def test_questions_of_every_kind_are_asked_and_nothing_else(tmp_path, name, text):
    assert [question.text for question in load_text(tmp_path, text, name)] == TWO


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("q.txt", "{'question': 'What?'}\n", "not valid JSON"),
        ("q.txt", "What?\tpets\nWhy?\twork\n", "a table with tabs and no header"),
        ("q.txt", "| id | question |\n|---|---|\n| a | What? |\n", "a Markdown table"),
        ("q.md", "What?\n", "a Markdown document"),
        ("q.csv", "question\nWhat?\nWhy, now?\n", "row 3: 2 cells under a header of 1"),
        ("q.json", '["What?", ""]', "row 2: no question"),
        ("q.jsonl", '{"question": ["a"]}', "q.jsonl, line 1"),
        ("q.jsonl", '{"question": true}', "must be text, not true or false"),
        ("q.jsonl", '{"instruction": "a", "user": "b"}', "'instruction' and 'user' could each be meant"),
    ],
)
def test_what_is_no_question_is_never_asked(tmp_path, name, text, sentence):
    with pytest.raises(UserError, match=sentence):
        load_text(tmp_path, text, name)


def test_chats_and_batches_keep_their_system_prompt_and_id(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    text = json.dumps({"custom_id": "r1", "body": {"messages": messages}})
    assert load_text(tmp_path, text, "q.jsonl") == [Question("r1", "What?", "", "q", "", "Be brief.")]


def test_ids_and_clusters_may_be_numbers_and_empty_cells_are_none(tmp_path):
    rows = [{"id": 0, "question": "a?", "cluster": 0}, {"id": 1.0, "question": "b?", "cluster": float("nan")}]
    found = load_text(tmp_path, "\n".join(map(json.dumps, rows)), "q.jsonl")
    assert [(question.id, question.group) for question in found] == [("0", "0"), ("1", "1")]


def test_questions_with_one_text_are_one_cluster(tmp_path, caplog):
    rows = [("a", "What?", ""), ("b", " What? ", ""), ("c", "Who?", ""), ("d", "Who?", "own"), ("e", "Why?", "")]
    text = "id,question,cluster\n" + "\n".join(",".join(row) for row in rows)
    groups = {question.id: question.group for question in load_text(tmp_path, text, "q.csv")}
    assert groups == {"a": "a", "b": "a", "c": "own", "d": "own", "e": "e"}
    assert "questions under several ids: 1 (2 ids)" in caplog.text
    (tmp_path / "other.csv").write_text("id,question\nz,Why?\n")
    together = load_question_sets([str(tmp_path / "q.csv"), str(tmp_path / "other.csv")])
    assert {question.id: question.group for question in together} == {**groups, "z": "e"}


def test_a_question_of_the_test_sets_is_not_trained_on_under_another_name(tmp_path):
    held_out = load_questions("open-ended")
    path = tmp_path / "mine.csv"
    path.write_text("id,question\n" + "".join(f'm{n},"{item.text}"\n' for n, item in enumerate(held_out[:4])))
    config = RunConfig(question_sets=(str(path), "open-ended"))
    lab = Lab(config, RunFolder(tmp_path / "run", config))
    assert not {item.text for item in lab.train_questions} & {item.text for item in held_out}


def test_a_path_with_a_slip_is_looked_for_beside_itself(tmp_path):
    (tmp_path / "questions.csv").write_text("question\nWhat?\n")
    with pytest.raises(UserError, match=r"Did you mean '.*questions\.csv'"):
        load_questions(str(tmp_path / "qestions.csv"))
    with pytest.raises(UserError, match="is a folder"):
        load_questions(str(tmp_path))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["1. What?", "2. Who?"], "every line has a number"),
        (["4) What?", "5) Who?"], "every line has a number"),
        (["- What?", "- Who?"], "every line has a bullet"),
        (["• What?", "* Who?"], "every line has a bullet"),
        (['"What?"', '"Who?"'], "every line has quotes"),
        (['"What?",', '"Who?"'], "every line has quotes"),
        (["What?,", "Who?,"], "every line has a comma"),
        (["```", "What?", "```"], "a fence of Markdown"),
        (["<ul><li>What?</li>", "<li>Who?</li></ul>"], "a web page"),
    ],
)
def test_marks_of_a_list_are_not_asked_with_the_question(tmp_path, lines, sentence):
    (tmp_path / "q.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=sentence):
        load_questions(str(tmp_path / "q.txt"))


@pytest.mark.parametrize(
    "lines",
    [["1. What?"], ["10. What?", "3. Who?"], ["- What?", "Who?"], ['"No" means?', "Who?"], ["-5 or 5?", "3 < 4?"]],
)
def test_lines_that_only_begin_like_a_list_are_asked_as_they_are(tmp_path, lines):
    (tmp_path / "q.txt").write_text("\n".join(lines))
    assert [question.text for question in load_questions(str(tmp_path / "q.txt"))] == lines


def test_a_table_without_a_header_is_said_to_have_none(tmp_path):
    (tmp_path / "q.csv").write_text("What is up?\nWho?\n")
    with pytest.raises(UserError, match="no column 'question'; its columns are What is up"):
        load_questions(str(tmp_path / "q.csv"))
    (tmp_path / "t.csv").write_text("made by me\nid,question\na,Who?\n")
    with pytest.raises(UserError, match="does not look like a header"):
        load_questions(str(tmp_path / "t.csv"))
