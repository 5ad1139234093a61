"""Files of many images: each comes out by its number, one at a time, and never by a trick."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from made_images import noise, read, reason

from medsynth.data import arrays
from medsynth.data.badimage import BadImage

h5py = pytest.importorskip("h5py")

SIDES = (20, 24)


def medmnist(path, packed=True, **others):
    """A file as MedMNIST publishes them: parts in any order, labels beside."""
    parts = {"val": 3, "train": 5, "test": 2}
    images = {f"{part}_images": noise(n, *SIDES, 3, seed=n) for part, n in parts.items()}
    labels = {f"{part}_labels": np.zeros((n, 1), np.uint8) for part, n in parts.items()}
    (np.savez_compressed if packed else np.savez)(path, **labels, **images, **others)
    return [*images["train_images"], *images["val_images"], *images["test_images"]]


def pcam(path, **options):
    images = noise(6, *SIDES, 3)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=images, **options)
    return list(images)


def write_h5(path, **sets):
    with h5py.File(path, "w") as file:
        for name, value in sets.items():
            file[name] = value
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_images_are_counted_through_train_val_and_test(tmp_path, packed):
    expected = medmnist(tmp_path / "a.npz", packed)
    assert list(arrays.members(tmp_path / "a.npz").items()) == [
        ("train_images", 5), ("val_images", 3), ("test_images", 2)
    ]  # fmt: skip
    for number in (0, 4, 5, 9, 8, 1):  # back, too
        image = read(tmp_path / "a.npz", frame=number)
        np.testing.assert_array_equal(np.rint(image * 255), expected[number].transpose(2, 0, 1))


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (1, *SIDES, 3)}])
def test_an_h5_gives_its_images(tmp_path, options):
    expected = pcam(tmp_path / "a.h5", **options)
    assert arrays.members(tmp_path / "a.h5") == {"x": 6}
    for number in (5, 0, 3):
        image = read(tmp_path / "a.h5", frame=number)
        np.testing.assert_array_equal(np.rint(image * 255), expected[number].transpose(2, 0, 1))


def test_grey_images_have_no_last_axis(tmp_path):
    images = noise(4, *SIDES)
    np.savez(tmp_path / "a.npz", train_images=images)
    np.testing.assert_array_equal(np.rint(read(tmp_path / "a.npz", frame=2)[0] * 255), images[2])


def test_the_content_decides_and_not_the_name(tmp_path):
    medmnist(tmp_path / "a.npz")
    (tmp_path / "a.npz").rename(tmp_path / "a.png")
    assert read(tmp_path / "a.png", frame=0).shape == (3, *SIDES)


def test_one_of_many_must_be_chosen(tmp_path):
    medmnist(tmp_path / "a.npz")
    assert reason(tmp_path / "a.npz") == "multi-frame: 10 images: choose one by data.frame"
    assert "image 10 of 10" in reason(tmp_path / "a.npz", frame=10)
    np.savez(tmp_path / "b.npz", images=noise(1, *SIDES))
    assert read(tmp_path / "b.npz").shape == (1, *SIDES)


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_is_never_in_memory_as_a_whole(tmp_path, packed):
    images = np.tile(noise(40, 64, 64), (20, 1, 1))  # 3.3 MB
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", train_images=images)
    write_h5(tmp_path / "a.h5", x=images)
    for name in ("a.npz", "a.h5"):
        read(tmp_path / name, frame=0)
        tracemalloc.start()
        for number in range(0, 800, 40):
            read(tmp_path / name, frame=number)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < images.nbytes / 4


def test_a_changed_file_is_opened_anew(tmp_path):
    pcam(tmp_path / "a.h5")
    assert read(tmp_path / "a.h5", frame=5).shape == (3, *SIDES)
    (tmp_path / "a.h5").unlink()
    write_h5(tmp_path / "a.h5", x=noise(2, 8, 8))
    assert read(tmp_path / "a.h5", frame=1).shape == (1, 8, 8)


# What is refused --------------------------------------------------------------------------------


def test_a_zip_of_anything_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"\x89PNG")
    assert reason(tmp_path / "a.zip").startswith("not an image: a zip archive")


def test_volumes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=noise(2, 12, 12, 12))
    assert reason(tmp_path / "a.npz", frame=0).startswith("multi-frame: an array of volumes")


def test_a_file_without_images_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", train_labels=np.zeros((3, 1)))
    with pytest.raises(BadImage, match="no array of images"):
        arrays.members(tmp_path / "a.npz")


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    images = np.empty((2, 3, 3), object)
    images[:] = Trap()
    np.savez(tmp_path / "a.npz", train_images=images)
    assert reason(tmp_path / "a.npz", frame=0).startswith("not an image: an array of objects")
    assert not (tmp_path / "sprung").exists()


def test_bombs_are_refused_by_their_header_alone(tmp_path):
    header = io.BytesIO()
    declared = {"descr": "|u1", "fortran_order": False, "shape": (1, 60_000, 60_000)}
    np.lib.format.write_array_header_1_0(header, declared)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"\0" * 100)
    assert reason(tmp_path / "a.npz").startswith("truncated or damaged: the array is not as long")
    with h5py.File(tmp_path / "a.h5", "w") as file:  # of which nothing is stored
        file.create_dataset("x", (1, 60_000, 60_000), np.uint8, chunks=(1, 100, 100))
    assert reason(tmp_path / "a.h5").startswith("decompression bomb: 60000 x 60000")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("x", (10**12, 8, 8), np.uint8, chunks=(1, 8, 8))
    with pytest.raises(BadImage, match="decompression bomb: more than"):
        arrays.members(tmp_path / "b.h5")


@pytest.mark.parametrize("link", ["external", "storage", "virtual"])
def test_an_h5_can_t_reach_into_another_file(tmp_path, link):
    (tmp_path / "in").mkdir()
    pcam(tmp_path / "secret.h5")
    (tmp_path / "secret.raw").write_bytes(b"s" * 2 * 8 * 8)
    with h5py.File(tmp_path / "in" / "a.h5", "w") as file:
        if link == "external":
            file["x"] = h5py.ExternalLink("../secret.h5", "x")
        elif link == "storage":
            file.create_dataset(
                "x", (2, 8, 8), np.uint8, external=[(str(tmp_path / "secret.raw"), 0, 128)]
            )
        else:
            layout = h5py.VirtualLayout((6, *SIDES, 3), np.uint8)
            layout[:] = h5py.VirtualSource("../secret.h5", "x", (6, *SIDES, 3))
            file.create_virtual_dataset("x", layout)
    assert reason(tmp_path / "in" / "a.h5", frame=0).startswith(
        ("outside the folder", "not an image: no array of images")
    )


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_a_file_cut_anywhere_never_passes_as_whole(tmp_path, name):
    (medmnist if name == "a.npz" else pcam)(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        assert reason(tmp_path / name, frame=1).startswith(("truncated", "not an image"))


def test_damage_inside_a_packed_array_is_found(tmp_path):
    images = np.repeat(noise(40, 8, 8), 8, axis=2)
    np.savez_compressed(tmp_path / "a.npz", train_images=images)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff" * 200
    (tmp_path / "a.npz").write_bytes(data)
    assert read(tmp_path / "a.npz", frame=0).shape == (1, 8, 64)
    assert reason(tmp_path / "a.npz", frame=39).startswith("truncated or damaged")
    assert reason(tmp_path / "a.npz", frame=38).startswith("truncated or damaged")
