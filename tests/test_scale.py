"""The simulation of a cluster: it is the formula where nothing goes wrong, and loses no work where something does."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emscope.pipeline.roofline.cluster import best_shard_seconds

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


scale = load("scale_simulation")
Cluster, Simulation, Stage, Store = scale.Cluster, scale.Simulation, scale.Stage, scale.Store

nodes, seconds = st.integers(1, 9), st.floats(0.5, 200)
stages = st.builds(
    Stage,
    shards=st.integers(1, 60),
    seconds=seconds,
    load=st.floats(0, 1e4),
    part=st.floats(0, 100),
    attempts=st.just(99),
)
stores = st.builds(Store, bandwidth=st.floats(10, 1e4), latency=st.floats(0, 2))
troubles = st.builds(
    Cluster,
    nodes=nodes,
    workers_a_node=st.integers(1, 4),
    network=st.floats(10, 1e4),
    mtbf=st.floats(2000, 1e5),
    repair=st.floats(0, 300),
    slow=st.floats(0, 1),
    slowness=st.floats(1, 4),
    driver_mtbf=st.floats(5000, 1e6),
)


@settings(deadline=None)
@given(nodes, st.integers(1, 4), stages, stores, st.floats(10, 1e4))
def test_without_trouble_it_is_the_formula(n, each, stage, store, network):
    cluster = Cluster(n, each, network=network)
    spent = Simulation(cluster, store, stage).run()
    assert spent.seconds == pytest.approx(scale.by_formula(cluster, store, stage))
    assert (spent.done, spent.lost, spent.losses, spent.given_up) == (stage.shards, 0, 0, 0)


@settings(deadline=None)
@given(nodes, st.integers(1, 4), stages)
def test_more_workers_are_never_slower_where_nothing_is_shared(n, each, stage):
    fewer, more = (Simulation(Cluster(count, each), Store(), stage).run() for count in (n, n + 1))
    assert more.seconds <= fewer.seconds


@settings(deadline=None)
@given(troubles, stages, stores, st.integers(0, 5))
def test_every_second_of_every_worker_is_somewhere_and_every_shard_is_done_once(cluster, stage, store, seed):
    spent = Simulation(cluster, store, stage, seed).run()
    assert spent.done == stage.shards
    assert spent.given_up == 0
    slowest = cluster.slowness
    assert stage.shards * stage.seconds <= spent.useful + 1e-6
    assert spent.useful <= stage.shards * stage.seconds * slowest + 1e-6
    whole = spent.seconds * cluster.nodes * cluster.workers_a_node
    parts = spent.useful + spent.lost + spent.loading + spent.writing + spent.down + spent.idle
    assert parts == pytest.approx(whole, rel=1e-6, abs=1e-3)


@given(troubles, stages, stores, st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_trouble_is_never_faster_than_none(cluster, stage, store, seed):
    quiet = Cluster(cluster.nodes, cluster.workers_a_node)
    assert Simulation(cluster, store, stage, seed).run().seconds >= (
        Simulation(quiet, Store(), stage, seed).run().seconds - 1e-6
    )


def test_a_shard_is_not_begun_for_ever():
    stage = Stage(shards=3, seconds=1000.0, attempts=2)
    spent = Simulation(Cluster(2, mtbf=1.0, repair=1.0), Store(), stage).run()
    assert spent.given_up == 3
    assert spent.done == 0


def test_requests_wait_for_one_another():
    stage = Stage(shards=8, seconds=1.0, requests=4)
    spent = Simulation(Cluster(8), Store(requests=2.0), stage).run()
    assert spent.seconds == pytest.approx(1 + 8 * 4 / 2)


def test_nodes_that_load_at_once_share_the_store():
    stage = Stage(shards=1, seconds=1.0, load=100.0)
    few, many = (Simulation(Cluster(n, network=50.0), Store(bandwidth=100.0), stage).run() for n in (2, 8))
    assert few.seconds == pytest.approx(2 + 1)
    assert many.seconds == pytest.approx(8 + 1)


def test_the_best_shard_is_the_fastest_of_those_around_it():
    work, mtbf, overhead, workers = 40_000.0, 3000.0, 2.0, 4
    best = best_shard_seconds(overhead, mtbf, work / workers)

    def mean(shard):
        stage = Stage(shards=round(work / shard), seconds=work / round(work / shard), attempts=99)
        store = Store(latency=overhead)
        runs = scale.simulated(Cluster(workers, mtbf=mtbf, repair=10.0), store, stage, seeds=40)
        return sum(spent.seconds for spent in runs) / len(runs)

    assert mean(best) < mean(best / 10)
    assert mean(best) < mean(best * 10)
