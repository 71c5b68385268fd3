"""Images in an LMDB that the library itself has written."""

import multiprocessing
import pickle

import lmdb
import pytest
from pictures import encoded, numbers_in, turned

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.images import open_images


def write_lmdb(place, values, **options):
    with lmdb.open(str(place), map_size=1 << 24, **options) as base, base.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return place


def values(count: int = 5) -> dict[bytes, bytes]:
    return {f"{number:04d}".encode(): encoded(number) for number in reversed(range(count))}


def read_all(images, answers):
    answers.put(numbers_in(images))


@pytest.mark.parametrize("place", ["my base", "base.mdb", "base_lmdb.lmdb"])
def test_values_are_read_in_the_order_of_their_keys(tmp_path, place):
    write_lmdb(tmp_path / place, values(), subdir=place == "my base")
    images = open_images(tmp_path / place)
    assert list(images.names) == ["0000", "0001", "0002", "0003", "0004"]
    assert numbers_in(images) == [0, 1, 2, 3, 4]
    assert next(images.identities()).split()[1] == f"{len(encoded(0))},upright"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_it_themselves(tmp_path, method):
    images = open_images(write_lmdb(tmp_path / "base", values()))
    images.read(0)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    reader = context.Process(target=read_all, args=(images, answers))
    reader.start()
    assert answers.get(timeout=120) == [0, 1, 2, 3, 4]
    reader.join()
    assert numbers_in(pickle.loads(pickle.dumps(images))) == [0, 1, 2, 3, 4]


def test_keys_of_the_writer_are_left_out_and_any_key_is_a_name(tmp_path):
    given = {b"__len__": b"2", b"\xff\xfe": encoded(1), "höhle".encode(): encoded(2), b"no image": b"hello"}
    images = open_images(write_lmdb(tmp_path / "base", given))
    assert [name.encode("utf-8", "surrogateescape") for name in images.names] == [*sorted(given)[1:]]
    with pytest.raises(Exception, match="cannot identify image file"):
        images.read(list(images.names).index("no image"))


def test_exif_is_honoured_and_counted(tmp_path):
    write_lmdb(tmp_path / "base", {b"a": turned(1, 6)})
    assert open_images(tmp_path / "base").read(0).size == (10, 20)
    as_stored = open_images(tmp_path / "base", exif=False)
    assert (as_stored.read(0).size, as_stored.num_ignored_orientations) == ((20, 10), 1)


def test_an_empty_one_and_what_is_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="found no value"):
        open_images(write_lmdb(tmp_path / "base", {}))
    (tmp_path / "x.mdb").write_bytes(b"no base" * 1000)
    with pytest.raises(DataError, match=r"x\.mdb cannot be read as an LMDB"):
        open_images(tmp_path / "x.mdb")
