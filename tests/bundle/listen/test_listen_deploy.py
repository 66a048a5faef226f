"""The node with the application that it is made for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from bundle.listen import APPLICATION
from scripts.dicom.series import find_series, read_series
from scripts.model.predictor import Predictor


def test_a_ct_comes_in_and_its_segmentation_map_and_report_go_out(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    model_folder: Path,
    tmp_path: Path,
    eventually: Callable[..., Any],
) -> None:
    files = sorted((model_folder.parent / "phantoms" / "dicom" / "sub-13").iterdir())
    peer = pacs()
    node = listen(send_to=peer.port, application=APPLICATION, model=model_folder)
    assert node.send(files) == [0] * len(files)
    eventually(lambda: len(peer.received) == 3)
    eventually(lambda: not node.names("sending"))
    assert not node.names("failed")
    source = pydicom.dcmread(files[0])
    results = {dataset.Modality: dataset for dataset in peer.datasets}
    assert set(results) == {"SEG", "OT", "SR"}  # "OT" is the parametric map's
    assert {dataset.StudyInstanceUID for dataset in peer.datasets} == {source.StudyInstanceUID}
    # The NIfTI of the same subject has the same array; frames lie in the order of slices, each of rows and columns.
    scan = model_folder.parent / "phantoms" / "anomalous" / "sub-13" / "ct.nii.gz"
    found = Predictor(model_folder, "cpu", cache_dir=tmp_path)(scan)
    (series,) = find_series(files[0].parent).series
    shape = read_series(series).array.shape
    frames = np.frombuffer(results["OT"].FloatPixelData, "<f4").reshape(shape[2], shape[1], shape[0])
    np.testing.assert_allclose(frames.transpose(2, 1, 0), found.anomaly_map[0].numpy(), rtol=1e-3, atol=1e-5)
    mask = results["SEG"].pixel_array.transpose(2, 1, 0)
    assert int(mask.sum()) == int(found.mask.sum()) > 0
