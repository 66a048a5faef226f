"""Code that the bundle's configs name: networks, losses, data, transforms, metrics and engines.

Nothing that runs it tells anyone: MLflow's and NNCF's reports of usage to their makers are off, unless the environment
turns them on.
"""

import os
import sys

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("NNCF_CI", "true")  # its only switch
if "mlflow" in sys.modules:  # as MONAI imports it; it has begun then
    from mlflow.telemetry import set_telemetry_client

    set_telemetry_client()
