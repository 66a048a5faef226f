"""Settings of a node, from options or from a JSON file of them."""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # value representation AE: printable ASCII without the backslash


@dataclass(frozen=True)
class Peer:
    """Node that receives the results: ``AET@HOST:PORT``, with an IPv6 address in brackets."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Reads ``AET@HOST:PORT``.

        Raises:
            ValueError: If the text has another form.
        """
        title, _, address = text.partition("@")
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not AET@HOST:PORT, such as PACS@10.0.0.5:104.")
        return cls(ae_title(title), host, int(port))


@dataclass(frozen=True)
class Caller:
    """Sender that is let in: an AE title, from anywhere or from one address or network."""

    ae_title: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None

    @classmethod
    def parse(cls, text: str) -> Caller:
        """Reads ``AET`` or ``AET@ADDRESS``.

        Raises:
            ValueError: If the text has another form.
        """
        title, _, address = text.partition("@")
        try:
            network = ipaddress.ip_network(address, strict=False) if "@" in text else None
        except ValueError as error:
            raise ValueError(f"{text!r} is not AET or AET@ADDRESS, such as CT1@10.0.0.7: {error}.") from error
        return cls(ae_title(title), network)

    def is_of(self, title: str, address: str) -> bool:
        """Whether an association with this calling AE title and address comes from the caller."""
        found = ipaddress.ip_address(address)
        found = getattr(found, "ipv4_mapped", None) or found
        return title == self.ae_title and (self.network is None or found in self.network)


def ae_title(text: str) -> str:
    """Strips the spaces around an AE title.

    Raises:
        ValueError: If the text is not a valid AE title.
    """
    if not _AE_TITLE.fullmatch(text) or not text.strip():
        raise ValueError(f"{text!r} is not an AE title: give 1 to 16 ASCII characters, no backslash.")
    return text.strip()


def _path(text: str) -> Path:
    if not text:  # for instance an unset shell variable; Path would take it for the current folder
        raise ValueError("the path is empty.")
    return Path(text)


def _positive(text: Any) -> float:
    if not (number := float(text)) > 0:
        raise ValueError(f"{text} is not above 0.")
    return number


def _not_negative(text: Any) -> float:
    if not (number := float(text)) >= 0:
        raise ValueError(f"{text} is below 0.")
    return number


def _port(text: Any) -> int:
    if not 0 <= (number := int(text)) < 65536:
        raise ValueError(f"{text} is not a port: give 0 (any free one) to 65535.")
    return number


def _count(text: Any) -> int:
    if (number := int(text)) < 1:
        raise ValueError(f"{text} is below 1.")
    return number


