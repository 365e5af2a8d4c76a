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


def push(buffer: SliceBuffer, name: str, pushed: torch.Tensor) -> None:
    """With the value of each slice as its number."""
    buffer.push(name, pushed, pushed[:, 0, 0, 0])


def sample(buffer: SliceBuffer, name: str) -> torch.Tensor:
    """Slices, after a check that the numbers still belong to them."""
    drawn, numbers = buffer.sample(name)
    torch.testing.assert_close(drawn[:, 0, 0, 0], numbers, rtol=0, atol=2**-7)
    return drawn


def test_the_ring_forgets_the_oldest_step():
    buffer = SliceBuffer(volumes=2)
    for step in range(5):
        push(buffer, "a", slices(step))
        seen = set().union(*(values(sample(buffer, "a")) for _ in range(100)))
        kept = range(max(0, step - 1), step + 1)
        assert seen == {round(k + i / 10, 1) for k in kept for i in range(3)}


@pytest.mark.parametrize(("number", "newest"), [(2, 1), (4, 2), (5, 3)])
def test_half_of_a_sample_is_of_the_newest_step(number, newest):
    """The odd one too; the other half is of the earlier steps alone."""
    buffer = SliceBuffer(volumes=4)
    for step in range(4):
        push(buffer, "a", slices(step, n=number))
    for _ in range(10):
        drawn = sample(buffer, "a")[:, 0, 0, 0]
        assert len(drawn) == number
        assert int((drawn >= 3).sum()) == newest


def test_a_sample_copies_no_more_than_it_holds(monkeypatch):
    buffer = SliceBuffer(20)
    for _ in range(20):
        buffer.push("hr_2x", torch.rand(8, 3, 10, 10), torch.rand(8, 2))
    joined, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts: joined.append(cat(parts)) or joined[-1])
    slices, _ = buffer.sample("hr_2x")
    assert slices.shape == (8, 3, 10, 10) and max(map(len, joined)) == 8


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_sample_of_any_number(number):
    buffer = SliceBuffer(3)
    for step in range(3):
        buffer.push("hr_2x", torch.full((number, 3, 2, 2), float(step)), torch.full((number, 2), float(step)))
    slices, shares = buffer.sample("hr_2x")
    assert slices.shape == (number, 3, 2, 2) and shares.shape == (number, 2)
    assert int((shares[:, 0] == 2).sum()) == number - number // 2 and torch.equal(slices[:, 0, 0, 0], shares[:, 0])


def test_the_first_step_gives_whole_samples():
    buffer = SliceBuffer()
    push(buffer, "a", slices(0, n=6))
    assert len(values(sample(buffer, "a"))) == 6


def test_one_ring_a_critic():
    buffer = SliceBuffer(volumes=1)
    push(buffer, "a", slices(1))
    push(buffer, "b", slices(2))
    assert values(sample(buffer, "a")) == {1.0, 1.1, 1.2}
    assert values(sample(buffer, "b")) == {2.0, 2.1, 2.2}
    with pytest.raises(KeyError):
        buffer.sample("c")


def test_samples_are_float32_without_a_graph():
    buffer = SliceBuffer()
    probabilities = torch.rand(4, 3, 5, 6, requires_grad=True)
    buffer.push("a", probabilities * 1, torch.zeros(4))
    drawn, _ = buffer.sample("a")
    assert drawn.dtype == torch.float32 and not drawn.requires_grad and drawn.shape == (4, 3, 5, 6)
    order = [int((probabilities.detach() - s).abs().sum((1, 2, 3)).argmin()) for s in drawn]
    assert sorted(order) == [0, 1, 2, 3]
    torch.testing.assert_close(drawn, probabilities.detach()[order], rtol=0, atol=2**-11)  # half precision


def test_what_was_pushed_is_a_copy():
    buffer = SliceBuffer()
    half = torch.ones(1, 2, 2, 2)
    buffer.push("a", half, torch.zeros(1))
    half.zero_()
    assert buffer.sample("a")[0].all()


