import torch

from trition_repo_gen.runtime.rank.engines.sampling.random import NoiseKeys, gumbel_noise

CPU = torch.device("cpu")
MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    """SplitMix64's finaliser, in Python's own integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def test_keys_are_those_of_splitmix64_at_each_position() -> None:
    starts = [(0, 0), (1, 5), (2**63 - 1, 0), (2**63 - 1, 2**40)]
    keys = NoiseKeys(starts)
    for step in range(4):
        expected = [mixed((seed + 0x9E3779B97F4A7C15 * (position + step + 1)) & MASK) for seed, position in starts]
        assert [int(key) & MASK for key in keys.take(CPU)[:, 0]] == expected


def test_noise_of_a_key_is_the_same_among_others() -> None:
    keys = torch.arange(-4, 4)[:, None] * 2**60
    together = gumbel_noise(keys, 100)
    assert all(torch.equal(gumbel_noise(key[None], 100)[0], row) for key, row in zip(keys, together, strict=True))
    assert torch.equal(gumbel_noise(keys, 60), together[:, :60])


def test_noise_has_the_distribution_of_gumbel() -> None:
    noise = gumbel_noise(torch.arange(64)[:, None], 4096)
    assert abs(float(noise.mean()) - 0.5772) < 0.01
    assert abs(float(noise.var()) - 1.6449) < 0.02
