"""Settings of a node, from options and from a file."""

import argparse
import ipaddress
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundle import listen
from bundle.listen.settings import Caller, Peer, Settings, read_settings

ROOT = Path(__file__).parents[3]
FOLDERS = ("m", "--queue", "q")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    listen.configure(parser)
    return parser.parse_args(words)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., list[str]]:
    """``config({"port": 104})``: the arguments that name it as a file."""

    def write(content: Any) -> list[str]:
        path = tmp_path / "node.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return ["--config", str(path)]

    return write


def test_by_itself_a_node_listens_to_this_machine_alone() -> None:
    settings = read_settings(parsed(*FOLDERS))
    assert settings == Settings(model=Path("m"), queue=Path("q"))
    assert (settings.host, settings.keep_days, settings.quiet_seconds) == ("127.0.0.1", 0.0, 30.0)


def test_options_win_over_the_file(config: Callable[..., list[str]]) -> None:
    content = {
        "model": "file",
        "queue": "q",
        "ae-title": "FILE",
        "port": 104,
        "allow": ["CT1@10.0.0.7"],
        "send_to": "PACS@10.0.0.5:104",
        "send-tls": True,
        "quiet_seconds": 12,
        "rules": "brain.json",
        "secondary-capture": True,
    }
    settings = read_settings(parsed(*config(content), "--ae-title", "OPTION", "--allow", "CT2", "--allow", "MR1"))
    assert settings == Settings(
        model=Path("file"),
        queue=Path("q"),
        ae_title="OPTION",
        port=104,
        allow=(Caller("CT2"), Caller("MR1")),
        send_to=Peer("PACS", "10.0.0.5", 104),
        send_tls=True,
        quiet_seconds=12.0,
        rules=Path("brain.json"),
        secondary_capture=True,
    )
    assert read_settings(parsed(*config(content), "m", "--rules", "r")) == replace(
        read_settings(parsed(*config(content))), model=Path("m"), rules=Path("r")
    )


@pytest.mark.parametrize("place", [0, 2, 3])
def test_the_model_stands_anywhere_between_the_options(place: int) -> None:
    words = ["--queue", "q", "--send-tls", "--send-to", "PACS@10.0.0.5:104"]
    assert read_settings(parsed(*words[:place], "m", *words[place:])).model == Path("m")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "is not valid JSON"),
        ([], "is not a JSON object"),
        ({"ports": 1}, "'ports' is not an option; the options are model, queue, ae-title"),
        ({"port": "104"}, "port is '104', not a number"),
        ({"model": 1}, "model is 1, not a text"),
        ({"model": ""}, "model: the path is empty"),
        ({"secondary_capture": 1}, "secondary_capture is 1, not true or false"),
        ({"quiet_seconds": 10**400}, "quiet_seconds: int too large"),
        ({"port": 1.5}, "port is 1.5, not a whole number"),
        ({"port": True}, "port is True"),
        ({"port": 70000}, "port: 70000 is not a port"),
        ({"quiet_seconds": 0}, "quiet_seconds: 0 is not above 0"),
        ({"send_tls": "yes"}, "send_tls is 'yes', not true or false"),
        ({"allow": "CT1"}, "allow is not a list of texts"),
        ({"allow": ["CT1@nowhere"]}, "allow: 'CT1@nowhere' is not AET or AET@ADDRESS"),
        ({"ae_title": "SEVENTEEN_LETTERS"}, "is not an AE title"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(content: Any, text: str, config: Callable[..., list[str]]) -> None:
    words = config(content)
    with pytest.raises(ValueError) as caught:
        read_settings(parsed(*words, *FOLDERS))
    assert words[1] in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["m"], "Give --queue FOLDER"),
        (["--queue", "q"], 'Give MODEL, or "model" in the file of --config'),
        ([*FOLDERS, "--host", "0.0.0.0"], "name who may send with --allow AET@ADDRESS"),
        ([*FOLDERS, "--host", "node.example"], "name who may send with --allow AET@ADDRESS"),
        ([*FOLDERS, "--tls-cert", "c.pem"], "--tls-cert and --tls-key go together"),
        ([*FOLDERS, "--tls-ca", "ca.pem"], "give --tls-cert and --tls-key, or --send-tls"),
        ([*FOLDERS, "--send-tls"], "give --send-to"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(words: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read_settings(parsed(*words))


def test_another_host_needs_a_list_of_those_who_may_send() -> None:
    settings = read_settings(parsed(*FOLDERS, "--host", "0.0.0.0", "--allow", "CT1@10.0.0.7"))
    assert settings.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--send-to", "PACS@10.0.0.5", "is not AET@HOST:PORT"),
        ("--send-to", "10.0.0.5:104", "is not AET@HOST:PORT"),
        ("--send-to", "PACS@10.0.0.5:0", "is not AET@HOST:PORT"),
        ("--send-to", "PACS@[]:104", "is not AET@HOST:PORT"),
        ("--queue", "", "the path is empty"),
        ("--ae-title", "BACK\\SLASH", "is not an AE title"),
        ("--max-studies", "0", "is below 1"),
        ("--keep-days", "-1", "is below 0"),
        ("--time-limit-minutes", "nan", "is not above 0"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(
    option: str, value: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(f"{option}={value}")
    assert text in capsys.readouterr().err


def test_a_peer_may_have_an_ipv6_address() -> None:
    assert Peer.parse("PACS@[::1]:104") == Peer("PACS", "::1", 104)


@pytest.mark.parametrize(
    ("text", "title", "address", "found"),
    [
        ("CT1", "CT1", "192.0.2.1", True),
        ("CT1", "ct1", "192.0.2.1", False),
        ("CT1@192.0.2.1", "CT1", "::ffff:192.0.2.1", True),
        ("CT1@192.0.2.0/24", "CT1", "192.0.3.1", False),
        ("CT1@2001:db8::/32", "CT1", "2001:db8::7", True),
        ("CT1@2001:db8::/32", "CT1", "192.0.2.1", False),
    ],
)
def test_a_caller_is_known_by_title_and_address(text: str, title: str, address: str, found: bool) -> None:
    assert ipaddress.ip_address(address)
    assert Caller.parse(text).is_of(title, address) == found


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path / "q", tls_cert=Path("no.pem"), tls_key=Path("no.key"))
    with pytest.raises(ValueError, match=r"TLS with no\.pem, no\.key"):
        listen.serve(settings)


def test_without_pynetdicom_the_help_works_and_the_remedy_is_named(tmp_path: Path) -> None:
    code = f"""
import argparse, sys
sys.modules["pynetdicom"] = None
from bundle import listen
from bundle.listen.settings import read_settings
parser = argparse.ArgumentParser()
listen.configure(parser)
parser.format_help()
try:
    listen.serve(read_settings(parser.parse_args(["m", "--queue", {str(tmp_path / "q")!r}])))
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'pip install -c constraints.txt -e ".[listen]"' in done.stdout