@dataclass(frozen=True)
class Settings:
    """All settings of a node, named like MODEL and the options.

    Raises:
        ValueError: If settings contradict each other.
    """

    model: Path
    queue: Path
    ae_title: str = "ANOMALY"
    host: str = "127.0.0.1"
    port: int = 11112
    allow: tuple[Caller, ...] = ()
    send_to: Peer | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    send_tls: bool = False
    quiet_seconds: float = 30.0
    patience_minutes: float = 10.0
    time_limit_minutes: float = 60.0
    max_studies: int = 100
    min_free_gib: float = 5.0
    keep_days: float = 0.0
    retry_failed: bool = False
    rules: Path | None = None
    secondary_capture: bool = False

    def __post_init__(self) -> None:
        if not _is_loopback(self.host) and not self.allow:
            raise ValueError(
                f"--host {self.host} can be reached from other machines: name who may send with --allow AET@ADDRESS."
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together: give both or neither.")
        if self.tls_ca is not None and self.tls_cert is None and not self.send_tls:
            raise ValueError(
                "--tls-ca checks the certificates of others: give --tls-cert and --tls-key, or --send-tls."
            )
        if self.send_tls and self.send_to is None:
            raise ValueError("--send-tls has nowhere to send to: give --send-to AET@HOST:PORT.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class _Option:
    kind: Callable[[Any], Any]
    text: str
    metavar: str | None = None


_OPTIONS = {
    "model": _Option(_path, "model folder, which training has written", "MODEL"),
    "queue": _Option(_path, "folder of the queue, for one node alone; created if missing", "FOLDER"),
    "ae_title": _Option(ae_title, "AE title of this node; associations to another title are rejected", "AET"),
    "host": _Option(str, "address to listen on; any but loopback needs --allow"),
    "port": _Option(_port, "port to listen on"),
    "allow": _Option(
        Caller.parse, "AE title that may send; repeatable; ADDRESS may be a network (default: anyone)", "AET[@ADDRESS]"
    ),
    "send_to": _Option(
        Peer.parse, "node that receives the results (default: they stay in QUEUE/results)", "AET@HOST:PORT"
    ),
    "tls_cert": _Option(_path, "certificate of this node, PEM; the node then accepts TLS alone", "FILE"),
    "tls_key": _Option(_path, "private key of the certificate, PEM, without a password", "FILE"),
    "tls_ca": _Option(_path, "certificate authorities, PEM; senders then need a certificate from one of them", "FILE"),
    "send_tls": _Option(
        bool,
        "send over TLS; the peer's certificate must name HOST and come from --tls-ca or an authority of the system",
    ),
    "quiet_seconds": _Option(_positive, "a study is complete when nothing new has come for so long", "SECONDS"),
    "patience_minutes": _Option(_positive, "wait for a study that is known to lack objects", "MINUTES"),
    "time_limit_minutes": _Option(_positive, "longest time to process one study", "MINUTES"),
    "max_studies": _Option(_count, "most unfinished studies; a further one is refused", "NUMBER"),
    "min_free_gib": _Option(
        _not_negative, "space to keep free on the disk of the queue; objects that would use it are refused", "GIB"
    ),
    "keep_days": _Option(_not_negative, "time to keep the images of done studies", "DAYS"),
    "retry_failed": _Option(bool, "try the failed studies once more at the start"),
    "rules": _Option(_path, "which series are wanted (default: bundle/deploy/rules.json)", "FILE"),
    "secondary_capture": _Option(bool, "pictures of the results as well, for viewers that show nothing else"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares MODEL and the options; one that is not given is None, so that the file may set it."""
    parser.add_argument(
        "--config",
        type=_with_message(_path),
        metavar="FILE",
        help='JSON file with these options, and MODEL as "model"; the command line wins',
    )
    defaults = {field.name: field.default for field in fields(Settings)}
    for name, option in _OPTIONS.items():
        if name == "model":
            kind = _with_message(option.kind)
            parser.add_argument(name, nargs="?", type=kind, metavar=option.metavar, help=option.text)
            continue
        flag = f"--{name.replace('_', '-')}"
        if option.kind is bool:
            parser.add_argument(flag, action="store_true", default=None, help=option.text)
            continue
        default = defaults[name]
        text = f"{option.text} (default: {default})" if isinstance(default, (str, int, float)) else option.text
        action = "append" if name == "allow" else "store"
        parser.add_argument(flag, type=_with_message(option.kind), action=action, metavar=option.metavar, help=text)


def _with_message(kind: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Wraps ``kind`` so that argparse shows its message."""

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def read_settings(args: argparse.Namespace) -> Settings:
    """Settings from the command line, else from the file of ``--config``, else the defaults.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file or a setting is wrong.
    """
    given = {} if args.config is None else _from_file(args.config)
    for name in _OPTIONS:
        value = getattr(args, name)
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    if "model" not in given:
        raise ValueError('Give MODEL, or "model" in the file of --config.')
    if "queue" not in given:
        raise ValueError('Give --queue FOLDER, or "queue" in the file of --config.')
    return Settings(**given)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} is not a JSON object such as {{"port": 11112}}.')
    given = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in _OPTIONS:
            options = ", ".join(_OPTIONS).replace("_", "-")
            raise ValueError(f"{path}: {key!r} is not an option; the options are {options}.")
        if name == "allow":
            given[name] = tuple(_converted(path, key, _OPTIONS[name].kind, text) for text in _texts(path, key, value))
        else:
            given[name] = _converted(path, key, _OPTIONS[name].kind, value)
    return given


def _texts(path: Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{path}: {key} is not a list of texts.")
    return value


def _converted(path: Path, key: str, kind: Callable[[Any], Any], value: Any) -> Any:
    numeric = kind in (_positive, _not_negative, _port, _count)
    wanted: tuple[type, ...] = (bool,) if kind is bool else (int, float) if numeric else (str,)
    if not isinstance(value, wanted) or (numeric and isinstance(value, bool)):
        name = "true or false" if kind is bool else "a number" if numeric else "a text"
        raise ValueError(f"{path}: {key} is {value!r}, not {name}.")
    if kind in (_port, _count) and not isinstance(value, int):
        raise ValueError(f"{path}: {key} is {value!r}, not a whole number.")
    try:
        return kind(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {key}: {error}") from error
