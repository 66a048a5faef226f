"""Arrays in patient coordinates as NIfTI files."""

from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.files import replacing


def write_nifti(array: np.ndarray, affine: np.ndarray, path: str | Path) -> None:
    """Writes an (i, j, k) array with its RAS+ mm affine, so that ``path`` never holds half a file.

    The sform holds the affine, code 1 (scanner). So does the qform, unless the affine is sheared by a gantry tilt,
    which a qform cannot say: then its code is 0.

    Args:
        array: Voxels; bool becomes uint8.
        affine: (4, 4), voxel index to millimetres.
        path: Ends in ``.nii`` or ``.nii.gz``; its folder is made.

    Raises:
        ValueError: For another suffix, or a dtype that NIfTI does not know.
        OSError: naming the file, if it cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: is no name of a NIfTI file. End it in .nii or .nii.gz.")
    image = nib.Nifti1Image(array.astype(np.uint8) if array.dtype == bool else array, affine)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    sheared = not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=0 if sheared else 1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    try:
        with replacing(path) as part:
            nib.save(image, part)
    except OSError as error:
        raise OSError(f"Cannot write {path}: {error}. Free space, or choose a folder that can be written.") from error
