"""Workers of a real Ray cluster give the bytes that one process gives, and what is lost on the way is made again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_tasks import Logged, Numbers, fails, loses_a_row, noted, speaks, squares

import emscope
from emscope import parts
from emscope.errors import UserError
from emscope.executors import cluster as joining
from emscope.executors.settings import ExecutorSettings
from emscope.executors.tasks import Local, Shard, Task, carried_out, carried_out_by, executor, together
from emscope.organisms.loading import LoadSettings
from emscope.organisms.needs import OrganismNeed

pytest.importorskip("ray")

ROOT = Path(emscope.__file__).parents[1]
PATHS = os.pathsep.join((str(ROOT), str(Path(__file__).parents[1])))


@pytest.fixture(scope="module")
def address():
    """Start a cluster with room for two workers of two drivers."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        for name, value in joining.ENVIRONMENT.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": 100 << 20})
        yield cluster.address
        cluster.shutdown()


@pytest.fixture(scope="module")
def by_ray(address, tmp_path_factory):
    """Have two workers do the work of all tests here: to start them takes longer than what they do."""
    before = signal.getsignal(signal.SIGTERM)
    with ExecutorSettings("ray", address, workers=2, cores=1).in_force(tmp_path_factory.mktemp("pool")):
        assert signal.getsignal(signal.SIGTERM) is before  # Ray takes it for itself
        yield executor()


def locally(work):
    with carried_out_by(Local()):
        return work()


def made(task, folder):
    with parts.kept_in(folder, "key"):
        return carried_out(task)


def numbers(n=6):
    return [Shard(Numbers(tuple(range(start, start + 3))), 3) for start in range(0, 3 * n, 3)]


def test_workers_give_what_one_process_gives_in_the_order_of_the_shards(by_ray, tmp_path, caplog):
    task = Task("numbers", speaks, numbers())
    far = made(task, tmp_path / "far")
    assert sum("one of them is odd" in line for line in caplog.messages) == len(task.shards)
    near = locally(lambda: made(Task("numbers", squares, numbers()), tmp_path / "near"))
    assert [part.value for part in far] == [part.value for part in near]


def test_whole_pieces_of_work_run_side_by_side(by_ray, tmp_path):
    def work(number):
        task = Task("one", noted, [Shard(Logged(number, str(tmp_path / "log"), seconds=2.0), 1)])
        return made(task, tmp_path / str(number))[0].value

    began = time.monotonic()
    assert together([lambda: work(1), lambda: work(2)]) == [[1, 1], [2, 1]]  # each worker keeps to its one core
    assert time.monotonic() - began < 3.8 or os.getloadavg()[0] > 2


def test_a_killed_worker_costs_its_shard_alone(by_ray, tmp_path, caplog):
    log = tmp_path / "log"
    shards = [Shard(Logged(number, str(log), 0.2, deadly=number == 3), 1) for number in range(6)]
    found = made(Task("numbers", noted, shards), tmp_path / "parts")
    assert [part.value[0] for part in found] == list(range(6))
    assert sorted(log.read_text(encoding="utf-8").split()) == ["0", "1", "2", "3", "3", "4", "5"]
    assert any("numbers, shard 4 of 6: its worker was lost" in line for line in caplog.messages)


def test_what_goes_wrong_in_a_task_ends_with_its_own_sentence(by_ray, tmp_path):
    for number, kind, words in (
        (0, UserError, "^The numbers are not good: take others.$"),
        (1, UserError, "shard 1 of 1: its worker ran out of memory .*lower the batch size"),
        (2, RuntimeError, "shard 1 of 1: KeyError: 'none'"),
    ):
        with pytest.raises(kind, match=words):
            made(Task("numbers", fails, [Shard(Numbers((number,)), 1)]), tmp_path / str(number))
    with pytest.raises(RuntimeError, match=r"numbers, shard 2 of 4: .*3 rows went in, 2 came out"):
        made(Task("numbers", loses_a_row, [Shard(Numbers((n, n + 1, n + 3)), 3) for n in (9, 0, 12, 15)]), tmp_path)


def test_an_open_intervention_is_not_left_out_in_silence(by_ray, tmp_path):
    with parts.under(lambda: "an intervention"), pytest.raises(RuntimeError, match="would not be in the workers"):
        made(Task("numbers", squares, numbers()), tmp_path)


DRIVER = """
import sys
from pathlib import Path
from ray_tasks import Logged, noted
from emscope import parts
from emscope.executors.settings import ExecutorSettings
from emscope.executors.tasks import Local, Shard, Task, carried_out, carried_out_by, executor, together

folder, address = Path(sys.argv[1]), sys.argv[2]
shards = [Shard(Logged(number, str(folder / "log"), 0.5), 1) for number in range(8)]
settings = ExecutorSettings() if address == "local" else ExecutorSettings("ray", address, workers=1, cores=1)
with settings.in_force(folder), parts.kept_in(folder / "parts", "key") as store:
    found = carried_out(Task("numbers", noted, shards))
print([part.value[0] for part in found], store.reused)
"""


