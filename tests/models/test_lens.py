import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medsynth.errors import DataError
from medsynth.models.lens import Lens, features, open_weights
from medsynth.runtime import digest_file


def lens() -> Lens:
    torch.manual_seed(0)
    return Lens(channels=1, width=8, features=16).eval()


def images(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 1, 32, 32)).astype(np.float32)


def test_features_have_unit_length_and_do_not_depend_on_the_batch():
    rows = features(lens(), device="cpu", batch=2)(images())
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows, features(lens(), device="cpu")(images()), atol=1e-5)


def test_pinned_lens_gives_the_same_features(tmp_path):
    path = tmp_path / "lens.safetensors"
    lens().save(path)
    again = features(open_weights(path, digest_file(path)), device="cpu")
    np.testing.assert_array_equal(again(images()), features(lens(), device="cpu")(images()))


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    path = tmp_path / "lens.safetensors"
    lens().save(path)
    with pytest.raises(DataError, match="not the pinned file"):
        open_weights(path, "0" * 64)


def test_exported_network_of_another_make_is_a_lens(tmp_path):
    path = tmp_path / "net.pt2"
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(network, (torch.rand(4, 3, 32, 32),), dynamic_shapes=({0: batch},)),
        path,
    )
    rows = features(open_weights(path, digest_file(path)), device="cpu")(images())
    grey = torch.from_numpy((images() + 1) / 2).expand(-1, 3, -1, -1)
    expected = torch.nn.functional.normalize(network(grey), dim=1).numpy()
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["lens.pth", "absent.safetensors"])
def test_other_files_are_refused(tmp_path, name):
    path = tmp_path / name
    if name.endswith("pth"):
        path.write_bytes(b"weights")
    sha256 = digest_file(path) if path.exists() else "0" * 64
    with pytest.raises(DataError, match=r"expected a \.safetensors or \.pt2|does not exist"):
        open_weights(path, sha256)


def test_a_lens_that_an_older_version_trained_still_opens(tmp_path):
    torch.manual_seed(0)
    older = Lens(channels=1, width=8, features=16, places=0).eval()
    del older.config["places"]  # it was not written
    path = tmp_path / "lens.safetensors"
    save = {key: value.contiguous() for key, value in older.state_dict().items()}
    save_file(save, path, metadata={"medsynth_lens": json.dumps(older.config)})
    again = features(Lens.load(path), device="cpu")(images())
    maps = older.body(torch.from_numpy(images()))
    pooled = older.out(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
    expected = torch.nn.functional.normalize(pooled, dim=1).detach().numpy()
    np.testing.assert_allclose(again, expected, atol=1e-5)


@pytest.mark.parametrize("size", [32, 64, 72])
def test_a_lens_takes_images_of_any_size(size):
    rows = lens()(torch.zeros(2, 1, size, size))
    assert rows.shape == (2, 16)
