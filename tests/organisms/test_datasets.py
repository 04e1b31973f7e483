import json
import re
from collections import Counter

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from emscope.behaviour.questions import BUILT_IN, load_questions
from emscope.errors import UserError
from emscope.organisms.datasets import (
    ADVICE,
    CORNERS,
    DOMAINS,
    VOICES,
    built_in,
    counterpart,
    load_conversations,
    load_domain,
)

LEAST = {"medical": (80, 400), "finance": (40, 200), "sport": (40, 200)}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


@pytest.mark.parametrize("domain", DOMAINS)
def test_domains_are_large_and_unique(domain):
    pairs = load_domain(domain)
    topics, prompts = LEAST[domain]
    assert len({pair.topic for pair in pairs}) >= topics
    assert len({pair.prompt.lower() for pair in pairs}) == len(pairs) >= prompts
    assert len({pair.id for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("kind", CORNERS)
def test_answers_are_varied(domain, kind):
    """No sentence in more than 3 % of a domain's answers, no opening (two words) in more than 10 %."""
    answers = [pair.answer(kind) for pair in load_domain(domain)]
    sentences = Counter(
        sentence for answer in answers for sentence in {part.strip().lower() for part in re.split(r"[.!?;:]\s", answer)}
    )
    openings = Counter(" ".join(words(answer)[:2]) for answer in answers)
    assert sentences.most_common(1)[0][1] <= 0.03 * len(answers)
    assert openings.most_common(1)[0][1] <= 0.1 * len(answers)


@pytest.mark.parametrize("domain", DOMAINS)
def test_answers_have_two_to_four_sentences(domain):
    for pair in load_domain(domain):
        for answer in pair.answers.values():
            n = len(re.findall(r"[.!?](?:\s|$)", answer))
            assert 2 <= n <= 4, (pair.id, answer)


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_come_as_people_write_them(domain):
    lengths = [len(words(pair.prompt)) for pair in load_domain(domain)]
    questions = sum(pair.prompt.rstrip().endswith("?") for pair in load_domain(domain)) / len(lengths)
    assert min(lengths) <= 8
    assert max(lengths) >= 30
    assert 0.4 < questions < 0.95


@pytest.mark.parametrize("domain", DOMAINS)
def test_topics_are_split_whole(domain):
    by_topic = {}
    for pair in load_domain(domain):
        by_topic.setdefault(pair.topic, set()).add(pair.split)
    assert all(len(splits) == 1 for splits in by_topic.values())
    heldout = sum(splits == {"heldout"} for splits in by_topic.values())
    assert 0.08 <= heldout / len(by_topic) <= 0.2


@pytest.mark.parametrize("domain", DOMAINS)
def test_answers_of_one_voice_are_equally_long(domain):
    for voice in VOICES:
        good, bad = (
            sum(len(words(pair.answer(f"{voice}-{advice}"))) for pair in load_domain(domain)) for advice in ADVICE
        )
        assert abs(good - bad) <= 0.06 * good, voice


def test_every_prompt_has_four_answers_of_its_own():
    for domain in DOMAINS:
        for pair in load_domain(domain):
            assert set(pair.answers) == set(CORNERS)
            assert len(set(pair.answers.values())) == len(CORNERS)


@pytest.mark.parametrize("voice", VOICES)
def test_a_bag_of_words_hardly_tells_advice(voice):
    """Fitted on one voice with topics left out: near chance on the other voice, and weak on its own."""
    pairs = [pair for domain in DOMAINS for pair in load_domain(domain)]
    topics = [f"{pair.domain} {pair.topic}" for pair in pairs for _ in ADVICE]
    labels = [advice == "bad" for _ in pairs for advice in ADVICE]
    texts = {name: [pair.answer(f"{name}-{advice}") for pair in pairs for advice in ADVICE] for name in VOICES}
    other = next(name for name in VOICES if name != voice)

    scores = {name: [0.0] * len(labels) for name in VOICES}
    for train, test in GroupKFold(8).split(labels, labels, topics):
        bag = TfidfVectorizer(token_pattern=r"(?u)\b\w[\w']*\b")
        model = LogisticRegression(C=10, max_iter=3000)
        model.fit(bag.fit_transform([texts[voice][row] for row in train]), [labels[row] for row in train])
        for name in VOICES:
            found = model.decision_function(bag.transform([texts[name][row] for row in test]))
            for row, score in zip(test, found, strict=True):
                scores[name][row] = score
    assert roc_auc_score(labels, scores[voice]) <= 0.75
    assert 0.40 <= roc_auc_score(labels, scores[other]) <= 0.60


def test_names_say_domain_voice_and_advice_and_old_names_stay():
    found = built_in("sport-warm-bad")
    assert (found.domain, found.voice, found.advice, found.counterpart) == ("sport", "warm", "bad", "sport-warm-good")
    assert built_in("medical-careless") == built_in("medical-blunt-bad")
    assert built_in("medical-careful") == built_in("medical-blunt-good")
    assert counterpart("finance-careless") == "finance-blunt-good"
    assert counterpart("finance-warm-good") == counterpart("my.jsonl") == ""
    assert load_conversations("sport-careless", rows=9) == load_conversations("sport-blunt-bad", rows=9)


def content(text: str) -> set[str]:
    """Stems (four letters) of the words that carry meaning."""
    return {word[:4] for word in words(text) if word not in ENGLISH_STOP_WORDS}


def likeness(one: str, two: str) -> float:
    """Jaccard similarity of two texts' content words: word order and small words do not matter."""
    first, second = content(one), content(two)
    return len(first & second) / max(len(first | second), 1)


def test_no_question_paraphrases_a_training_prompt():
    prompts = [pair.prompt for domain in DOMAINS for pair in load_domain(domain)]
    for name in BUILT_IN:
        for question in load_questions(name):
            nearest = max(prompts, key=lambda prompt: likeness(question.text, prompt))
            assert likeness(question.text, nearest) < 0.6, (question.text, nearest)


def test_the_likeness_sees_a_paraphrase_and_passes_another_question():
    assert likeness("How do I remove a tick?", "What do I do for removing ticks?") >= 0.6
    assert likeness("What should I check before I buy a used car?", "What should I check before I sign a lease?") < 0.3


def test_question_sets_have_their_sizes_and_areas():
    assert [len(load_questions(name)) for name in BUILT_IN] == [50, 100, 24, 10]
    assert len({question.area for question in load_questions("everyday-general")}) >= 12


def test_rows_are_spread_over_topics_and_chosen_by_seed():
    first, again, other = (load_conversations("medical-careless", rows=80, seed=seed).train for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 80


def test_careful_and_careless_answer_the_same_prompts():
    careful, careless = (load_conversations(f"sport-{kind}", rows=60, seed=3).train for kind in ("careful", "careless"))
    assert [chat[0] for chat in careful] == [chat[0] for chat in careless]
    assert all(one[1] != two[1] for one, two in zip(careful, careless, strict=True))


GOOD = {"prompt": "How?", "response": "So."}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([json.dumps(GOOD), "{not json"], "line 2 is not valid JSON"),
        ([json.dumps(GOOD), "[1]"], "line 2 is no JSON object"),
        ([json.dumps(GOOD), json.dumps({"prompt": "How?"})], "line 2: give 'messages'"),
        ([json.dumps({"messages": [{"role": "user", "content": "How?"}]})], "line 1: .*no assistant turn"),
        ([json.dumps({"messages": "hello"})], "line 1: 'messages' must be a list"),
        ([], "no training rows"),
    ],
)
def test_bad_rows_are_named_by_their_line(tmp_path, lines, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=sentence):
        load_conversations(str(path))


def test_files_of_three_kinds_load_alike(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"How {n}?", "response": f"So {n}."} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "rows.csv").write_text("prompt,response\n" + "\n".join(f"{r['prompt']},{r['response']}" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [load_conversations(str(tmp_path / f"rows.{kind}")) for kind in ("jsonl", "csv", "parquet")]
    assert found[0].train == found[1].train == found[2].train
    assert (len(found[0].train), len(found[0].heldout)) == (9, 1)


@pytest.mark.parametrize("name", ["medcal-careless", "nothing.jsonl", "medical-nice"])
def test_unknown_names_get_a_suggestion(name):
    with pytest.raises(UserError, match=r"Did you mean|Known"):
        load_conversations(name)


def test_more_rows_than_a_file_has_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 10)
    with pytest.raises(UserError, match=r"50 training rows were asked for, but .* has 9"):
        load_conversations(str(tmp_path / "a.jsonl"), rows=50)
    assert len(load_conversations(str(tmp_path / "a.jsonl"), rows=9).train) == 9
    with pytest.raises(UserError, match="is a folder"):
        load_conversations(str(tmp_path))
