"""Objects on their way: equal on arrival, arrays beside the pickle, files by their name while they are the same."""

import gc
import pickle

import numpy as np
import pytest

from nuratio.errors import InvalidData
from nuratio.parallel.frozen import Frozen
from nuratio.parallel.mapped import file_range
from nuratio.parallel.parcel import pack

ARRAYS = {
    "plain": np.arange(1000.0),
    "single": np.arange(999, dtype=np.float32).reshape(3, 333),
    "fortran": np.asfortranarray(np.arange(600.0).reshape(20, 30)),
    "strided": np.arange(1000.0)[::3],
    "none": np.empty((0, 4)),
    "words": np.array(["a", "bc"]),
    "objects": np.array([{"a": 1}, None], dtype=object),
}


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "table.npy", np.arange(100_000.0).reshape(100, 1000))
    return np.load(tmp_path / "table.npy", mmap_mode="r")


def same(found, given):
    assert found.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("how", ["in memory", "over a network", "in files"])
def test_objects_arrive_as_they_are(how, tmp_path):
    parcel = pack(ARRAYS, same_files=True)
    if how == "over a network":
        buffers = []
        sent = pickle.dumps(parcel, protocol=5, buffer_callback=buffers.append)
        odd = [memoryview(b"?" + bytes(b.raw()))[1:] for b in buffers]  # nobody promises an address
        parcel = pickle.loads(sent, buffers=odd)
        pickle.dumps(parcel, protocol=5, buffer_callback=buffers.append)  # and on to the next worker
    opened = (parcel.write(tmp_path / "parcel") if how == "in files" else parcel).open(remember=False)
    same(opened, ARRAYS)
    assert opened["plain"].flags.aligned
    assert not opened["plain"].flags.writeable


def test_arrays_are_not_copied_into_the_pickle(mapped):
    large = np.zeros(1_000_000)
    for array in (large, large.reshape(1000, 1000).T, mapped, np.asarray(mapped)):
        parcel = pack({"a": array}, same_files=False)
        assert len(parcel.pickled) < 2000
        assert sum(b.nbytes for b in parcel.buffers) == array.nbytes


def test_opened_once_and_remembered_by_content(tmp_path):
    files = pack(ARRAYS, same_files=True).write(tmp_path / "a")
    again = pack(dict(ARRAYS), same_files=True).write(tmp_path / "b")
    changed = pack(ARRAYS | {"plain": ARRAYS["plain"] + 1}, same_files=True).write(tmp_path / "c")
    first = files.open()
    assert files.open() is first
    assert again.open() is first
    assert files.open(remember=False) is not first
    assert changed.open() is not first
    np.testing.assert_array_equal(changed.open()["plain"], ARRAYS["plain"] + 1)


@pytest.mark.parametrize("view", [np.s_[:], np.s_[10:20], np.s_[99:], np.s_[7, 3:500]])
@pytest.mark.parametrize("plain", [False, True])
def test_what_is_mapped_goes_by_the_name_of_its_file(mapped, view, plain, tmp_path):
    array = np.asarray(mapped[view]) if plain else mapped[view]
    parcel = pack([array], same_files=True)
    assert sum(b.nbytes for b in parcel.buffers) == 0
    assert len(parcel.pickled) < 2000
    (opened,) = parcel.open(remember=False)
    np.testing.assert_array_equal(opened, array)
    assert not opened.flags.writeable
    assert opened.flags.aligned


def test_only_what_is_in_the_file_goes_by_its_name(mapped, tmp_path):
    assert file_range(np.arange(10)) is None
    assert file_range(mapped[:, 3]) is None  # not contiguous
    assert file_range(mapped + 0) is None
    private = np.load(tmp_path / "table.npy", mmap_mode="c")
    private[0, 0] = -1.0
    assert file_range(private) is None
    np.testing.assert_array_equal(pack(private, same_files=True).open(remember=False)[0, :2], [-1.0, 1.0])


def test_another_file_of_the_same_name_is_not_taken_for_it(mapped, tmp_path):
    """The map is that of the old file, which has no name any more."""
    parcel = pack(mapped, same_files=True)
    np.save(tmp_path / "new.npy", -np.arange(100_000.0).reshape(100, 1000))
    (tmp_path / "new.npy").replace(tmp_path / "table.npy")
    with pytest.raises(InvalidData, match="changed"):
        parcel.open(remember=False)
    assert file_range(mapped) is None
    np.testing.assert_array_equal(pack(mapped, same_files=True).open(remember=False), np.asarray(mapped))
    (tmp_path / "table.npy").unlink()
    with pytest.raises(InvalidData, match="see the same files"):
        parcel.open(remember=False)


def test_a_folder_that_a_worker_does_not_see_is_named(tmp_path):
    files = pack(ARRAYS, same_files=True).write(tmp_path / "a")
    (tmp_path / "a" / "buffers").unlink()
    with pytest.raises(InvalidData, match="TMPDIR"):
        files.open(remember=False)


def test_what_is_thawed_is_nobody_elses():
    frozen = Frozen.of({"a": np.arange(3), "f": lambda x: x + 1})
    one, other = frozen.thaw(), frozen.thaw()
    one["a"][0] = 7
    assert other["a"][0] == 0
    assert one["f"](1) == 2
    gc.collect()
    assert frozen.thaw()["a"].flags.writeable
