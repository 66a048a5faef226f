"""The MONAI Label app: models, training, strategies and studies that the server offers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from bundle.label import NAME
from bundle.label.batches import Batches
from bundle.label.datastore import NiftiStudies
from bundle.label.inference import AnomalyMap, AnomalySegmentation, AnomalyTask
from bundle.label.learning import AnomalyScoring, AnyUnseen, MostAnomalous, MostUncertain
from bundle.label.studies import DicomStudies
from bundle.label.training import AnomalyTraining
from scripts.model.predictor import Predictor
from scripts.results.result import NOTICE


class AnomalyApp(MONAILabelApp):
    """Serves the model folder that ``app_dir/model`` links to.

    Args:
        app_dir: App folder, see `bundle.label.write_app`.
        studies: Folder of NIfTI, or URL of a DICOMweb server.
        conf: Options of MONAI Label; none is used.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        folder = Path(app_dir)
        self.predictor = Predictor(folder / "model" / NAME, cache_dir=folder / "cache")
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Medical anomaly detection",
            description=f"Finds anomalies after learning from normal images alone. {NOTICE}",
            version=self.predictor.facts["version"],
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {
            "anomaly_segmentation": AnomalySegmentation(self.predictor),
            "anomaly_map": AnomalyMap(self.predictor),
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        return {"anomaly": AnomalyTraining(self.predictor, Path(self.app_dir, "training"))}

    def init_strategies(self) -> dict[str, Strategy]:
        return {
            "most_anomalous": MostAnomalous(self.predictor),
            "most_uncertain": MostUncertain(self.predictor),
            "random": AnyUnseen(),
        }

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {"anomaly": AnomalyScoring(self.predictor)}

    def init_batch_infer(self) -> Batches:
        return Batches()

    def init_datastore(self) -> Datastore:
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return NiftiStudies(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
        )

    def _init_dicomweb_datastore(self) -> Datastore:
        name, word = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies,
            session=create_session_from_user_pass(name, word) if name and word else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        client.set_http_retry_params(max_attempts=2)  # with five, a viewer waits half a minute if it is down
        cache = settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or str(Path(self.app_dir, "dicom"))
        return DicomStudies(client, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER, cache)

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Infers as MONAI Label does, but refuses an unknown image, and keeps nothing of an uploaded one.

        Raises:
            ImageNotFoundException: If there is no such image.
        """
        image = request["image"]
        uploaded = os.path.isabs(image) and os.path.exists(image)
        if not uploaded and not (datastore or self.datastore()).get_image_uri(image):
            raise ImageNotFoundException(f"There is no image {image!r} among the studies.")
        try:
            return super().infer(request, datastore)
        finally:
            if uploaded:
                self.predictor.forget(image)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Infers as MONAI Label does, but refuses a wrong option once, and not image by image.

        Raises:
            OptionError, NotCalibratedError: See `AnomalyTask.check`.
        """
        task = self._infers.get(request["model"])
        if isinstance(task, AnomalyTask):
            task.check(request)
        return super().batch_infer(request, datastore)

    def names(self, path: str) -> list[str]:
        """Names that may follow a path of requests, such as ``batch/infer``."""
        of_path: dict[str, Any] = {
            "infer": self._infers,
            "batch/infer": self._infers,
            "train": self._trainers,
            "activelearning": self._strategies,
            "scoring": self._scoring_methods,
        }
        return sorted(of_path[path])
