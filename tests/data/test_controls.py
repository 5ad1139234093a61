import numpy as np
import pytest

from medsynth.data import phantoms
from medsynth.data.control_files import origin_of, read_maps, say_origin, write_maps
from medsynth.data.controls import (
    EXTRACTORS,
    as_pictures,
    canny,
    extract,
    harden,
    heat_map,
    hough,
    keypoints,
    one_hot,
    points_of,
    soft_edges,
    to_classes,
    vessels,
)
from medsynth.data.masks import bring, crop_like, values_of
from medsynth.domains import domain
from medsynth.errors import DataError

SIDE = 64


def blank(channels: int = 1) -> np.ndarray:
    return np.full((channels, SIDE, SIDE), 0.2, np.float32)


def square() -> np.ndarray:
    """A bright square from 16 to 48 on grey."""
    image = blank()
    image[:, 16:48, 16:48] = 0.9
    return image


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_maps_are_images_in_zero_to_one_and_empty_where_there_is_nothing(kind):
    chest = phantoms.draw("chest_xray", 3, 0, 1, SIDE)[0].transpose(2, 0, 1) / 127.5 - 1
    maps = extract(np.stack([chest, blank()]).astype(np.float32), [kind])
    assert maps.shape == (2, 1, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert maps[0].any()
    assert not maps[1].any()


def test_canny_and_hough_lie_on_the_edges_of_a_square():
    rim = np.zeros((SIDE, SIDE), bool)
    rim[14:50, 14:50] = True
    rim[18:46, 18:46] = False
    for found in (canny(square()), hough(square())):
        assert found.sum() > 60
        assert not found[~rim].any()


def test_soft_edges_grow_with_contrast():
    faint = blank() + (square() - blank()) * 0.1
    assert soft_edges(square()).max() > 2 * soft_edges(faint).max() > 0


def test_vessels_are_dark_lines_and_not_bright_ones():
    image = blank(3)
    image[:, :, 20:22] -= 0.4
    image[:, :, 44:46] += 0.4
    found = vessels(image)
    assert found[8:-8, 20:22].all()
    assert not found[8:-8, 44:46].any()


def test_keypoints_are_the_corners_of_a_square():
    found = points_of(keypoints(square()))
    corners = np.array([[16, 16], [16, 47], [47, 16], [47, 47]])
    assert len(found) == 4
    apart = np.linalg.norm(corners[:, None] - found[None], axis=2)
    assert apart.min(1).max() < 4


def test_points_come_back_from_their_heat_map():
    points = np.array([[5, 9], [30, 40], [60, 2]])
    assert points_of(heat_map(points, SIDE)).tolist() == points.tolist()
    assert points_of(heat_map(np.zeros((0, 2)), SIDE)).shape == (0, 2)


def test_kinds_are_stacked_in_the_order_asked_for():
    both = extract(square()[None], ["soft_edges", "canny"])
    assert np.array_equal(both[0, 0], soft_edges(square()))
    assert np.array_equal(both[0, 1], canny(square()))


def test_classes_survive_one_hot_and_half_of_a_pixel_is_background():
    classes = np.random.default_rng(0).choice([0, 3, 7], (2, 8, 8)).astype(np.uint8)
    assert np.array_equal(to_classes(one_hot(classes, (3, 7)), (3, 7)), classes)
    assert to_classes(np.full((1, 1, 1, 1), 0.49), (3,))[0, 0, 0] == 0


# Files --------------------------------------------------------------------------------------------


def write(folder, *, origin=None):
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 3, 7], (2, 16, 16)).astype(np.uint8)
    maps = np.concatenate([rng.integers(0, 2, (2, 1, 16, 16)), one_hot(classes, (3, 7))], 1)
    write_maps(folder, ["a", "b"], maps, ["canny", "mask"], values=(3, 7))
    if origin:
        say_origin(folder, origin)
    return maps


def test_maps_come_back_from_files(tmp_path):
    maps = write(tmp_path)
    again = read_maps(tmp_path, ["canny", "mask"], values=(3, 7), size_px=16)
    assert again.names == ("a", "b")
    assert np.array_equal(again.maps, maps)


def test_maps_count_as_patients_unless_they_say_otherwise_and_are_unchanged(tmp_path):
    write(tmp_path)
    assert origin_of(tmp_path) == "derived"
    say_origin(tmp_path, "synthetic")
    assert origin_of(tmp_path) == "synthetic"
    (tmp_path / "canny" / "c.png").write_bytes((tmp_path / "canny" / "a.png").read_bytes())
    assert origin_of(tmp_path) == "derived"


def test_a_missing_kind_or_name_is_an_error(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match="a folder hough/"):
        read_maps(tmp_path, ["canny", "hough"], size_px=16)
    (tmp_path / "mask" / "b.png").unlink()
    with pytest.raises(DataError, match="the same names"):
        read_maps(tmp_path, ["canny", "mask"], values=(3, 7), size_px=16)


# Masks of images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fundus", "chest_xray", "histology"])
def test_a_mask_is_cropped_just_as_its_image(name):
    kind = domain(name)
    image = np.random.default_rng(0).uniform(0.3, 1, (kind.channels, 50, 70)).astype(np.float32)
    image[:, :12] = 0
    image[:, :, :5] = 0
    import torch
    from monai.transforms import Compose

    wanted = np.asarray(Compose(kind.crop())(torch.from_numpy(image)))
    assert np.array_equal(crop_like(image, image, kind), wanted)


def test_photographs_are_no_masks_and_a_mask_is_as_large_as_its_image():
    from tiny import study

    with pytest.raises(DataError, match="1 to 32 classes"):
        values_of([np.arange(256, dtype=np.uint8)])
    with pytest.raises(DataError, match="as large as its image, 40 x 40 px, got 20 x 30"):
        bring(np.zeros((30, 20), np.uint8), (1,), np.zeros((1, 40, 40), np.float32), study())


def test_a_pixel_shows_the_largest_class_where_classes_cover_enough_of_it():
    shares = np.float32([[0.3, 0.3], [0.6, 0.0], [0.1, 0.2], [0.2, 0.2]]).T[None, :, None]
    assert harden(shares, (3, 7), 0.5).tolist() == [[[3, 3, 0, 0]]]
    assert harden(shares, (3, 7), 0.3).tolist() == [[[3, 3, 7, 3]]]
    whole = one_hot(np.uint8([[[0, 3, 7]]]), (3, 7))
    assert np.array_equal(harden(whole, (3, 7), 1.0), [[[0, 3, 7]]])


def test_masks_as_pictures_have_a_grey_level_a_class():
    pictures = as_pictures(np.uint8([[[0, 3, 7]]]), (3, 7), 3)
    assert pictures.shape == (1, 1, 3, 3)
    assert pictures[0, 0, :, 0].tolist() == [0, 128, 255]
