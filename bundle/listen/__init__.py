"""Listen as a DICOM node: take studies in by C-STORE, find anomalies, send the results out by C-STORE.

Each study that comes in is processed by python -m bundle deploy, one after the other; the results (DICOM objects of the
same study) go to --send-to, again and again while that is away. All storage classes and transfer syntaxes are taken and
stored as received; what is no wanted series is passed over. C-ECHO is answered.

    python -m bundle listen --queue queue --bundle models/medical_anomaly_pdd --send-to PACS@127.0.0.1:104
    python -m bundle listen --config node.json -- --rules rules.json

When is a study complete? When nothing of it has come for --quiet-seconds: no object, and no data on a connection whose
latest object was of it. That a connection is closed does not end a study, as one may come over several. If its sending
broke off (connection lost, node ended meanwhile) or objects were refused, it is given --patience-minutes in place of
--quiet-seconds, as its sender will try again; if refused objects do not come by then, it fails. Studies that come over
one connection are kept apart. An object that comes twice is one. What comes while its study still waits is added to it;
what comes later, and is new, is a study of its own.

The queue is a folder of states, receiving, waiting, processing, sending, then done (or results, without --send-to) or
failed; a study is a folder in one of them, named by time and a hash. An object is acknowledged when it is on the disk.
After an end of any kind, a kill or a power cut, the next start goes on; where it has to send results once more, they
are the same objects. When there is no room (--max-studies, --min-free-gib), objects are refused with status 0xA700: the
sender has to keep them and try again.

A failed study says why in its reason.txt. It is tried again when you ask for it, by --retry-failed, or by moving its
folder to waiting, at any time; results that it has already, in its folder output, are then sent, not made anew. The
folders hold images of patients: failed studies stay until you remove them, done ones for --keep-days, and so do the
images, not the results, of those in results.

Only this machine can send, unless you name another --host, and with it those who may, by --allow. AE titles are no
passwords: on a network that others use, use TLS with certificates on both sides (--tls-cert, --tls-key, --tls-ca).
Lines of the log name a study by its hash, never a patient. SIGTERM and SIGINT end it.
"""

import argparse
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from bundle.listen import settings

APPLICATION = (sys.executable, "-m", "bundle", "deploy")

_log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    settings.configure(parser)


def run(args: argparse.Namespace, application: Sequence[str] = APPLICATION) -> int:
    """Listen until a signal comes.

    Raises:
        ValueError: If a setting is wrong.
        OSError: If a file or the address is not to be had.
        RuntimeError: If a package is missing, or another node uses the queue.
    """
    given = settings.read_settings(args)
    try:
        from bundle.listen.node import Node
    except ImportError as error:
        if error.name != "pynetdicom":
            raise
        raise RuntimeError('pynetdicom is not installed: pip install -c constraints.txt -e ".[listen]"') from error
    _keep_log_nameless()
    node = Node(given, application)
    for number in (signal.SIGTERM, signal.SIGINT):
        # in a thread, as it waits for a lock that the interrupted code may hold
        signal.signal(number, lambda *_: threading.Thread(target=node.stop.set).start())
    node.run()
    return 0


def _keep_log_nameless() -> None:
    """Logs what this package says; libraries quote the values that they complain of."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger("bundle.listen").setLevel(logging.INFO)
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    transport = logging.getLogger("pynetdicom.transport")  # tells why a peer cannot be reached
    transport.setLevel(logging.ERROR)
    transport.addFilter(lambda record: not record.exc_info)  # it tells of TLS twice, then with a traceback
    warnings.simplefilter("ignore")
    threading.excepthook = _say


def _say(error: threading.ExceptHookArgs) -> None:
    _log.error("a connection has ended by an error: %s", error.exc_type.__name__)
