"""PS3.15: what must go is gone at every depth, what an image needs stays, and the file says so."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from medsynth.data.badimage import BadImage, silence
from medsynth.data.confidentiality import (
    METHODS,
    apply,
    check_declared_text,
    claim_clean_pixels,
    residue,
)
from medsynth.protocol import Deidentify

BASIC = Deidentify()
SECRET = bytes(range(32))


def read(name: str) -> Dataset:
    with silence():
        return pydicom.dcmread(get_testdata_file(f"{name}.dcm", download=False))


def bundled() -> list[Path]:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    return sorted(path for path in folder.rglob("*") if path.is_file() and has_header(path))


def has_header(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def written(dataset: Dataset) -> bytes:
    """The dataset as a file holds it, without its pixels."""
    bare = copy.copy(dataset)
    bare._dict = {tag: value for tag, value in dataset._dict.items() if tag < 0x7FE00000}
    bare.file_meta = FileMetaDataset()
    buffer = io.BytesIO()
    with silence():
        pydicom.dcmwrite(buffer, bare, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def plain(**values) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = "1.2.3.4", "1.2.3"
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def item(**values) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


# Nothing that identifies is left ----------------------------------------------------------------


def test_no_persons_name_or_number_is_left_in_any_bundled_file():
    paths = bundled()
    assert len(paths) > 150
    for path in paths:
        with silence():
            before = pydicom.dcmread(path)
            after, _ = apply(before, BASIC)
            named = [
                element
                for element in before.iterall()
                if element.VR == "PN" or element.keyword in ("PatientID", "AccessionNumber")
            ]
            words = {w for e in named for w in re.findall(r"[^\W_]{3,}", str(e.value).upper())}
        text = written(after).decode("latin-1").upper()
        found = {word for word in words if re.search(rf"(?<![^\W_]){word}(?![^\W_])", text)}
        assert not found - {"ANONYMIZED", "000000", "OFFIS"}, path.name
        assert not residue(before, after, BASIC), path.name


def test_what_a_file_must_lose_is_found_where_nothing_was_done():
    before = plain(PatientName="Curie^Marie", ContrastBolusAgent="x", ImageComments="Marie")
    before.SeriesNumber, before.ProtocolName = "1", "MARIE"
    assert residue(before, before, BASIC) >= ["ImageComments", "PatientName", "ProtocolName"]


def test_the_real_radiograph_loses_who_where_and_when():
    before = read("RG1_UNCI")
    after, audit = apply(before, BASIC)
    header = written(after)
    for word in (b"CompressedSamples", b"9RG1", b"26210", b"Hamburg", b"Philips", b"THORAVISION"):
        assert word in written(before)
        assert word not in header
    for word in (b"19400305", b"20040826", b"92.00.003", b"1.3.6.1.4.1.5962", b"JPEG 2000"):
        assert word not in header
    assert audit.removed >= 5
    assert audit.uids == 5
    assert audit.traces == 1  # the hospital's name begins as the maker's does


def test_sequences_are_cleaned_at_every_depth():
    inner = item(PatientName="Curie^Marie", CodeMeaning="Chest")
    before = plain(ViewCodeSequence=[item(PurposeOfReferenceCodeSequence=[inner])])
    after, audit = apply(before, BASIC)
    assert b"Curie" not in written(after)
    kept = after.ViewCodeSequence[0].PurposeOfReferenceCodeSequence[0]
    assert kept.CodeMeaning == "Chest"
    assert kept.PatientName == ""
    assert audit.nested == 1


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00091001, "LO", "Curie"),  # private, with its creator or without
        (0x60000022, "LO", "Curie"),  # an overlay's description, in no table
        (0x60023000, "OW", b"Curie!"),
        (0x50000040, "LO", "Curie"),
        (0x00080000, "UL", 4),
        (0x00189999, "LO", "Curie"),  # even, but not the standard's
        (0xFFFCFFFC, "OB", b"Curie!"),
        (0x300A0799, "DA", "18671107"),
        (0x00081072, "SQ", [item(PersonName="Curie")]),
    ],
)
def test_what_no_kept_tag_needs_is_removed(tag, vr, value):
    before = plain()
    before.add_new(tag, vr, value)
    after, audit = apply(before, BASIC)
    assert tag not in after or not after[tag].value
    assert b"Curie" not in written(after)
    assert audit.removed + audit.private + audit.emptied + audit.replaced == 1


def test_a_colour_profile_keeps_its_numbers_and_loses_its_words():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert b"s\0R\0G\0B" in profile
    before = plain(OpticalPathSequence=[item(ICCProfile=profile)])
    after, _ = apply(before, BASIC)
    kept = after.OpticalPathSequence[0].ICCProfile
    assert b"s\0R\0G\0B" not in kept
    start = profile.index(b"XYZ ", 200)
    assert kept[start : start + 20] == profile[start : start + 20]
    damaged, _ = apply(plain(ICCProfile=b"desc Curie"), BASIC)
    assert damaged.ICCProfile == b""


def test_file_meta_says_only_how_pixels_are_packed():
    before = read("CT_small")
    before.file_meta.SourceApplicationEntityTitle = "CURIE_WS"
    before.file_meta.PrivateInformationCreatorUID = "1.2.3"
    before.file_meta.PrivateInformation = b"Curie"
    before.preamble = b"II*\0Curie".ljust(128, b"\0")
    after, _ = apply(before, BASIC, secret=SECRET)
    assert {element.keyword for element in after.file_meta} == {
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
    }
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    buffer = io.BytesIO()
    after.save_as(buffer, enforce_file_format=True)
    assert b"urie" not in buffer.getvalue()
    assert buffer.getvalue()[:128] == bytes(128)


def test_an_identifying_word_is_blanked_where_a_kept_tag_repeats_it():
    before = plain(
        PatientName="Curie^Marie",
        InstitutionName="Radium Hospital",
        StudyDescription="CHEST PA",
        BodyPartExamined="CHEST",
        ManufacturerModelName="Radium 3000",
        ImageType=["ORIGINAL", "CURIE"],
        FilterType="0.1Cu",
    )
    after, audit = apply(before, BASIC)
    assert after.ManufacturerModelName == ""
    assert after.ImageType == ""
    assert after.BodyPartExamined == "CHEST"
    assert after.FilterType == "0.1Cu"
    assert audit.traces == 2


def test_a_patient_who_is_called_like_a_word_of_the_standard_does_not_spoil_the_image():
    before = plain(
        PatientName="Inverse^Chest",
        PresentationLUTShape="INVERSE",
        PhotometricInterpretation="MONOCHROME2",
    )
    after, _ = apply(before, BASIC)
    assert (after.PresentationLUTShape, after.PatientName) == ("INVERSE", "")


TEXT_TAGS = ("PatientName", "PatientComments", "InstitutionName", "OperatorsName", "StudyID")
KEPT_TAGS = ("Manufacturer", "ManufacturerModelName", "BodyPartExamined", "FilterType")


@given(
    word=st.text("bcdfghjk", min_size=3, max_size=10),
    source=st.sampled_from(TEXT_TAGS[:2]),
    others=st.lists(st.sampled_from(TEXT_TAGS[2:]), max_size=2),
    kept=st.sampled_from(KEPT_TAGS),
    before_and_after=st.tuples(
        st.sampled_from(["", "A ", "x_"]), st.sampled_from(["", " 7", "_z"])
    ),
)
@settings(max_examples=60)
def test_a_word_of_the_patient_survives_nowhere(word, source, others, kept, before_and_after):
    text = word.join(before_and_after)
    before = plain(**{source: word.upper(), **dict.fromkeys(others, text), kept: text.upper()})
    before.ViewCodeSequence = [item(CodeMeaning=text, CodeValue="1")]
    after, _ = apply(before, BASIC)
    assert not re.search(rf"(?<![^\W_]){word}(?![^\W_])", written(after).decode("latin-1").lower())


# What stays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CT_small", "MR_small_RLE", "examples_palette", "JPEG2000"])
def test_pixels_are_the_same_bytes_and_unpack_alike(name):
    before = read(name)
    after, _ = apply(before, BASIC)
    assert after.PixelData is before.PixelData
    with silence():
        np.testing.assert_array_equal(after.pixel_array, before.pixel_array)


def test_a_dataset_is_not_changed_by_what_is_made_of_it():
    before = read("RG1_UNCI")
    bytes_before = written(before)
    after, _ = apply(before, BASIC, secret=SECRET)
    assert written(before) == bytes_before
    assert not hasattr(after, "filename")


def test_doing_it_again_changes_nothing():
    for name in ("RG1_UNCI", "CT_small", "examples_overlay", "liver_1frame"):
        once, _ = apply(read(name), BASIC)
        twice, audit = apply(once, BASIC)
        assert written(twice) == written(once)
        assert audit.traces == 0


def test_a_retained_option_keeps_its_own_tags_and_no_others():
    before = plain(
        PatientName="Curie^Marie", PatientSex="F", PatientAge="066Y", PatientBirthDate="18671107",
        InstitutionName="Radium Hospital", StationName="XR1", StudyDate="19340704",
        DateOfSecondaryCapture="19340705",
    )  # fmt: skip
    names = {
        "patient characteristics": {"PatientSex", "PatientAge"},
        "institution identity": {"InstitutionName"},
        "device identity": {"StationName"},
        "full dates": {"StudyDate", "DateOfSecondaryCapture"},
        "uids": {"SOPInstanceUID", "StudyInstanceUID"},
    }
    for option, kept in names.items():
        chosen = Deidentify(retain=(option,))
        after, audit = apply(before, chosen)
        same = {e.keyword for e in before if after.get(e.keyword) == e.value}
        assert same == kept
        assert audit.retained == len(kept)
        assert audit.methods == ("113100", METHODS[option][0])
        assert not residue(before, after, chosen)


def test_what_is_retained_stays_though_something_removed_shares_its_words():
    before = read("CT_small")
    before.InstitutionName, before.StudyDescription = "Radium Hospital", "sent by Radium Hospital"
    before.PatientComments = f"seen on {before.StudyDate}"
    chosen = Deidentify(retain=("uids", "institution identity", "full dates"))
    after, _ = apply(before, chosen)
    for name in ("InstitutionName", "SOPInstanceUID", "StudyInstanceUID", "StudyTime"):
        assert after[name].value == before[name].value, name
    assert after.file_meta.MediaStorageSOPInstanceUID == before.SOPInstanceUID
    before.InstitutionName = "Private practice of CompressedSamples"
    assert apply(before, chosen)[0].InstitutionName == ""


def test_ages_above_89_are_one_age():
    chosen = Deidentify(retain=("patient characteristics",))
    ages = {"089Y": "089Y", "090Y": "090Y", "104Y": "090Y", "011M": "011M", "": ""}
    found = {age: apply(plain(PatientAge=age), chosen)[0].PatientAge for age in ages}
    assert found == ages


# Links ------------------------------------------------------------------------------------------


def test_files_of_one_study_stay_together_under_other_uids():
    first, _ = apply(plain(SeriesInstanceUID="1.2.9"), BASIC, secret=SECRET)
    before = plain(SourceImageSequence=[item(ReferencedSOPInstanceUID="1.2.3.4")])
    before.SOPInstanceUID = "1.2.3.5"
    second, _ = apply(before, BASIC, secret=SECRET)
    assert second.StudyInstanceUID == first.StudyInstanceUID
    assert second.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert UID(first.SOPInstanceUID).is_valid
    assert first.SOPInstanceUID.startswith("2.25.")


def test_another_secret_gives_other_uids_and_none_gives_none():
    before = plain(PatientID=" 12 ")
    one, _ = apply(before, BASIC, secret=SECRET)
    two, _ = apply(before, BASIC, secret=SECRET[::-1])
    none, _ = apply(before, BASIC)
    assert one.StudyInstanceUID != two.StudyInstanceUID
    assert one.PatientID != two.PatientID
    assert none.StudyInstanceUID == ""


def test_the_patients_number_becomes_the_pseudonym_of_the_run():
    from medsynth.data.deidentify import pseudonym

    after, _ = apply(plain(PatientID=" 12 "), BASIC, secret=SECRET)
    assert after.PatientID == pseudonym(SECRET, "patient", "12")


def test_uids_of_the_standard_itself_stay():
    frame = "1.2.840.10008.1.4.1.1"  # Talairach Brain Atlas Frame of Reference
    after, _ = apply(plain(FrameOfReferenceUID=frame), BASIC, secret=SECRET)
    assert after.FrameOfReferenceUID == frame


# What the file says of it -----------------------------------------------------------------------


def test_the_file_says_how_it_was_cleaned():
    after, audit = apply(plain(PatientIdentityRemoved="NO", DeidentificationMethod="old"), BASIC)
    assert after.PatientIdentityRemoved == "YES"
    assert "medsynth" in after.DeidentificationMethod
    assert len(after.DeidentificationMethod) <= 64
    assert after.LongitudinalTemporalInformationModified == "REMOVED"
    (code,) = after.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
    assert audit.methods == ("113100",)
    dated, _ = apply(plain(), Deidentify(retain=("full dates",)))
    assert dated.LongitudinalTemporalInformationModified == "UNMODIFIED"


def test_cleaned_pixels_are_claimed_only_when_told():
    after, _ = apply(plain(BurnedInAnnotation="YES"), BASIC)
    assert after.BurnedInAnnotation == "YES"
    claim_clean_pixels(after)
    assert [code.CodeValue for code in after.DeidentificationMethodCodeSequence][1:] == ["113101"]
    assert after.BurnedInAnnotation == "NO"


def test_method_codes_and_their_words_are_those_of_the_standard():
    from pydicom.sr.codedict import codes

    for value, meaning in METHODS.values():
        known = {code.value: code.meaning for code in map(codes.cid7050.__getattr__, dir_7050())}
        assert known[value] == meaning


def dir_7050() -> list[str]:
    from pydicom.sr.codedict import codes

    return list(codes.cid7050.dir())


def test_an_audit_holds_counts_and_codes_but_no_value():
    _, audit = apply(read("RG1_UNCI"), BASIC)
    values = list(vars(audit).values())
    assert all(isinstance(value, int) for value in values if value not in ("", audit.methods))
    assert set(audit.methods) <= {value for value, _ in METHODS.values()}


# What is refused --------------------------------------------------------------------------------


def test_declared_text_is_refused_or_left_to_the_screen():
    screened = Deidentify(declared_text="screen", text_screen="mask")
    for value in ("YES", "YES "):
        with pytest.raises(BadImage, match="burned-in annotation"):
            check_declared_text(plain(BurnedInAnnotation=value), BASIC)
        check_declared_text(plain(BurnedInAnnotation=value), screened)
    check_declared_text(plain(BurnedInAnnotation="NO"), BASIC)
    check_declared_text(plain(), BASIC)


def test_an_overlay_in_the_pixels_unused_bits_is_refused():
    before = plain()
    before.add_new(0x60000102, "US", 12)
    with pytest.raises(BadImage, match="overlay lies in unused bits"):
        apply(before, BASIC)


def test_a_value_that_cant_be_read_is_not_kept_and_an_error_quotes_none():
    before = plain(PatientName="Curie")
    before._dict[0x00180060] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(0x00180060), "DS", 6, b"Curie ", 0, False, True
    )
    after, audit = apply(before, BASIC)
    assert "KVP" not in after
    assert audit.removed == 1
    with pytest.raises(BadImage) as caught:
        apply("Curie", BASIC)
    assert "urie" not in str(caught.value)
