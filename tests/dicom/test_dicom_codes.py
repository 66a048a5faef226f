"""Coded concepts: of the region a header names, and of our own."""

import pytest
from pydicom.sr.coding import Code

from scripts.dicom import codes


@pytest.mark.parametrize(
    ("body_part", "value"),  # PS3.16, table L-1
    [
        ("HEAD", "69536005"),
        ("BRAIN", "12738006"),
        ("Chest", "816094009"),
        ("CSPINE", "122494005"),
        ("", "38266002"),
        ("NONSENSE", "38266002"),
    ],
)
def test_region_of_a_body_part(body_part: str, value: str) -> None:
    assert (codes.region_of(body_part).value, codes.region_of(body_part).scheme_designator) == (value, "SCT")


def test_codes_fit_into_dicom() -> None:
    own = [code for code in vars(codes).values() if isinstance(code, Code) and code.scheme_designator == codes.SCHEME]
    assert len({code.value for code in own}) == len(own) == 16
    assert all(len(code.value) <= 16 and len(code.meaning) <= 64 for code in own)


def test_procedure_of_an_unknown_modality() -> None:
    assert codes.procedure_of("CT").meaning.startswith("CT")
    assert codes.procedure_of("").meaning == "Imaging procedure"
