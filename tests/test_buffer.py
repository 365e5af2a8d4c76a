"""The memory of earlier fake slices."""

import copy

import pytest
import torch

from bundle.buffer import SliceBuffer


def slices(value: float, n: int = 3) -> torch.Tensor:
    """Recognisable by value: step + slice / 10."""
    return (value + torch.arange(n).view(n, 1, 1, 1) / 10).expand(n, 2, 4, 4).clone()


def values(x: torch.Tensor) -> set[float]:
    return {round(v, 1) for v in x[:, 0, 0, 0].tolist()}


def test_the_ring_forgets_the_oldest_step():
    buffer = SliceBuffer(volumes=2)
    for step in range(5):
        buffer.push("a", slices(step))
        everything = buffer.sample("a", 100)
        kept = range(max(0, step - 1), step + 1)
        assert values(everything) == {round(k + i / 10, 1) for k in kept for i in range(3)}
        assert len(everything) == 3 * len(kept)  # each once: no more than there are


@pytest.mark.parametrize(("number", "newest"), [(2, 1), (4, 2), (5, 3)])
def test_half_of_a_sample_is_of_the_newest_step(number, newest):
    """The odd one too; the other half is of the earlier steps alone."""
    buffer = SliceBuffer(volumes=4)
    for step in range(4):
        buffer.push("a", slices(step, n=9))
    for _ in range(10):
        drawn = buffer.sample("a", number)[:, 0, 0, 0]
        assert len(drawn) == number
        assert int((drawn >= 3).sum()) == newest


def test_the_first_step_gives_whole_samples():
    buffer = SliceBuffer()
    buffer.push("a", slices(0, n=6))
    assert len(values(buffer.sample("a", 6))) == 6


def test_one_ring_a_critic():
    buffer = SliceBuffer(volumes=1)
    buffer.push("a", slices(1))
    buffer.push("b", slices(2))
    assert values(buffer.sample("a", 9)) == {1.0, 1.1, 1.2}
    assert values(buffer.sample("b", 9)) == {2.0, 2.1, 2.2}
    with pytest.raises(KeyError):
        buffer.sample("c", 1)


def test_samples_are_float32_without_a_graph():
    buffer = SliceBuffer()
    probabilities = torch.rand(4, 3, 5, 6, requires_grad=True)
    buffer.push("a", probabilities * 1)
    sample = buffer.sample("a", 4)
    assert sample.dtype == torch.float32 and not sample.requires_grad and sample.shape == (4, 3, 5, 6)
    order = [int((probabilities.detach() - s).abs().sum((1, 2, 3)).argmin()) for s in sample]
    assert sorted(order) == [0, 1, 2, 3]
    torch.testing.assert_close(sample, probabilities.detach()[order], rtol=0, atol=2**-11)  # half precision


def test_what_was_pushed_is_a_copy():
    buffer = SliceBuffer()
    half = torch.ones(1, 2, 2, 2)
    buffer.push("a", half)
    half.zero_()
    assert buffer.sample("a", 1).all()


def test_samples_follow_torch_s_seed_and_cover_all_steps():
    buffer = SliceBuffer(volumes=4)
    for step in range(4):
        buffer.push("a", slices(step))
    torch.manual_seed(0)
    first, second = buffer.sample("a", 5), buffer.sample("a", 5)
    torch.manual_seed(0)
    assert torch.equal(buffer.sample("a", 5), first)
    assert not torch.equal(first, second)
    assert len(values(first)) == 5  # without replacement
    seen = set().union(*(values(buffer.sample("a", 2)) for _ in range(100)))
    assert len(seen) == 12


def test_a_checkpoint_holds_everything(tmp_path):
    buffer = SliceBuffer(volumes=3)
    for step in range(5):
        buffer.push("a", slices(step))
        buffer.push("b", torch.rand(2, 3, 4, 4))
    torch.save(buffer.state_dict(), tmp_path / "buffer.pt")
    resumed = SliceBuffer(volumes=3)
    resumed.load_state_dict(torch.load(tmp_path / "buffer.pt", weights_only=True))
    for state in (buffer, resumed):  # and goes on alike
        state.push("a", slices(9))
    for name in ("a", "b"):
        torch.manual_seed(0)
        expected = buffer.sample(name, 4)
        torch.manual_seed(0)
        assert torch.equal(resumed.sample(name, 4), expected)
    assert values(resumed.sample("a", 99)) == values(buffer.sample("a", 99))


def test_a_state_stays_what_it_was():
    """A later push changes neither a state kept in memory nor the one it was loaded from."""
    buffer = SliceBuffer(volumes=1)
    buffer.push("a", slices(1))
    state = buffer.state_dict()
    before = copy.deepcopy(state)
    buffer.push("a", slices(2))
    assert torch.equal(state["a"][0], before["a"][0])
    resumed = SliceBuffer(volumes=1)
    resumed.load_state_dict(state)
    resumed.push("a", slices(3))
    assert torch.equal(state["a"][0], before["a"][0])
