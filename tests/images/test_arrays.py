"""Images in arrays: .npy, .npz, in colour and in grey."""

import pickle

import numpy as np
import pytest

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.images import open_images

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 8, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_images_are_those_of_the_array(tmp_path, kind):
    path = tmp_path / ("my images.npy" if kind == "npy" else "my images.npz")
    {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[kind](path, PIXELS)
    images = open_images(path)
    for copy in (images, pickle.loads(pickle.dumps(images))):
        for index in (0, 7, 299):
            np.testing.assert_array_equal(np.asarray(copy.read(index)), PIXELS[index])
    assert list(images.names) == [str(index) for index in range(300)]
    assert len(pickle.dumps(images)) < 20_000  # the array is not sent to processes


def test_the_hash_of_each_image_is_in_its_identity(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    before = list(open_images(tmp_path / "a.npy").identities())
    assert len(set(before)) == 300
    changed = PIXELS.copy()
    changed[290, 3, 3, 1] ^= 1
    np.savez(tmp_path / "b.npz", changed)
    after = list(open_images(tmp_path / "b.npz").identities())
    assert [old != new for old, new in zip(before, after, strict=True)] == [index == 290 for index in range(300)]


def test_order_of_memory_is_of_no_account(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    np.save(tmp_path / "b.npy", np.asfortranarray(PIXELS))
    assert list(open_images(tmp_path / "a.npy").identities()) == list(open_images(tmp_path / "b.npy").identities())


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 28, 28, 1)])
def test_grey_images_become_rgb(tmp_path, shape):
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", grey)
    image = np.asarray(open_images(tmp_path / "a.npy").read(4))
    np.testing.assert_array_equal(image, np.repeat(grey[4].reshape(28, 28, 1), 3, axis=2))


def test_one_of_several_arrays_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, train_images=PIXELS, train_labels=np.arange(300)[:, None], names=np.array(["x"] * 300))
    with pytest.raises(DataError, match=r"found 3 arrays: train_images, train_labels, names; .*IMAGES\.COLUMN"):
        open_images(path)
    images = open_images(path, column="train_images", labels=("train_labels",))
    assert images.labels.tolist() == list(range(300))
    assert open_images(path, column="train_images", labels=("names",)).labels.tolist() == ["x"] * 300
    with pytest.raises(DataError, match=r"found no array 'images'; allowed: train_images \| train_labels \| names"):
        open_images(path, column="images")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS.transpose(0, 3, 1, 2), r"uint8 of shape \(300, 3, 8, 6\).* array.transpose\(0, 2, 3, 1\)"),
        (PIXELS / 255, "float64 of shape .* as uint8"),
        (PIXELS[0], r"uint8 of shape \(8, 6, 3\)"),
        (PIXELS[:0], r"uint8 of shape \(0, 8, 6, 3\)"),
        (PIXELS.reshape(300, -1), "allowed: images as uint8"),
        (np.array([{}, {}], dtype=object), "Python objects, whose reading could run code"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_other_arrays_are_refused(tmp_path, array, message, ending):
    (np.save if ending == "npy" else np.savez)(tmp_path / f"a.{ending}", array)
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_damaged_arrays_are_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    (np.save if ending == "npy" else np.savez)(path, PIXELS)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read as"):
        open_images(path)
