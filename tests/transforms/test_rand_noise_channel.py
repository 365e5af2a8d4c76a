"""The noise channel of the generator's input."""

import torch
from scipy import stats

from bundle.transforms.noise import RandNoiseChanneld


def test_appends_one_standard_normal_channel():
    image = torch.randint(0, 2, (3, 20, 24, 28), dtype=torch.uint8)
    data = {"image": image, "other": 1}
    result = RandNoiseChanneld("image").set_random_state(seed=0)(data)
    assert result["other"] == 1 and data["image"] is image
    out = result["image"]
    assert out.shape == (4, 20, 24, 28) and out.dtype == torch.float32
    assert torch.equal(out[:3], image.float())
    assert stats.kstest(out[3].numpy().ravel(), "norm").pvalue > 1e-3


def test_std_scales_it_and_zero_is_the_ablation():
    image = torch.zeros(1, 4, 5, 6)
    one, three, zero = (RandNoiseChanneld("image", std).set_random_state(seed=1)({"image": image})["image"][1] for std in (1.0, 3.0, 0.0))
    torch.testing.assert_close(three, 3 * one)
    assert not zero.any() and zero.shape == (4, 5, 6)


def test_a_function_of_the_random_state():
    image = {"image": torch.zeros(1, 4, 4, 4)}
    transform = RandNoiseChanneld("image").set_random_state(seed=2)
    first, second = transform(image)["image"], transform(image)["image"]
    assert not torch.equal(first, second)
    assert torch.equal(transform.set_random_state(seed=2)(image)["image"], first)
    assert not torch.equal(transform.set_random_state(seed=3)(image)["image"], first)
