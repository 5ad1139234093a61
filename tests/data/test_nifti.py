"""NIfTI: whatever the order of its voxels, the same picture, turned as radiologists look at it."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_images import noise, read, reason
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medsynth.data.badimage import BadImage
from medsynth.data.nifti import slices
from medsynth.protocol import Data

SHAPE = (16, 20, 24)  # right, front, up: all different


def head():
    """A volume (right, front, up) of which every direction has its mark, as in a patient.

    The right side is bright, the front has a nose in the middle, the top a white crown.
    """
    volume = np.full(SHAPE, 20, np.uint8)
    volume[11:15, 4:16, 4:20] = 120  # right
    volume[7:9, 16:19, 10:14] = 200  # nose, in front
    volume[3:13, 3:17, 20:22] = 255  # crown, on top
    return volume


def stored_as(volume, codes, affine=None):
    """The same patient, with the voxels in another order: "RAS", "LPS", "SAR" ..."""
    affine = np.eye(4) if affine is None else affine
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = nibabel.orientations.apply_orientation(volume, turn)
    return turned, affine @ inv_ornt_aff(turn, volume.shape)


def write(path, volume, codes="RAS", kind=nibabel.Nifti1Image, affine=None, **header):
    turned, affine = stored_as(volume, codes, affine)
    image = kind(np.ascontiguousarray(turned), affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def where(picture, low, high):
    """The middle (row, column) of the values between two bounds, as shares of the picture."""
    rows, columns = np.nonzero((picture > low) & (picture < high))
    return rows.mean() / len(picture), columns.mean() / picture.shape[1]


ORDERS = sorted(
    "".join(pair[i] for pair, i in zip(axes, ends, strict=True))
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for ends in itertools.product((0, 1), repeat=3)
)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_all_48_orders_of_the_voxels_give_the_same_picture(tmp_path, plane):
    expected = read(write(tmp_path / "a.nii", head()), plane=plane, frame=12)
    for codes in ORDERS:
        image = read(write(tmp_path / f"{codes}.nii", head(), codes), plane=plane, frame=12)
        np.testing.assert_array_equal(image, expected)
    assert len(ORDERS) == 48


def test_an_axial_slice_has_the_front_above_and_right_on_the_left(tmp_path):
    picture = read(write(tmp_path / "a.nii", head(), "LPS"), plane="axial", frame=12)[0] * 255
    assert picture.shape == (20, 16)
    nose, right = where(picture, 190, 210), where(picture, 110, 130)
    assert nose[0] < 0.2
    assert right[1] < 0.3
    assert not (picture > 250).any()  # the crown is higher up
    assert (read(tmp_path / "a.nii", plane="axial", frame=21) > 0.99).any()


def test_a_coronal_slice_has_the_head_above_and_right_on_the_left(tmp_path):
    picture = read(write(tmp_path / "a.nii", head(), "ASL"), plane="coronal", frame=10)[0] * 255
    assert picture.shape == (24, 16)
    assert where(picture, 250, 256)[0] < 0.2
    assert where(picture, 110, 130)[1] < 0.3
    assert (read(tmp_path / "a.nii", plane="coronal", frame=17) * 255 == 200).any()  # in front


def test_a_sagittal_slice_has_the_head_above_and_the_front_on_the_left(tmp_path):
    picture = read(write(tmp_path / "a.nii", head(), "IRP"), plane="sagittal", frame=7)[0] * 255
    assert picture.shape == (24, 20)
    assert where(picture, 250, 256)[0] < 0.2
    assert where(picture, 190, 210)[1] < 0.2
    assert (np.rint(read(tmp_path / "a.nii", plane="sagittal", frame=12) * 255) == 120).any()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_plain_and_gzipped_files_of_both_versions_are_the_same(tmp_path, name, kind):
    expected = read(write(tmp_path / "first.nii", head()))
    np.testing.assert_array_equal(read(write(tmp_path / name, head(), kind=kind)), expected)
    (tmp_path / name).rename(tmp_path / "b.png")  # the content decides
    np.testing.assert_array_equal(read(tmp_path / "b.png"), expected)


def test_the_other_byte_order_is_read(tmp_path):
    image = nibabel.Nifti1Image(
        head().astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">")
    )
    nibabel.save(image, tmp_path / "a.nii")
    window = (0.0, 255.0)
    expected = read(write(tmp_path / "b.nii", head()))
    np.testing.assert_allclose(read(tmp_path / "a.nii", window=window), expected, atol=1e-6)


def test_a_single_slice_lies_as_it_lies(tmp_path):
    flat = head()[:, :, 12:13]
    expected = read(write(tmp_path / "a.nii", head()), plane="axial", frame=12)
    for name, volume in (("b.nii", flat), ("c.nii", flat[..., 0])):
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / name)
        np.testing.assert_array_equal(read(tmp_path / name, plane="coronal"), expected)


def test_voxels_that_are_not_square_are_stretched(tmp_path):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    image = read(write(tmp_path / "a.nii", head(), "PIR", affine=affine), plane="coronal", frame=10)
    assert image.shape == (1, 72, 16)
    thin = read(write(tmp_path / "b.nii", head()), plane="coronal", frame=10)
    np.testing.assert_allclose(image[:, 1::3], thin, atol=1e-6)  # the middles of the old rows
    np.testing.assert_allclose(image[0, 2], thin[0, 0] * 2 / 3 + thin[0, 1] / 3, atol=1e-6)


# Which slices -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("plane", "count"), [("sagittal", 16), ("coronal", 20), ("axial", 24)])
def test_slices_are_the_middle_one_or_every_so_many(tmp_path, plane, count):
    path = write(tmp_path / "a.nii", head(), "SLA")
    assert slices(path, Data(slice_plane=plane)) == [count // 2]
    assert slices(path, Data(slice_plane=plane, slice_step=5)) == list(range(0, count, 5))
    np.testing.assert_array_equal(
        read(path, plane=plane), read(path, plane=plane, frame=count // 2)
    )
    assert f"slice {count} of {count}" in reason(path, plane=plane, frame=count)


def test_of_several_volumes_one_must_be_chosen(tmp_path):
    four = np.stack([head() // 2, head()], -1)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "a.nii")
    assert "2 volumes" in reason(tmp_path / "a.nii")
    with pytest.raises(BadImage, match="2 volumes"):
        slices(tmp_path / "a.nii", Data())
    assert slices(tmp_path / "a.nii", Data(frame=1)) == [24 + 12]
    expected = read(write(tmp_path / "b.nii", head()))
    np.testing.assert_array_equal(read(tmp_path / "a.nii", frame=36), expected)
    with pytest.raises(BadImage, match="frame 2 of 2"):
        slices(tmp_path / "a.nii", Data(frame=2))


# Values -----------------------------------------------------------------------------------------


def test_values_are_seen_through_the_protocol_s_window_then_the_header_s(tmp_path):
    hounsfield = head().astype(np.int16) * 10 - 1000
    expected = np.clip((head()[..., 12] * 10.0 - 1000 + 160) / 400, 0, 1)[::-1, ::-1].T
    path = write(tmp_path / "a.nii", hounsfield)
    assert reason(path).startswith("undeclared range")
    np.testing.assert_allclose(read(path, window=(-160.0, 240.0))[0], expected, atol=1e-6)
    path = write(tmp_path / "b.nii", hounsfield, cal_min=-160, cal_max=240)
    np.testing.assert_allclose(read(path)[0], expected, atol=1e-6)
    assert np.ptp(read(path, window=(-1000.0, 5000.0))) < 0.5


def test_slope_and_shift_of_the_header_are_applied(tmp_path):
    image = nibabel.Nifti1Image(head(), np.eye(4))
    image.header.set_slope_inter(0.5, -3.0)
    nibabel.save(image, tmp_path / "a.nii")
    loaded = nibabel.load(tmp_path / "a.nii")
    values = np.asarray(loaded.dataobj)[:, :, 12][::-1, ::-1].T  # nibabel scales on its own
    assert reason(tmp_path / "a.nii").startswith("undeclared range")
    seen = read(tmp_path / "a.nii", window=(0.0, 130.0))[0]
    np.testing.assert_allclose(seen, np.clip(values / 130, 0, 1), atol=1e-6)


def test_floats_that_are_no_numbers_are_refused(tmp_path):
    volume = head() / 255.0
    volume[5, 5, 12] = np.nan
    path = write(tmp_path / "a.nii", volume.astype(np.float32), cal_max=1)
    assert reason(path).startswith("NaN or infinite")


def test_colours_and_complex_numbers_are_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(head().astype(np.complex64), np.eye(4)), tmp_path / "a.nii")
    assert reason(tmp_path / "a.nii").startswith("wrong channels")


# Damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_cut_anywhere_never_passes_as_whole(tmp_path, name):
    whole = write(tmp_path / name, noise(*SHAPE)).read_bytes()
    for share in (0.02, 0.1, 0.5, 0.99, 1 - 1 / len(whole)):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        assert reason(tmp_path / name).startswith(("truncated", "not an image"))
        with pytest.raises(BadImage):
            slices(tmp_path / name, Data())


def test_a_packed_bomb_is_refused_by_its_header_alone(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((30_000, 30_000, 30_000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    assert reason(tmp_path / "a.nii.gz").startswith("decompression bomb")
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4))
    assert reason(tmp_path / "a.nii").startswith(("decompression bomb", "truncated"))


def test_absurd_sides_of_voxels_are_refused(tmp_path):
    affine = np.diag([1.0, 1e7, 1.0, 1.0])
    path = write(tmp_path / "a.nii", head(), affine=affine)
    assert reason(path).startswith("decompression bomb")


def test_a_header_without_directions_is_refused(tmp_path):
    write(tmp_path / "a.nii", head())
    image = nibabel.load(tmp_path / "a.nii")
    header = image.header.copy()
    for row in ("srow_x", "srow_y", "srow_z"):
        header[row] = (1, 0, 0, 0)
    header["sform_code"], header["vox_offset"] = 1, 352
    data = header.binaryblock + bytes(4) + head().tobytes(order="F")
    (tmp_path / "b.nii").write_bytes(data)
    assert "where right and up are" in reason(tmp_path / "b.nii")


def test_nothing_that_a_header_says_in_words_comes_out(tmp_path, caplog, capfd):
    path = write(
        tmp_path / "a.nii", head().astype(np.int16), descrip=b"Doe Jane", db_name=b"MRN-47"
    )
    message = reason(path)
    out = capfd.readouterr()
    assert "Doe" not in message + caplog.text + out.out + out.err
    assert "MRN" not in message + caplog.text + out.out + out.err


def test_nibabel_s_own_volume_is_read():
    path = Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
    volume = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    black, white = volume.min(), volume.max()
    for plane, axis in (("sagittal", 0), ("coronal", 1), ("axial", 2)):
        number = volume.shape[axis] // 3
        picture = read(path, plane=plane, frame=number, window=(black, white))[0]
        expected = (np.take(volume, number, axis)[::-1, ::-1].T - black) / (white - black)
        np.testing.assert_allclose(picture, expected, atol=1e-6)
