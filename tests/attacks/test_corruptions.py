from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from attacks.corruptions import EVERY, FAMILIES, corrupted, corruptions
from attacks.corruptions.blur import gaussian_blur, smeared, zoomed
from attacks.corruptions.family import constants, uniform

RANDOM = (
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow",
    "frost", "fog", "elastic_transform",
)  # fmt: skip
each_family = pytest.mark.parametrize("family", EVERY)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def seeds(count, first=0):
    return torch.arange(first, first + count)[:, None] + 1000 * torch.arange(len(EVERY))


def pictures(count, channels, height, width):
    """Squares cut at random out of two photographs."""
    photographs = [torch.tensor(photograph) for photograph in load_sample_images().images]
    rng, found = seeded(1), []
    for i in range(count):
        side = int(torch.randint(160, 427, (), generator=rng))
        top = int(torch.randint(427 - side, (), generator=rng))
        left = int(torch.randint(640 - side, (), generator=rng))
        square = (
            photographs[i % 2][top : top + side, left : left + side].permute(2, 0, 1)[None] / 255
        )
        found.append(F.interpolate(square, size=(height, width), mode="bilinear", antialias=True))
    x = torch.cat(found).clamp(0, 1)
    return x if channels == 3 else x.mean(1, keepdim=True)


def distances(x, family):
    found = [corrupted(x, family, severity, seeds(len(x))) for severity in range(1, 6)]
    return [float((y - x).square().flatten(1).mean(1).sqrt().mean()) for y in found]


def test_every_family_has_five_severities_at_two_sizes():
    assert tuple(FAMILIES) == EVERY
    assert len(EVERY) == 15
    for family in FAMILIES.values():
        assert len(family.small) == len(family.large) == 5
        assert len({len(row) for row in family.small + family.large}) == 1


@each_family
@pytest.mark.parametrize("shape", [(48, 1, 28, 28), (48, 3, 32, 32), (16, 3, 64, 64)])
def test_severity_takes_images_further_away(family, shape):
    far = distances(pictures(*shape), family)
    assert far[0] > 0
    assert all(low < high for low, high in pairwise(far)), far


@pytest.mark.slow
@each_family
def test_severity_takes_large_images_further_away(family):
    far = distances(pictures(8, 3, 224, 224), family)
    assert all(low < high for low, high in pairwise(far)), far


@each_family
@pytest.mark.parametrize(
    "shape",
    [(2, 1, 8, 8), (2, 2, 17, 24), (2, 5, 33, 20), (1, 3, 4, 4), (1, 1, 1, 1), (0, 3, 8, 8)],
)
def test_any_size_and_number_of_channels_stays_an_image(family, shape):
    x = torch.rand(shape, generator=seeded(1))
    for severity in (1, 5):
        points = corrupted(x, family, severity, seeds(shape[0]))
        assert points.shape == x.shape
        assert points.dtype == x.dtype
        assert ((points >= 0) & (points <= 1)).all()


@each_family
def test_black_and_white_images_stay_finite(family):
    x = torch.stack([torch.zeros(3, 12, 12), torch.ones(3, 12, 12)])
    assert corrupted(x, family, 5, seeds(2)).isfinite().all()


@each_family
def test_an_image_meets_the_same_corruption_in_any_batch(family):
    x = pictures(6, 3, 32, 32)
    among_others = corrupted(x, family, 4, seeds(6))
    assert torch.equal(among_others[2:4], corrupted(x[2:4], family, 4, seeds(2, first=2)))
    assert torch.equal(among_others, corrupted(x, family, 4, seeds(6)))


@pytest.mark.parametrize("family", RANDOM)
def test_each_image_and_seed_meets_its_own_corruption(family):
    x = pictures(1, 3, 32, 32).expand(2, -1, -1, -1)
    first, second = corrupted(x, family, 5, seeds(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "family",
    ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform",
     "pixelate", "jpeg_compression"],
)  # fmt: skip
def test_what_moves_or_averages_pixels_leaves_a_plain_image_alone(family):
    x = torch.full((2, 3, 32, 32), 128 / 255)  # the grey that JPEG stores as zero
    for severity in range(1, 6):
        assert torch.allclose(corrupted(x, family, severity, seeds(2)), x, atol=1e-5)


