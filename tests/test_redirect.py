"""The rules of an intercepted pod: their text, what may be left out of them, and what never reaches them."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from xds.__main__ import main
from xds.fields import ConfigError
from xds.redirect import bypassed, init_command, rules

PLAIN = """\
add table inet proa
delete table inet proa
table inet proa {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type != local return
        tcp dport { 15021, 15090 } return
        meta l4proto tcp redirect to :15006
    }

    chain output {
        type nat hook output priority -100; policy accept;
        meta l4proto != tcp return
        meta skuid 1337 meta priority 0:6 return
        meta skuid 1337 oifname "lo" ip daddr != 127.0.0.0/8 meta l4proto tcp redirect to :15006
        meta skuid 1337 oifname "lo" ip6 daddr != ::1 meta l4proto tcp redirect to :15006
        meta skuid 1337 return
        oifname "lo" return
        meta l4proto tcp redirect to :15001
    }
}
"""


def test_text() -> None:
    """One table for IPv4 and IPv6, replaced as a whole when it is loaded again."""
    assert rules() == PLAIN


def test_what_is_left_out() -> None:
    """Excluded ports and networks return before the redirection; ranges inside others are gone, as sets need it."""
    text = rules(
        excluded_inbound_ports=[9000],
        excluded_outbound_ports=[25, 22],
        excluded_cidrs=["10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "192.0.2.0/24"],
    )

    assert "tcp dport { 9000, 15021, 15090 } return" in text
    assert (
        """\
        oifname "lo" return
        tcp dport { 22, 25 } return
        ip daddr { 10.0.0.0/8, 192.0.2.0/24 } return
        ip6 daddr { fd00::/8 } return
        meta l4proto tcp redirect to :15001
"""
        in text
    )


def test_included_networks_are_all_that_is_redirected() -> None:
    """With networks included there is no redirection without one; a whole family needs no set."""
    text = rules(included_cidrs=["10.96.0.0/12", "::/0"])

    assert (
        """\
        oifname "lo" return
        ip daddr { 10.96.0.0/12 } meta l4proto tcp redirect to :15001
        meta nfproto ipv6 meta l4proto tcp redirect to :15001
    }
"""
        in text
    )


@pytest.mark.parametrize("port", [0, -1, 65536, 15000, 15001, 15006])
@pytest.mark.parametrize("name", ["excluded_inbound_ports", "excluded_outbound_ports"])
def test_port_that_cannot_be_excluded(name: str, port: int) -> None:
    """No number outside 1..65535, and none at which a stranger would meet the sidecar's own listeners."""
    wanted: dict[str, Any] = {name: [port]}
    with pytest.raises(ConfigError, match=rf"{name}: must be 1..65535 and none of .* got {port}"):
        rules(**wanted)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "x", "10.0.0.0/8 } ; flush ruleset"])
@pytest.mark.parametrize("name", ["excluded_cidrs", "included_cidrs"])
def test_network_that_is_none(name: str, text: str) -> None:
    """What is no network is refused by name; nothing of it reaches the text."""
    wanted: dict[str, Any] = {name: [text]}
    with pytest.raises(ConfigError, match=rf"{name}: must be a network"):
        rules(**wanted)


@given(st.lists(st.integers(1, 65535).filter(lambda port: port not in range(15000, 15007)), max_size=64))
def test_ports_that_pass_the_sidecar_by_are_read_back(ports: list[int]) -> None:
    """What an init container was told stays readable in its command: every exclusion, and nothing else."""
    assert bypassed(init_command(excluded_inbound_ports=ports)) == tuple(sorted({*ports, 15021, 15090}))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_another_command_lets_nothing_pass(command: object) -> None:
    """A command that is not ours never says that a port needs no mutual TLS."""
    assert bypassed(command) == ()


@given(st.lists(st.text(max_size=20)), st.lists(st.text(max_size=20)))
def test_no_text_of_a_user_reaches_the_rules(excluded: list[str], included: list[str]) -> None:
    """Whatever is asked for, the answer is a refusal or rules of known words, numbers and networks."""
    try:
        text = rules(excluded_cidrs=excluded, included_cidrs=included)
    except ConfigError:
        return
    assert not set(text) - set('abcdefghijklmnopqrstuvwxyz0123456789 \n{}:;.,/-!="_')


def test_init_command_is_nft_itself() -> None:
    """The rules are one argument: no shell, no file, and nothing that Kubernetes would expand."""
    program, text = init_command(excluded_outbound_ports=[22])

    assert program == "nft"
    assert text == rules(excluded_outbound_ports=[22])
    assert "$" not in text


def test_command_prints_the_rules() -> None:
    """`proa redirect` prints what `nft -f -` loads, and nothing else."""
    result = CliRunner().invoke(
        main, ["redirect", "--exclude-outbound-port", "22", "--exclude-cidr", "10.0.0.0/8"]
    )

    assert result.exit_code == 0
    assert result.stdout == rules(excluded_outbound_ports=[22], excluded_cidrs=["10.0.0.0/8"])


def test_command_names_the_flag() -> None:
    """Exit code 2, and the flag that is wrong."""
    result = CliRunner().invoke(main, ["redirect", "--include-cidr", "10.0.0.1/8"])

    assert result.exit_code == 2
    assert "--include-cidr: must be a network such as 10.0.0.0/8" in result.stderr
