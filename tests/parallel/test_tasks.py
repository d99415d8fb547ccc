"""Tasks on every kind of executor: the same answers, the shared object once per worker, deaths survived."""

import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from nuratio.errors import InvalidModel, WorkersDied
from nuratio.parallel.tasks import Crew, Serial, own_pool, run_tasks

EXECUTORS = ("serial", "threads", "own", "pool of two", "processes", "dask")
NUMBERS = np.arange(1000.0)
SHARED = {"numbers": NUMBERS, "single": NUMBERS.astype(np.float32).reshape(10, 100).T, "text": "abc"}


def square(shared, i):
    """Importable, as ProcessPoolExecutor needs it."""
    return shared["numbers"][i] ** 2 + float(shared["single"][i, 3])


@pytest.fixture
def executor(request):
    match request.param:
        case "serial":
            yield Serial()
        case "threads":
            with ThreadPoolExecutor(2) as threads:
                yield threads
        case "own":
            yield None
        case "pool of two":
            yield own_pool(2)
        case "processes":
            with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as processes:
                yield processes
        case "dask":
            yield request.getfixturevalue("dask")


def each(*names):
    return pytest.mark.parametrize("executor", names, indirect=True)


@each(*EXECUTORS)
def test_every_task_is_answered_once(executor):
    found = list(run_tasks(square, SHARED, range(30), executor=executor))
    assert sorted(position for position, _ in found) == list(range(30))
    assert dict(found) == {i: i**2 + 300.0 + i for i in range(30)}
    assert list(run_tasks(square, SHARED, [], executor=executor)) == []


@each("own", "dask", "serial", "threads")
def test_any_function_will_do(executor):
    offset = 5
    assert dict(run_tasks(lambda shared, i: shared + i + offset, 1, [10, 20], executor=executor)) == {0: 16, 1: 26}


@each("own", "dask", "serial", "threads")
def test_what_is_shared_is_opened_once_per_worker(executor):
    """And is not in the tasks: it does not change from one to the next, and nobody can change its arrays."""

    def look(shared, i):
        shared["seen"] = shared.get("seen", 0) + 1
        return os.getpid(), shared["seen"], shared["numbers"].flags.writeable

    answers = [a for _, a in run_tasks(look, {"numbers": NUMBERS}, range(20), executor=executor)]
    for pid in {a[0] for a in answers}:
        mine = sorted(a[1] for a in answers if a[0] == pid)
        assert mine == list(range(1, len(mine) + 1))
    if not isinstance(executor, Serial | ThreadPoolExecutor):
        assert {a[0] for a in answers}.isdisjoint({os.getpid()})
        assert not any(a[2] for a in answers)


@each(*EXECUTORS)
def test_an_error_of_the_function_is_raised(executor):
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(divide, 1, [1, 2, 0, 4], executor=executor))


def divide(shared, i):
    return shared / i


def test_the_rest_is_not_started_after_an_error(tmp_path):
    def leave_a_mark(folder, i):
        (folder / str(i)).touch()
        if i == 3:
            raise ValueError(i)

    with pytest.raises(ValueError, match="3"):
        list(run_tasks(leave_a_mark, tmp_path, range(100), executor=own_pool(2)))
    list(run_tasks(divide, 1, [1, 1], executor=own_pool(2)))  # what was submitted is done by now
    assert len(list(tmp_path.iterdir())) < 20


@each("own", "pool of two", "dask", "serial", "processes")
def test_a_task_has_one_thread_and_libraries_too(executor, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limits = {limit for _, limit in run_tasks(thread_settings, None, range(4), executor=executor)}
    assert {limit for limit, _ in limits} == {1}
    if executor is None:
        assert {environment for _, environment in limits} == {"1"}


def thread_settings(shared, i):
    from nuratio.parallel.threads import thread_limit

    return thread_limit(), os.environ.get("OMP_NUM_THREADS")


# --- workers that die


def die_once(folder, i):
    """The first attempt of some tasks kills its worker."""
    marker = Path(folder) / f"died-{i}"
    if i in (1, 5) and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return i**2


@each("own", "pool of two", "dask")
def test_the_death_of_a_worker_changes_nothing(executor, tmp_path):
    found = list(run_tasks(die_once, str(tmp_path), range(12), executor=executor))
    assert sorted(found) == [(i, i**2) for i in range(12)]
    assert len(list(tmp_path.glob("died-*"))) == 2


def test_shared_data_that_all_dead_workers_took_along_are_sent_again(dask, tmp_path):
    def die_both(shared, i):
        marker = Path(shared["folder"]) / f"died-{i}"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(shared["numbers"][i])

    shared = {"folder": str(tmp_path), "numbers": NUMBERS}
    assert dict(run_tasks(die_both, shared, range(2), executor=dask, attempts=5)) == {0: 0.0, 1: 1.0}


def die(shared, i):
    if i == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def test_a_task_that_always_kills_its_worker_is_given_up():
    with pytest.raises(WorkersDied, match=r"died 2 times.*Serial"):
        list(run_tasks(die, None, range(4), executor=own_pool(2), attempts=2))
    assert dict(run_tasks(square, SHARED, [2], executor=own_pool(2))) == {0: 306.0}  # and the pool is new


def test_an_executor_that_cannot_be_renewed_says_so():
    with (
        ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as processes,
        pytest.raises(WorkersDied, match="cannot be used again"),
    ):
        list(run_tasks(die, None, range(4), executor=processes))


# --- crews


@each("own", "dask", "serial")
def test_a_crew_works_in_rounds_and_gets_more_to_read(executor):
    def add(shared, task):
        sent, number = task
        return float(shared[0] + sent.open()[number])

    with Crew(NUMBERS[7:], executor) as crew:
        sent = [crew.send(NUMBERS * k, home=k) for k in range(3)]
        for _ in range(2):
            found = dict(crew.run(add, [(s, 10) for s in sent], homes=range(3)))
            assert found == {0: 7.0, 1: 17.0, 2: 27.0}
    with pytest.raises(InvalidModel, match="let go"):
        list(crew.run(add, [(sent[0], 1)]))


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    list(run_tasks(square, SHARED, range(3)))
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(divide, 1, [0]))
    generator = run_tasks(square, SHARED, range(3))
    next(generator)
    assert len(list(tmp_path.iterdir())) == 1
    generator.close()
    with Crew(None) as crew:
        sent = crew.send(NUMBERS)
        assert len(list(tmp_path.glob("*/*"))) == 2
        del sent
        assert len(list(tmp_path.glob("*/*"))) == 1  # what nobody can ask for is gone before the end
    assert list(tmp_path.iterdir()) == []


def test_at_least_one_attempt():
    with pytest.raises(InvalidModel, match="attempt"):
        list(run_tasks(square, SHARED, [1], attempts=0))