class TestFormulas:
    def test_gaussian_noise_has_the_stated_deviation(self):
        x = torch.full((20, 3, 32, 32), 0.5)
        noise = corrupted(x, "gaussian_noise", 5, seeds(20)) - x
        assert float(noise.std()) == pytest.approx(0.10, rel=0.02)
        assert float(noise.mean()) == pytest.approx(0, abs=0.002)

    def test_shot_noise_keeps_the_mean_and_grows_with_light(self):
        x = torch.full((20, 1, 32, 32), 0.5)
        noisy = corrupted(x, "shot_noise", 5, seeds(20))
        assert float(noisy.mean()) == pytest.approx(0.5, rel=0.01)
        assert float(noisy.var()) == pytest.approx(0.5 / 50, rel=0.05)
        assert not corrupted(0 * x, "shot_noise", 5, seeds(20)).any()

    def test_impulse_noise_sets_the_stated_share_to_black_and_white(self):
        noisy = corrupted(torch.full((20, 3, 32, 32), 0.5), "impulse_noise", 5, seeds(20))
        for value in (0, 1):
            assert float((noisy == value).float().mean()) == pytest.approx(0.035, rel=0.1)
        assert float((noisy == 0.5).float().mean()) == pytest.approx(0.93, rel=0.01)

    def test_gaussian_blur_is_scipys(self):
        x = pictures(1, 1, 20, 31)
        expected = ndimage.gaussian_filter(
            x[0, 0].double().numpy(), 1.3, mode="nearest", truncate=4
        )
        assert np.allclose(gaussian_blur(x, 1.3, truncate=4)[0, 0], expected, atol=1e-5)

    def test_defocus_spreads_a_point_over_a_disk(self):
        x = torch.zeros(1, 1, 224, 224)
        x[0, 0, 112, 112] = 1
        spread = corrupted(x, "defocus_blur", 5, seeds(1))[0, 0]
        rows, columns = (spread > 1e-6).nonzero().T - 112
        reach = float((rows**2 + columns**2).max()) ** 0.5
        assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
        assert 10 <= reach <= 13

    def test_motion_smears_a_point_along_its_angle(self):
        x = torch.zeros(2, 1, 33, 33)
        x[:, 0, 16, 16] = 1
        smears = smeared(x, torch.tensor([0.0, torch.pi / 2]), radius=6, deviation=3)[:, 0]
        assert torch.allclose(smears.sum((1, 2)), torch.ones(2))
        assert (smears[0] > 0).sum(1).tolist() == [0] * 16 + [13] + [0] * 16
        assert torch.allclose(smears[1], smears[0].T)

    def test_glass_takes_pixels_from_the_neighbourhood_alone(self):
        x = torch.zeros(4, 1, 32, 32)
        x[:, :, -4:] = 1
        assert not corrupted(x, "glass_blur", 5, seeds(4))[:, :, :16].any()

    def test_zoom_keeps_the_centre_and_drops_the_border(self):
        x = pictures(1, 3, 16, 16)
        assert torch.allclose(zoomed(x, 1.0), x, atol=1e-5)
        ramp = torch.linspace(-1, 1, 33).expand(1, 1, 33, 33)
        assert torch.allclose(zoomed(ramp, 2.0), ramp / 2, atol=1e-5)

    def test_brightness_raises_the_value_and_keeps_hue_and_saturation(self):
        x = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        brighter = corrupted(x, "brightness", 5, seeds(1))[0, :, 0, 0]
        assert torch.allclose(brighter, torch.tensor([0.3, 0.6, 0.9]), atol=1e-6)
        black = corrupted(torch.zeros(1, 3, 8, 8), "brightness", 5, seeds(1))
        assert torch.allclose(black, torch.tensor(0.3))

    def test_contrast_shrinks_each_channel_to_its_mean(self):
        x = pictures(2, 3, 32, 32)
        flat = corrupted(x, "contrast", 2, seeds(2))
        assert torch.allclose(flat.mean((2, 3)), x.mean((2, 3)), atol=1e-5)
        assert torch.allclose(flat.std((2, 3)), x.std((2, 3)) / 2, atol=1e-5)

    def test_fog_keeps_the_brightest_a_pixel_can_be(self):
        x = 0.6 * pictures(4, 3, 32, 32)
        foggy = corrupted(x, "fog", 5, seeds(4))
        assert (foggy.flatten(1).amax(1) <= x.flatten(1).amax(1) + 1e-6).all()
        assert (foggy.flatten(2).std(2) < x.flatten(2).std(2) + 0.1).all()

    def test_snow_and_frost_brighten(self):
        x = torch.full((4, 3, 32, 32), 0.3)
        for family in ("snow", "frost"):
            assert (corrupted(x, family, 5, seeds(4)).flatten(1).mean(1) > 0.35).all()

    @pytest.mark.parametrize("severity", [1, 3, 5])
    def test_pixels_are_pillows_boxes(self, severity):
        x = (255 * pictures(1, 1, 32, 32)).round() / 255
        (share,) = constants(FAMILIES["pixelate"], severity, x)
        picture = Image.fromarray((255 * x[0, 0]).round().byte().numpy())
        small = picture.resize((int(32 * share),) * 2, Image.Resampling.BOX)
        expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX)) / 255
        found = corrupted(x, "pixelate", severity, seeds(1))[0, 0]
        assert np.abs(found.numpy() - expected).max() < 1.5 / 255

    @pytest.mark.parametrize("channels", [1, 3])
    def test_jpeg_is_pillows(self, channels):
        x = pictures(1, channels, 32, 32)
        pixels = (255 * x[0]).round().byte().permute(1, 2, 0).squeeze(2).numpy()
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=40)
        expected = torch.from_numpy(np.array(Image.open(file))).view(32, 32, channels) / 255
        found = corrupted(x, "jpeg_compression", 5, seeds(1))[0].permute(1, 2, 0)
        assert float((found - expected).abs().mean()) < 1 / 255

    def test_constants_are_those_of_the_size(self):
        found = [
            constants(FAMILIES["gaussian_noise"], 5, torch.zeros(1, 3, side, side + 9))[0]
            for side in (8, 32, 85, 224, 500)
        ]
        assert found == pytest.approx([0.10, 0.10, 0.24, 0.38, 0.38], abs=0.001)


