"""Writes arrays in patient coordinates as NIfTI files."""

from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.files import replacing


def write_nifti(array: np.ndarray, affine: np.ndarray, path: str | Path) -> None:
    """Writes an (i, j, k) array with its affine to RAS+ mm; ``path`` never holds half a file.

    The sform holds the affine with code 1 (scanner). So does the qform, unless a gantry tilt shears the affine, which
    a qform cannot express: then its code is 0.

    Args:
        array: Voxels (i, j, k); bool becomes uint8.
        affine: (4, 4) affine from voxel index to RAS+ mm.
        path: File that ends in ``.nii`` or ``.nii.gz``; its folder is created if missing.

    Raises:
        ValueError: If the suffix is another, or NIfTI does not know the dtype.
        OSError: If the file cannot be written; the message names it.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: is not a name for a NIfTI file. It must end in .nii or .nii.gz.")
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
        raise OSError(f"Cannot write {path}: {error}. Free space, or choose a writable folder.") from error
