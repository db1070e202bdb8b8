"""Every run keeps its chain, and a chain tells an old record of its own from a fork."""

import pytest
from cotune.client.chains import MOST_RUNS, SEEN, Chain, decode, encode, with_chain
from cotune.errors import UserError


def grown(length: int) -> Chain:
    chain = Chain("ab", "start")
    for number in range(length):
        chain = chain.extended(f"head {number}", number)
    return chain


def test_chains_come_back_in_order_and_whole() -> None:
    chains: dict[str, Chain] = {}
    for chain in (Chain("ab", "x", 1, 2, "cd"), grown(3), Chain("ef", "y")):
        chains = with_chain(chains, chain)
    assert list(chains) == ["ab", "ef"]
    again = decode(encode(chains))
    assert again == chains
    assert list(again) == list(chains)


def test_a_run_may_change_when_no_other_is_taken() -> None:
    chains = {str(number): Chain(str(number), "head") for number in range(MOST_RUNS)}
    assert with_chain(chains, Chain("0", "other"))["0"].head == "other"
    with pytest.raises(UserError, match="remembers every one"):
        with_chain(chains, Chain("new", "head"))


@pytest.mark.parametrize("length", [1, SEEN, 3 * SEEN])
def test_own_records_are_known_and_those_of_a_fork_are_not(length: int) -> None:
    chain = grown(length)
    assert (chain.head, chain.verified) == (f"head {length - 1}", length - 1)
    assert len(chain.seen) <= SEEN
    assert all(chain.knows(f"head {number}", number) for number in range(length))
    for number in range(max(0, length - SEEN), length + 1):
        assert not chain.knows("fork", number)


@pytest.mark.parametrize("content", [b"{", b"[1]", b'[{"run": "ab"}]', b'[{"seen": [], "other": 1}]', b"\xff"])
def test_a_file_that_is_not_one_is_an_error(content: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(content)