class TestSurvey:
    def survey(self, model, x, y, **params):
        return corruptions(model, x, y, seeded(), **params)

    @staticmethod
    def bright(x):
        """Class 1 when the mean is above 0.5."""
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)

    def test_a_brightness_classifier_falls_to_brightness_alone(self):
        x = pictures(8, 1, 32, 32)
        x = 0.42 + 0.5 * (x - x.mean((1, 2, 3), keepdim=True))
        families = "brightness", "contrast", "gaussian_noise", "glass_blur", "pixelate"
        y = torch.zeros(8, dtype=torch.long)
        found = self.survey(self.bright, x, y, families=families)
        fallen = {condition for condition, stands in found.items() if not stands.any()}
        assert fallen == {f"brightness {severity}" for severity in (2, 3, 4, 5)}
        assert all(stands.all() for name, stands in found.items() if name not in fallen)

    def test_what_brightness_makes_right_was_wrong(self):
        x = torch.full((3, 3, 32, 32), 0.42)
        found = self.survey(self.bright, x, torch.ones(3, dtype=torch.long))
        assert len(found) == 75
        assert not any(stands.any() for stands in found.values())

    def test_an_image_meets_the_same_corruption_whichever_others_are_asked_for(self):
        x, y = pictures(3, 3, 32, 32), torch.zeros(3, dtype=torch.long)

        def last_seen(**params):
            seen = []
            self.survey(lambda x: (seen.append(x), self.bright(x))[1], x, y, **params)
            return seen[-1]

        alone = last_seen(families=("snow",), severities=(3,))
        after_others = last_seen(families=("fog", "gaussian_noise", "snow"), severities=(5, 1, 3))
        assert torch.equal(alone, after_others)

    def test_channels_may_come_last_in_memory(self):
        x = torch.rand(3, 2, 8, 8, generator=seeded(1)).contiguous(
            memory_format=torch.channels_last
        )
        assert len(self.survey(self.bright, x, torch.zeros(3, dtype=torch.long))) == 75

    def test_costs_one_forward_pass_a_condition(self, counted):
        model = counted(self.bright)
        x = torch.full((3, 3, 8, 8), 0.3)
        found = self.survey(model, x, torch.zeros(3, dtype=torch.long), severities=(2, 4))
        assert list(found)[:3] == ["gaussian_noise 2", "gaussian_noise 4", "shot_noise 2"]
        assert sum(model.sizes) == 3 * (30 + 1)


def test_a_stream_of_numbers_is_one_image_alone():
    both = uniform([seeded(1), seeded(2)], 3, 4)
    assert torch.equal(both[1:], uniform([seeded(2)], 3, 4))
