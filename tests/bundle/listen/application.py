"""Stands for ``python -m bundle deploy``: does what the file ``behaviour`` in the place of the model folder says.

Each result is a copy of an image with a new SOP Instance UID, so that processing twice shows. Without pydicom, which
takes long to import.
"""

import os
import random
import sys
import time
from pathlib import Path

folder, flags = Path(sys.argv[1]), sys.argv[2:6:2]
assert flags == ["-i", "-o"]
images, output = map(Path, sys.argv[3:6:2])
behaviour = (folder / "behaviour").read_text().split()
with open(folder / "runs", "a") as file:
    print(os.getpid(), len(list(images.glob("*.dcm"))), *sys.argv[6:], file=file)
if "hang" in behaviour:
    time.sleep(600)
if "write" in behaviour:
    (output / "dicom" / "series").mkdir(parents=True)
    content = min(images.glob("*.dcm")).read_bytes()
    start = content.index(b"\x02\x00\x03\x00UI") + 8  # Media Storage SOP Instance UID, and its length
    uid = content[start : start + content[start - 2]].rstrip(b"\0")
    for number in range(3):
        new = b"2.25.1" + bytes(random.choices(b"0123456789", k=len(uid) - 6))
        (output / "dicom" / "series" / f"{number}.dcm").write_bytes(content.replace(uid, new))
print("said by the application")
sys.exit(int(next((word for word in behaviour if word.isdecimal()), "0")))