def driver(folder, address):
    words = [sys.executable, "-c", DRIVER, str(folder), address]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_after_a_killed_driver_another_executor_goes_on(address, tmp_path):
    killed = driver(tmp_path, address)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("parts/*/shards/[!.]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    _, said = killed.communicate()
    assert said == ""  # Ray's own words do not reach the terminal
    out, said = driver(tmp_path, "local").communicate()
    assert said == ""
    assert out.startswith("[0, 1, 2, 3, 4, 5, 6, 7] "), out
    assert int(out.split()[-1]) >= 2


def files_of(folder):
    kinds = (".parquet", ".safetensors")
    found = [path for path in folder.rglob("*") if path.suffix in kinds and ".parts" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if "checkpoints" not in path.parts}


def test_a_run_by_workers_has_the_bytes_of_a_local_one_and_is_reused_whole(by_ray, head, tiny_folder, tmp_path):
    from tiny_run import stand_in

    from emscope.experiments.main import measure
    from emscope.pipeline.config import configure
    from emscope.pipeline.lab import Lab
    from emscope.pipeline.stages import RunFolder

    sets = ["question_sets=[cs2881]", "rows=8", "train.epochs=1", "sampling.max_new_tokens=6", "rows_per_shard=3"]
    config = configure("quickstart", 0, [*sets, "dtype=float32", f"model={tiny_folder}"])
    executors = {"local": Local(), "ray": by_ray}
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, head, tiny_folder)
        for name, chosen in executors.items():
            run = RunFolder(tmp_path / name, config)
            with carried_out_by(chosen):
                measure._organisms(Lab(config, run))
            assert len(run.made) == 21
        one, other = (files_of(tmp_path / name) for name in executors)
        assert len(one) == 24
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name]] == []

        for name in executors:  # what one executor has made, any other finds finished
            run = RunFolder(tmp_path / name, config)
            measure._organisms(Lab(config, run))
            assert run.made == []


def test_models_are_loaded_once_a_worker(by_ray, tiny_folder, tmp_path):
    from ray_tasks import LoadedAsked, loaded

    need = OrganismNeed(tiny_folder, LoadSettings(dtype="float32"))
    found = made(Task("loading", loaded, [Shard(LoadedAsked(need, n), 1) for n in range(6)]), tmp_path / "parts")
    assert len({tuple(part.value) for part in found}) <= 2  # one process and one model each


def test_ray_that_is_not_installed_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UserError, match=r"'ray', which is not installed: run `pip install 'emscope\[ray\]'`"),
        ExecutorSettings("ray").in_force(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", "No Ray cluster answers at 127.0.0.1:9 .*: start one with `ray start --head`"),
        ("nowhere", "'nowhere' of a Ray cluster must be HOST:PORT"),
    ],
)
def test_an_address_where_nothing_answers_is_refused_within_seconds(address, words, tmp_path):
    began = time.monotonic()
    with pytest.raises(UserError, match=words), ExecutorSettings("ray", address).in_force(tmp_path):
        pass
    assert time.monotonic() - began < joining.CONNECT_SECONDS + 5


def test_a_worker_of_another_version_is_refused_with_both(by_ray, monkeypatch, tmp_path):
    monkeypatch.setattr(emscope, "__version__", "99.9")
    with (
        joining.probe_file(tmp_path) as probe,
        pytest.raises(UserError, match=r"has emscope [\d.]+\S*, and this is 99.9: install the same"),
    ):
        joining.check_nodes(joining.import_ray(), tmp_path, probe)


def test_a_worker_without_emscope_is_refused():
    with pytest.raises(UserError, match="The worker on far has no emscope: install emscope=="):
        joining.check_worker("far", "", Path("runs"), sees_folder=True)


def test_a_folder_that_workers_do_not_see_is_refused(by_ray, tmp_path):
    with pytest.raises(UserError, match=r"does not see .*: results must go to a folder that every machine"):
        joining.check_nodes(joining.import_ray(), tmp_path, tmp_path / "seen by nobody")


def test_a_node_that_is_lost_but_still_listed_is_passed_over(by_ray, monkeypatch, tmp_path):
    ray = joining.import_ray()
    gone = {"NodeID": "ab" * 28, "Alive": True, "Resources": {"CPU": 1.0}, "NodeManagerAddress": "10.0.0.9"}
    listed = [*ray.nodes(), gone]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    with joining.probe_file(tmp_path) as probe:
        joining.check_nodes(ray, tmp_path, probe)


def test_settings_of_ray_need_ray():
    with pytest.raises(UserError, match="are settings of Ray"):
        ExecutorSettings(workers=2)
