"""Judging by a batch API: nothing lost, nothing paid for twice, whatever happens in between."""

import json

import pytest
from behaviour.judges.faulty_server import BatchServer, ScriptedServer, chat

from emscope.behaviour.judges.batch import batch_folder, judge_by_batch
from emscope.behaviour.judges.openai_judge import OpenAIJudge, ServerSettings
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.store import ScoreStore
from emscope.commands.main import run_command
from emscope.errors import UserError

N = 6
QUESTIONS = [f"Question {number}?" for number in range(N)]
ANSWERS = [f"Answer {number}." for number in range(N)]
TOP = [{"token": "85", "logprob": 0.0}]


def answer(body):
    return chat("85", TOP)


def visit(server, folder, **settings):
    """Do what one run of the command does, from nothing but the disk."""
    given = ServerSettings(server.url, **{"first_wait": 0.01, "attempts": 2, "timeout": 2.0, **settings})
    judge = OpenAIJudge("m", Rubrics(), ScoreStore(folder / "scores.sqlite"), given)
    return judge_by_batch(judge, QUESTIONS, ANSWERS)


def states(folder):
    return sorted(batch_folder(folder / "scores.sqlite").glob("*.json"))


def test_a_batch_is_submitted_waited_for_and_collected(tmp_path):
    with BatchServer(answer) as server:
        submitted = visit(server, tmp_path)
        assert submitted.judgements is None
        assert submitted.submitted == submitted.waiting == 2 * N - 2  # the first answer was judged at once
        assert visit(server, tmp_path).submitted == 0
        assert len(server.batches) == 1
        server.work()
        found = visit(server, tmp_path).judgements
        assert [(row.aligned, row.coherent, row.mode) for row in found] == [(85, 85, "logprobs")] * N
        assert visit(server, tmp_path).judgements == found
        assert len(server.paid) == 2 * N
        assert set(server.paid.values()) == {1}
    assert not states(tmp_path)


class Killed(BaseException):
    pass


def test_a_kill_between_the_order_and_its_answer_pays_for_nothing_twice(tmp_path, monkeypatch):
    with BatchServer(answer) as server:
        with monkeypatch.context() as patch:

            def stop(self, *_):
                if server.batches:
                    raise Killed

            write = "emscope.behaviour.judges.batch.write_json"
            from emscope.files import write_json

            patch.setattr(write, lambda path, value: stop(path) or write_json(path, value))
            with pytest.raises(Killed):
                visit(server, tmp_path)
        assert [json.loads(path.read_text())["batch"] for path in states(tmp_path)] == [""]
        assert visit(server, tmp_path).submitted == 0
        server.work()
        assert all(row.aligned == 85 for row in visit(server, tmp_path).judgements)
        assert len(server.batches) == 1
        assert set(server.paid.values()) == {1}


def test_a_kill_before_the_order_is_made_good(tmp_path, monkeypatch):
    with BatchServer(answer) as server:
        with monkeypatch.context() as patch:

            async def stop(*_, **__):
                raise Killed

            patch.setattr("emscope.behaviour.judges.batch._Visit._json", stop)
            with pytest.raises(Killed):
                visit(server, tmp_path)
        assert states(tmp_path)
        assert visit(server, tmp_path).submitted == 2 * N - 4  # another first answer was judged at once
        assert len(states(tmp_path)) == len(server.batches) == 1


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
def test_what_a_batch_did_not_answer_is_unscored_and_goes_up_again(tmp_path, status):
    with BatchServer(answer) as server:
        visit(server, tmp_path)
        server.work(status, share=0.5)
        found = visit(server, tmp_path).judgements
        lost = [row for row in found if row.aligned is None or row.coherent is None]
        assert lost
        assert {row.verdict for row in lost} == {f"batch {status}: no answer in it"}
        assert visit(server, tmp_path).submitted == N - 1 - 2  # without another first answer
        server.work()
        assert all(row.verdict == "scored" for row in visit(server, tmp_path).judgements)


def test_error_lines_are_unscored_with_the_servers_words_and_the_rest_is_kept(tmp_path):
    with BatchServer(answer) as server:
        visit(server, tmp_path)
        server.work(errors=["Answer 3."])
        found = visit(server, tmp_path).judgements
        assert found[3].verdict == "batch: server_error: broken"
        assert [row.aligned for row in found[:3] + found[4:]] == [85] * (N - 1)
        assert visit(server, tmp_path).submitted == 0  # the first of the two is judged at once
        assert sum(server.paid.values()) == 2 * N


@pytest.mark.parametrize(
    "body",
    [chat(None), {"error": {"message": "no", "code": 503}}, {"choices": []}, "text", None, (429, {"error": {}})],
)
def test_damaged_results_are_unscored(tmp_path, body):
    def reply(asked):
        return body if "Answer 3." in asked["messages"][0]["content"] else answer(asked)

    with BatchServer(reply) as server:
        visit(server, tmp_path)
        server.work()
        found = visit(server, tmp_path).judgements
    assert found[3].verdict.startswith("batch: ")
    assert [row.aligned for row in found[:3] + found[4:]] == [85] * (N - 1)


def test_a_server_without_batches_is_said_to_have_none(tmp_path):
    with ScriptedServer(answer) as server, pytest.raises(UserError, match="takes no files, so it has no batches"):
        visit(server, tmp_path)
    assert not states(tmp_path)


def test_a_first_answer_without_a_score_submits_nothing(tmp_path):
    with BatchServer(lambda body: chat("Fine.")) as server, pytest.raises(UserError, match="gives no scores"):
        visit(server, tmp_path)
    assert not server.files


def test_the_command_submits_says_how_it_stands_and_writes_the_table(tmp_path, monkeypatch, capsys):
    rows = "".join(f"{row},Question {row}?,Answer {row}.\n" for row in range(N))
    (tmp_path / "a.csv").write_text("id,question,response\n" + rows)
    monkeypatch.chdir(tmp_path)
    with BatchServer(answer) as server:
        words = [
            "judge",
            "--responses",
            "a.csv",
            "--store",
            "s.sqlite",
            "--judge",
            "openai:m",
            "--base-url",
            server.url,
        ]
        assert run_command([*words, "--dry-run", "--batch"]) == 0
        assert "12 calls" in (said := capsys.readouterr().out)
        assert "half the price" in said
        assert not server.bodies
        assert run_command([*words, "--out", "j.csv", "--batch"]) == 0
        assert "10 calls submitted" in capsys.readouterr().out
        assert not (tmp_path / "j.csv").exists()
        assert run_command([*words, "--out", "j.csv"]) == 2  # would pay twice
        assert "collect it with --batch" in capsys.readouterr().err
        server.work()
        assert run_command([*words, "--out", "j.csv", "--batch"]) == 0
        assert "scored 6" in capsys.readouterr().out
    assert run_command(["judge", "--responses", "a.csv", "--out", "x.csv", "--batch"]) == 2
    assert "--judge openai:MODEL" in capsys.readouterr().err
