"""Runs a DICOM node: receives studies by C-STORE, finds anomalies and sends the results on by C-STORE.

The studies received are processed one at a time by python -m bundle deploy. The results are DICOM objects of the same
study. They go to --send-to, with retries for as long as that peer is away. The node accepts every storage SOP class and
transfer syntax, stores objects as they came, skips series that the rules do not select, and answers C-ECHO.

    python -m bundle listen models/brain --queue queue --send-to PACS@127.0.0.1:104
    python -m bundle listen --config node.json

A study is complete when nothing of it has arrived for --quiet-seconds: no object, and no data on a connection whose
latest object belonged to it. Closing a connection does not complete a study, as its objects may come over several. If
the transfer broke off (connection lost, node stopped) or objects were refused, the node waits --patience-minutes
instead, since the sender should try again; if refused objects are still missing then, the study fails. Studies that
share a connection are kept apart. An object sent twice counts once. An object that arrives while its study is still
waiting is added to it; a new one that arrives later starts another study.

The queue is a folder with a subfolder for each state: receiving, waiting, processing, sending, then done (or results,
without --send-to) or failed. Each study is a folder in one of these, named by time and a hash. An object is
acknowledged once it is on disk. After a stop, a kill or a power cut the next start carries on; results that have to be
sent again are the same objects. Without room (--max-studies, --min-free-gib) objects are refused with status 0xA700,
and the sender has to keep them and try again.

A failed study says why in its reason.txt. To try it again, start with --retry-failed, or move its folder to waiting at
any time. If its folder output already holds results, these are sent and not computed again. The folders hold images of
patients. Failed studies stay until you remove them, done ones for --keep-days. In results, images stay that long and
DICOM results for good.

Only programs on this machine can send, unless --host names another address; then --allow must name who may. AE titles
are not passwords: on a shared network use TLS with certificates on both sides (--tls-cert, --tls-key, --tls-ca). Log
lines name a study by its hash, never a patient. SIGTERM and SIGINT stop the node.
"""

import argparse
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from bundle.listen import settings
from bundle.listen.settings import Settings

APPLICATION = (sys.executable, "-m", "bundle", "deploy")

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    settings.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Listens until SIGTERM or SIGINT.

    Raises:
        ValueError: If a setting, the model folder or the rules are wrong.
        OSError: If a file cannot be read or the address cannot be used.
        RuntimeError: If a package is missing, or another node uses the queue.
    """
    given = settings.read_settings(args)
    with ProcessPoolExecutor(1) as process:  # in the node's own, MONAI would keep a gigabyte
        process.submit(_check, given).result()
    return serve(given)


def _check(given: Settings) -> None:
    """Reads the model folder and the rules: what is wrong with them would fail every study."""
    from bundle.deploy.choice import read_choice
    from scripts.model.folder import ModelFolder

    folder = ModelFolder(given.model)
    if given.rules is not None:
        read_choice(given.rules, folder.modality, folder.config("inference").get_parsed_content("plane"))


def serve(given: Settings, application: Sequence[str] = APPLICATION) -> int:
    """Listens until SIGTERM or SIGINT.

    Args:
        given: Settings of the node.
        application: Command that takes the arguments of ``python -m bundle deploy``.

    Returns:
        The exit code of the verb.

    Raises:
        ValueError: If TLS files are wrong.
        OSError: If the address cannot be used.
        RuntimeError: If a package is missing, or another node uses the queue.
    """
    try:
        from bundle.listen.node import Node
    except ImportError as error:
        if error.name != "pynetdicom":
            raise
        raise RuntimeError('pynetdicom is not installed: pip install -c constraints.txt -e ".[listen]"') from error
    _keep_log_nameless()
    node = Node(given, application)
    for number in (signal.SIGTERM, signal.SIGINT):
        # in a thread: set() takes a lock that the interrupted code may hold
        signal.signal(number, lambda *_: threading.Thread(target=node.stop.set).start())
    node.run()
    return 0


def _keep_log_nameless() -> None:
    """Logs this package alone: libraries quote the values that they complain about, which may name a patient."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger("bundle.listen").setLevel(logging.INFO)
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    transport = logging.getLogger("pynetdicom.transport")  # says why a peer cannot be reached
    transport.setLevel(logging.ERROR)
    transport.addFilter(
        lambda record: not record.exc_info
    )  # it logs TLS errors twice, the second time with a traceback
    warnings.simplefilter("ignore")
    threading.excepthook = _say


def _say(error: threading.ExceptHookArgs) -> None:
    _log.error("a connection ended with an error: %s", error.exc_type.__name__)
