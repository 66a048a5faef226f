"""MONAI Label's web application, with errors that name their cause and DICOM segmentations with the right codes.

MONAI Label itself answers most errors with a bare "Internal Server Error", and calls every segment a spleen.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, HTTPException, Request, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from monailabel.app import app
from monailabel.config import settings
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    info,
    logs,
    model,
    ohif,
    proxy,
    scoring,
    session,
    train,
)
from monailabel.endpoints.infer import ResultType, run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import remove_file

from bundle.label.errors import EXPECTED, EmptyMaskError, OptionError, status_of, text_of
from bundle.label.requests import checked, json_object
from bundle.label.segments import labels_of, require_convertible, segment_info
from bundle.label.studies import DicomStudies

__all__ = ["app"]

logger = logging.getLogger(__name__)

_NAMED = re.compile(r"/(batch/infer|infer|train|activelearning|scoring)/([^/]+)/?")
_WHOLE_SLIDES = "/infer/wsi"  # begins the paths for microscopy, whose requests name files of this machine
_OF_THE_ADDRESS = ("model", "image", "label", "session")  # params must not replace these unchecked
_router = APIRouter(dependencies=[Depends(checked)])
if not settings.MONAI_LABEL_CORS_ORIGINS:  # or else any page in a browser could read patients' scans
    app.user_middleware = [one for one in app.user_middleware if one.cls is not CORSMiddleware]


@app.middleware("http")
async def names_are_known(request: Request, go_on: Any) -> Response:
    """Refuses an unknown model, strategy or method before it becomes a background task."""
    if request.url.path.startswith(_WHOLE_SLIDES):
        return JSONResponse({"detail": "There is no model of whole-slide images."}, status_code=404)
    named = _NAMED.fullmatch(request.url.path)
    if named and request.method == "POST":
        path, name = named.groups()
        names = app_instance().names(path)
        if name not in names:
            detail = f"There is no {name!r} under /{path}/, only {', '.join(names)}."
            return JSONResponse({"detail": detail}, status_code=404)
    return await go_on(request)


async def answer_with_error(request: Request, error: Exception) -> JSONResponse:
    """Tells the client what went wrong; the server's log says where."""
    logger.error("A request failed", exc_info=error)
    return JSONResponse({"detail": text_of(error)}, status_code=status_of(error))


for _kind in EXPECTED:
    app.add_exception_handler(_kind, answer_with_error)


@_router.post("/infer/{model}")
def infer(
    background_tasks: BackgroundTasks,
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))],
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: ResultType | None = None,
) -> Any:
    """Infers as MONAI Label does, but a DICOM segmentation has the right codes even without ``label_info``, and other
    requests need not wait for a long inference.
    """
    if not (image or file or session_id):
        raise HTTPException(422, "Name an image, or send a file.")
    given = {name: value for name, value in json_object("params", params).items() if name not in _OF_THE_ADDRESS}
    if output is ResultType.dicom_seg:
        return dicom_segmentation(background_tasks, {**given, "model": model, "image": image})
    return run_inference(background_tasks, model, image, session_id, json.dumps(given), file, label, output)


def dicom_segmentation(background_tasks: BackgroundTasks, request: dict[str, Any]) -> FileResponse:
    """Infers a series of the DICOMweb server, and writes the mask as a DICOM segmentation.

    Raises:
        OptionError: If the studies are not on a DICOMweb server, or the model makes no mask.
        EmptyMaskError: If no voxel lies above the mask threshold.
        ValueError: If dcmqi cannot convert the series.
    """
    app_of_now = app_instance()
    datastore = app_of_now.datastore()
    if not isinstance(datastore, DicomStudies) or request["model"] != "anomaly_segmentation":
        raise OptionError("output dicom_seg needs anomaly_segmentation, and studies on a DICOMweb server.")
    scan = datastore.get_image_uri(request["image"])
    series = scan.removesuffix(".nii.gz")  # folder of the files that it was made of
    require_convertible(series)
    result = app_of_now.infer({**request, "result_extension": ".nii.gz", "result_dtype": "uint8"})
    background_tasks.add_task(remove_file, result["file"])
    labels = labels_of(result["file"], scan)
    if not labels:
        threshold, score = result["params"]["mask_threshold"], result["params"]["score"]
        raise EmptyMaskError(
            f"No voxel lies above the mask threshold {threshold:.4g} (score {score:.4g}): there is no segmentation."
        )
    written = nifti_to_dicom_seg(series, result["file"], segment_info(labels, True, request.get("label_info")))
    if not Path(written).is_file():
        raise RuntimeError("dcmqi's itkimage2segimage wrote no segmentation; the server's log says why.")
    background_tasks.add_task(remove_file, written)
    return FileResponse(written, media_type="application/dicom", filename="segmentation.dcm")


@_router.post("/batch/infer/{model}")
def run_batch(
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))],
    model: str,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
) -> Any:
    """Infers a batch as MONAI Label does, but other requests need not wait; so do the next two."""
    return batch_infer.run(model, images, params, run_sync)


@_router.post("/train/{model}")
def run_training(
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))],
    model: str,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
    enqueue: bool = False,
) -> Any:
    return train.run_model(model, params, run_sync, enqueue)


@_router.post("/scoring/{method}")
def run_scoring(
    user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))],
    method: str,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
) -> Any:
    return scoring.run_method(method, params, run_sync)


for _module in (info, model, batch_infer, train, activelearning, datastore, logs, ohif, proxy, scoring, session):
    _router.include_router(_module.router)
_routes = app.router.routes[:]
app.include_router(_router)
app.router.routes[:] = [*app.router.routes[len(_routes) :], *_routes]  # ahead of MONAI Label's own, which check nothing
