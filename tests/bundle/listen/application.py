"""Stands for ``python -m bundle deploy``: does what the file ``behaviour`` in the folder of ``--bundle`` says.

Each result has identifiers of its own, so that processing twice shows.
"""

import os
import sys
import time
from pathlib import Path

import pydicom
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
images, output, bundle = Path(options["-i"]), Path(options["-o"]), Path(options["--bundle"])
behaviour = (bundle / "behaviour").read_text().split()
with open(bundle / "runs", "a") as file:
    print(os.getpid(), len(list(images.glob("*.dcm"))), *sys.argv[7:], file=file)
if "hang" in behaviour:
    time.sleep(600)
if "write" in behaviour:
    source = pydicom.dcmread(sorted(images.glob("*.dcm"))[0])
    for number in range(3):
        source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        (output / "dicom" / "series").mkdir(parents=True, exist_ok=True)
        source.save_as(output / "dicom" / "series" / f"{number}.dcm")
print("said by the application")
sys.exit(int(next((word for word in behaviour if word.isdecimal()), "0")))