def test_samples_follow_torch_s_seed_and_cover_all_steps():
    buffer = SliceBuffer(volumes=4)
    for step in range(4):
        push(buffer, "a", slices(step))
    torch.manual_seed(0)
    first, second = sample(buffer, "a"), sample(buffer, "a")
    torch.manual_seed(0)
    assert torch.equal(sample(buffer, "a"), first)
    assert not torch.equal(first, second)
    assert len(values(first)) == 3  # without replacement
    seen = set().union(*(values(sample(buffer, "a")) for _ in range(100)))
    assert len(seen) == 12


def test_a_checkpoint_holds_everything(tmp_path):
    buffer = SliceBuffer(volumes=3)
    for step in range(5):
        push(buffer, "a", slices(step))
        push(buffer, "b", torch.rand(2, 3, 4, 4))
    torch.save(buffer.state_dict(), tmp_path / "buffer.pt")
    resumed = SliceBuffer(volumes=3)
    resumed.load_state_dict(torch.load(tmp_path / "buffer.pt", weights_only=True))
    for state in (buffer, resumed):  # and goes on alike
        push(state, "a", slices(9))
    for name in ("a", "b"):
        torch.manual_seed(0)
        expected = sample(buffer, name)
        torch.manual_seed(0)
        assert torch.equal(sample(resumed, name), expected)


def test_a_state_stays_what_it_was():
    """A later push changes neither a state kept in memory nor the one it was loaded from."""
    buffer = SliceBuffer(volumes=1)
    push(buffer, "a", slices(1))
    state = buffer.state_dict()
    before = copy.deepcopy(state)
    push(buffer, "a", slices(2))
    assert torch.equal(state["a"][0][0], before["a"][0][0])
    resumed = SliceBuffer(volumes=1)
    resumed.load_state_dict(state)
    push(resumed, "a", slices(3))
    assert torch.equal(state["a"][0][0], before["a"][0][0])


def test_a_pool_is_of_all_steps_the_newest_included():
    buffer = SliceBuffer(volumes=3)
    for step, number in enumerate((2, 3, 1, 4)):  # the first is forgotten
        push(buffer, "a", slices(step, n=number))
    torch.manual_seed(0)
    pool = buffer.pool("a", 4000)
    assert pool.shape == (4000, 2, 4, 4) and pool.dtype == torch.float32
    expected = [1.0, 1.1, 1.2, 2.0, 3.0, 3.1, 3.2, 3.3]
    found = (pool[:, 0, 0, 0, None] - torch.tensor(expected)).abs() < 2e-3  # half precision
    assert found.sum(1).eq(1).all()
    assert found.float().mean(0).tolist() == pytest.approx([1 / 8] * 8, abs=0.025)  # each slice as often as every other
    torch.manual_seed(0)
    assert torch.equal(buffer.pool("a", 4000), pool)


def test_some_slices_of_a_step_are_kept():
    """At random, with the numbers that belong to them; all of a step that has fewer."""
    torch.manual_seed(0)
    kept = set()
    for _ in range(30):
        buffer = SliceBuffer(volumes=2, slices=2)
        push(buffer, "a", slices(0, n=1))
        push(buffer, "a", slices(1, n=5))
        found = {step: values(pushed) for step, (pushed, _) in enumerate(buffer.rings["a"])}
        assert found[0] == {0.0} and len(found[1]) == 2
        kept |= found[1]
        assert len(sample(buffer, "a")) == 2
    assert kept == {1.0, 1.1, 1.2, 1.3, 1.4}


@pytest.mark.parametrize("shares", [1, 4])
def test_slices_of_a_checkpoint_go_where_new_ones_lie(shares):
    """A checkpoint is read on the CPU; without a GPU here torch's device without memory stands for one, which it refuses to mix with the CPU, too."""
    kept = SliceBuffer(4)
    for step in range(2):
        kept.push("a", slices(step), torch.zeros(3, shares))
    resumed = SliceBuffer(4, device="meta")
    resumed.load_state_dict(kept.state_dict())
    assert {part.device.type for step in resumed.rings["a"] for part in step} == {"meta"}
    resumed.push("a", slices(2).to("meta"), torch.zeros(3, shares, device="meta"))
    assert [part.device.type for part in resumed.sample("a")] == ["meta", "meta"]
    assert resumed.pool("a", 5).device.type == "meta"
