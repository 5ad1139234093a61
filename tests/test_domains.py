import pytest
import torch

from medsynth import domains
from medsynth.errors import ProtocolError


def test_domains_are_found_by_their_file_s_name():
    assert domains.names() == ("chest_xray", "fundus", "histology")
    assert all(domains.domain(name).name == name for name in domains.names())


def test_unknown_domain_names_those_there_are():
    with pytest.raises(ProtocolError, match="expected one of chest_xray, fundus, histology"):
        domains.domain("nose")


@pytest.mark.parametrize("name", domains.names())
@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64)])
def test_preparing_gives_a_square_in_range(name, shape):
    domain = domains.domain(name)
    image = torch.rand(domain.channels, *shape) * 1.2 + 0.1
    made = domain.prepare(32)(image)
    assert tuple(made.shape) == (domain.channels, 32, 32)
    assert made.min() >= 0
    assert made.max() <= 1


def test_fundus_is_cropped_to_its_field_of_view_and_stays_round():
    rows, columns = torch.meshgrid(torch.arange(100), torch.arange(160), indexing="ij")
    disc = ((rows - 50) ** 2 + (columns - 100) ** 2 < 40**2).float().expand(3, -1, -1)
    made = domains.domain("fundus").prepare(64)(disc.clone())
    assert made[:, 32].mean() > 0.95  # the disc spans the whole width …
    assert made[:, :, 32].mean() > 0.95  # … and the whole height
    assert made[:, 0, 0].max() < 0.05


@pytest.mark.parametrize(("eye", "mirrored"), [("left", "right"), ("R", "L"), ("OS", "OD")])
def test_a_mirrored_left_eye_is_a_right_eye(eye, mirrored):
    fundus = domains.domain("fundus")
    labels = {"laterality": eye, "disease": "left alone"}
    assert fundus.mirror(labels) == {"laterality": mirrored, "disease": "left alone"}
    assert fundus.mirror(fundus.mirror(labels)) == labels


def test_chests_are_never_mirrored_in_training():
    assert domains.domain("chest_xray").augmentations == "identity"


@pytest.mark.parametrize("sides", [(64, 64), (65, 90), (120, 33), (20, 20)])
def test_reducing_gives_each_pixel_the_mean_over_its_area(sides):
    image = torch.rand(2, *sides, generator=torch.Generator().manual_seed(0))
    made = domains.area_mean(image, 32)
    # Every pixel cut into 32 x 32, so that areas begin and end between whole pixels.
    fine = image.double().repeat_interleave(32, 1).repeat_interleave(32, 2)
    expected = fine.reshape(2, 32, sides[0], 32, sides[1]).mean((2, 4))
    torch.testing.assert_close(made.double(), expected, atol=1e-6, rtol=0)


def test_an_image_of_the_right_size_stays_as_it_is():
    image = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(domains.area_mean(image, 48), image)
    assert torch.allclose(domains.area_mean(torch.ones(1, 97, 53), 32), torch.ones(1, 32, 32))
