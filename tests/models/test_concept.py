"""A concept of one vector is one more row of the token table; of several, what attention hears."""

import pytest
import torch

from medsynth import protocol
from medsynth.errors import DataError
from medsynth.models.concept import Concept, Taught
from medsynth.models.denoiser import Denoiser

TRAINING = protocol.Optimiser(images=8, batch=8, learning_rate=1e-3)
DIFFUSION = protocol.Diffusion(
    widths=(16, 32), attention=(False, True), layers=1, groups=8, training=TRAINING
)
TOKENS = 4
PLAIN = torch.tensor([[1, 3], [2, 0], [0, 0]])
NAMED = torch.tensor([[TOKENS, 3], [TOKENS, 0], [0, 0]])


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    built = Denoiser.build(DIFFUSION, latent_channels=4, latent_px=8, tokens=TOKENS).eval()
    for parameter in built.unet.parameters():  # attention starts near nothing
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return built


@pytest.fixture
def seen():
    torch.manual_seed(1)
    return torch.randn(3, 4, 8, 8), torch.tensor([900, 500, 40])


def with_rows(denoiser: Denoiser, rows: torch.Tensor) -> Denoiser:
    """The denoiser whose token table has these rows too."""
    table = torch.cat([denoiser.tokens.weight.detach(), rows])
    return Denoiser(denoiser.unet, torch.nn.Embedding.from_pretrained(table)).eval()


@torch.no_grad()
def test_concept_of_one_vector_is_one_more_row_of_the_token_table(denoiser, seen):
    row = torch.randn(1, 32)
    wanted = with_rows(denoiser, row)(*seen, NAMED)
    made = Taught(denoiser, Concept(row, TOKENS))(*seen, NAMED)
    assert torch.equal(made, wanted)
    assert abs(made - denoiser(*seen, PLAIN)).amax((1, 2, 3))[0] > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3])
def test_what_does_not_name_the_concept_is_as_the_denoiser_has_it(denoiser, seen, count):
    taught = Taught(denoiser, Concept(torch.randn(count, 32), TOKENS))
    wanted, mixed = denoiser(*seen, PLAIN), torch.stack([NAMED[0], PLAIN[1], PLAIN[2]])
    torch.testing.assert_close(taught(*seen, PLAIN), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(taught(*seen, mixed)[1:], wanted[1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_several_vectors_are_as_many_words_and_their_mean_in_one_place(denoiser, seen):
    """Held against the network itself, called with the words written out."""
    vectors, (x, t) = torch.randn(3, 32), seen
    other = denoiser.tokens.weight[3]
    words = torch.stack([vectors[0], other, vectors[1], vectors[2]])[None]
    label = (vectors.mean(0) + other)[None] / 2
    wanted = denoiser.unet(x[:1], t[:1], words, class_labels=label).sample
    made = Taught(denoiser, Concept(vectors, TOKENS))(x[:1], t[:1], NAMED[:1])
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_order_of_the_vectors_does_not_matter(denoiser, seen):
    vectors = torch.randn(4, 32)
    one, other = (
        Taught(denoiser, Concept(rows, TOKENS))(*seen, NAMED) for rows in (vectors, vectors.flip(0))
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@torch.no_grad()
def test_concept_starts_as_its_known_token(denoiser, seen):
    concept = Concept.start(denoiser, 2, count=1, seed=5)
    known = NAMED.masked_fill(NAMED == TOKENS, 2)
    assert torch.equal(Taught(denoiser, concept)(*seen, NAMED), denoiser(*seen, known))
    more = Concept.start(denoiser, 2, count=3, seed=5).vectors
    assert torch.equal(more[0], denoiser.tokens.weight[2])
    distance = (more[1:] - more[0]).norm(dim=1) / more[0].norm()
    assert ((distance > 0.05) & (distance < 0.2)).all()
    assert not torch.equal(more[1], more[2])


def test_concept_is_a_tiny_file_that_says_whose_it_is(denoiser, tmp_path):
    concept = Concept.start(denoiser, 2, count=4, seed=5)
    concept.save(tmp_path)
    read = Concept.load(tmp_path, denoiser)
    assert torch.equal(read.vectors, concept.vectors)
    assert read.token == TOKENS
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10_000
    small = DIFFUSION.model_copy(update={"widths": (8, 16)})
    other = Denoiser.build(small, latent_channels=4, latent_px=8, tokens=TOKENS)
    with pytest.raises(DataError, match="another denoiser"):
        Concept.load(tmp_path, other)
