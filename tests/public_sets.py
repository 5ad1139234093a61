"""Tiny copies of public data sets, each in its real layout with its real column names.

`WRITERS` maps a layout's name to a function that writes it under a folder and returns the entries
that must come out, with every attribute.
"""

from __future__ import annotations

import gzip
import io
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from medsynth.data.layouts import Entry

SIZE = 48
P, N, U, M = "positive", "negative", "uncertain", "not mentioned"
CHEXPERT = [
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]
NIH = [
    "No Finding",
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
]


# Files ------------------------------------------------------------------------------------------


@cache
def picture(kind: str, form: str) -> bytes:
    """Return an image file of a kind (fundus, chest, tissue) in a format (PNG, JPEG, TIFF)."""
    out = io.BytesIO()
    Image.fromarray(pixels(kind)).save(out, form)
    return out.getvalue()


def pixels(kind: str, size: int = SIZE) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    if kind == "chest":
        return (110 + 100 * x * y).astype(np.uint8)
    colour = np.stack([180 + 40 * x, 90 + 30 * y, 60 + 20 * x * y], axis=-1)
    disc = (x**2 + y**2 < 0.9)[..., None] if kind == "fundus" else 1
    return (colour * disc).astype(np.uint8)


@cache
def radiograph(patient: str) -> bytes:
    """Return a DICOM file of a chest whose header names a patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta[0x00020002].value, meta[0x00020003].value
    dataset.PatientID, dataset.PatientName, dataset.Modality = patient, "Doe^Jane", "CR"
    dataset.BurnedInAnnotation = "NO"
    dataset.Rows = dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    noise = np.random.default_rng(zlib.crc32(patient.encode())).integers(0, 60, (6, 6), np.uint8)
    dataset.PixelData = (pixels("chest") // 2 + np.kron(noise, np.ones((8, 8), np.uint8))).tobytes()
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def put(raw: Path, kind: str, *paths: str) -> None:
    forms = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".gif": "GIF"}
    for path in paths:
        suffix = Path(path).suffix.lower()
        data = radiograph(Path(path).stem) if suffix not in forms else picture(kind, forms[suffix])
        write(raw, path, data)


def write(raw: Path, path: str, data: bytes | str) -> None:
    (raw / path).parent.mkdir(parents=True, exist_ok=True)
    (raw / path).write_bytes(data.encode() if isinstance(data, str) else data)


def table(raw: Path, path: str, header: str, *rows: str) -> None:
    text = "\n".join([header, *rows]) + "\n"
    write(raw, path, gzip.compress(text.encode()) if path.endswith(".gz") else text)


def findings(names: list[str], positive: str = "", other: str = N, **more: str) -> dict[str, str]:
    """Return {finding: state}, `positive` ones parted by |, all others in one state."""
    return {name: P if name in positive.split("|") else other for name in names} | more


# Fundus -----------------------------------------------------------------------------------------


def airogs(raw: Path) -> list[Entry]:
    put(raw, "fundus", "0/TRAIN000000.jpg", "0/TRAIN000001.jpg", "1/TRAIN000002.jpg")
    rows = ["TRAIN000000,NRG", "TRAIN000001,RG", "TRAIN000002,NRG", "TRAIN000003,NRG"]
    table(raw, "train_labels.csv", "challenge_id,class", *rows)
    return [
        Entry("0/TRAIN000000.jpg", "", {"glaucoma": "NRG"}),
        Entry("0/TRAIN000001.jpg", "", {"glaucoma": "RG"}),
        Entry("1/TRAIN000002.jpg", "", {"glaucoma": "NRG"}),
    ]


def airogs_light(raw: Path) -> list[Entry]:
    top = "eyepac-light-v2-512-jpg"
    paths = [
        f"{top}/test/NRG/TEST000001.jpg",
        f"{top}/train/NRG/TRAIN000001.jpg",
        f"{top}/train/RG/TRAIN000002.jpg",
        f"{top}/validation/RG/DEV000003.jpg",
    ]
    put(raw, "fundus", *paths)
    return [Entry(path, "", {"glaucoma": path.split("/")[2]}) for path in paths]


def eyepacs(raw: Path) -> list[Entry]:
    put(raw, "fundus", "train/10_left.jpeg", "train/10_right.jpeg", "train/13_left.jpeg",
        "test/1_left.jpeg")  # fmt: skip
    table(raw, "trainLabels.csv", "image,level", "10_left,0", "10_right,0", "13_left,4")
    return [
        Entry("train/10_left.jpeg", "10", {"level": "0", "laterality": "left"}),
        Entry("train/10_right.jpeg", "10", {"level": "0", "laterality": "right"}),
        Entry("train/13_left.jpeg", "13", {"level": "4", "laterality": "left"}),
    ]


ODIR_HEADER = [
    "ID",
    "Patient Age",
    "Patient Sex",
    "Left-Fundus",
    "Right-Fundus",
    "Left-Diagnostic Keywords",
    "Right-Diagnostic Keywords",
    "N",
    "D",
    "G",
    "C",
    "A",
    "H",
    "M",
    "O",
]
ODIR_ROWS = [
    [0, 69, "Female", "0_left.jpg", "0_right.jpg", "cataract", "normal fundus",
     0, 0, 0, 1, 0, 0, 0, 0],
    [8, 0, "Male", "8_left.jpg", "8_right.jpg", "normal fundus，lens dust",
     "moderate non proliferative retinopathy，laser spot", 0, 1, 0, 0, 0, 0, 0, 1],
    [93, 91, "Male", "93_left.jpg", "93_right.jpg", "no fundus image", "suspected glaucoma",
     0, 0, 1, 0, 0, 0, 0, 0],
    [94, 50, "Male", "94_left.jpg", "94_right.jpg", "anterior segment image", "low image quality",
     0, 0, 0, 0, 0, 0, 0, 1],
]  # fmt: skip
ODIR = ("normal", "diabetes", "glaucoma", "cataract", "amd", "hypertension", "myopia", "other")


def odir(raw: Path) -> list[Entry]:
    from openpyxl import Workbook

    book = Workbook()
    for row in [ODIR_HEADER, *ODIR_ROWS]:
        book.active.append(row)
    book.save(raw / "ODIR-5K_Training_Annotations(Updated)_V2.xlsx")
    folder = "ODIR-5K_Training_Dataset"
    eyes = [f"{row[0]}_{side}" for row in ODIR_ROWS for side in ("left", "right")]
    put(raw, "fundus", *(f"{folder}/{eye}.jpg" for eye in eyes))
    return odir_entries(folder)


def odir_entries(folder: str) -> list[Entry]:
    def eye(name: str, patient: str, found: str, **about: str) -> Entry:
        side = name.split("_")[1]
        return Entry(f"{folder}/{name}.jpg", patient,
                     findings(list(ODIR), found, laterality=side, **about))  # fmt: skip

    return [
        eye("0_left", "0", "cataract", sex="female", age="60-69"),
        eye("0_right", "0", "normal", sex="female", age="60-69"),
        eye("8_left", "8", "normal", sex="male"),
        eye("8_right", "8", "diabetes|other", sex="male"),
        eye("93_right", "93", "glaucoma", sex="male", age="90+"),
        Entry(f"{folder}/94_right.jpg", "94",
              {"laterality": "right", "sex": "male", "age": "50-59"}),
    ]  # fmt: skip


def idrid(raw: Path) -> list[Entry]:
    top, truth = "B. Disease Grading/1. Original Images", "B. Disease Grading/2. Groundtruths"
    other = "C. Localization/1. Original Images/a. Training Set/IDRiD_001.jpg"
    names = [f"{top}/a. Training Set/IDRiD_001.jpg", f"{top}/a. Training Set/IDRiD_002.jpg",
             f"{top}/b. Testing Set/IDRiD_001.jpg"]  # fmt: skip
    put(raw, "fundus", other, *names)
    header = "Image name,Retinopathy grade,Risk of macular edema ,,,,,,,,,"
    table(raw, f"{truth}/a. IDRiD_Disease Grading_Training Labels.csv", header,
          "IDRiD_001,3,2,,,,,,,,,", "IDRiD_002,4,1,,,,,,,,,")  # fmt: skip
    table(raw, f"{truth}/b. IDRiD_Disease Grading_Testing Labels.csv",
          "Image name,Retinopathy grade,Risk of macular edema ", "IDRiD_001,0,0")  # fmt: skip
    grades = [("3", "2"), ("4", "1"), ("0", "0")]
    return [
        Entry(name, "", {"retinopathy": grade, "macular_edema": risk})
        for name, (grade, risk) in zip(names, grades, strict=True)
    ]


def drive(raw: Path) -> list[Entry]:
    images = ["test/images/01_test.tif", "training/images/21_training.tif",
              "training/images/22_training.tif"]  # fmt: skip
    put(raw, "fundus", *images)
    put(raw, "chest", "training/1st_manual/21_manual1.gif", "training/mask/21_training_mask.gif",
        "test/mask/01_test_mask.gif")  # fmt: skip
    return [Entry(path, "", {}) for path in images]


def chase_db1(raw: Path) -> list[Entry]:
    for name in ("Image_01L", "Image_01R", "Image_14R"):
        put(raw, "fundus", f"{name}.jpg")
        put(raw, "chest", f"{name}_1stHO.png", f"{name}_2ndHO.png")
    return [
        Entry("Image_01L.jpg", "01", {"laterality": "left"}),
        Entry("Image_01R.jpg", "01", {"laterality": "right"}),
        Entry("Image_14R.jpg", "14", {"laterality": "right"}),
    ]


def hrf(raw: Path) -> list[Entry]:
    put(raw, "fundus", "images/01_dr.JPG", "images/01_g.jpg", "images/01_h.jpg")
    put(raw, "chest", "manual1/01_dr.tif", "manual1/01_g.tif", "manual1/01_h.tif",
        "mask/01_dr_mask.tif", "mask/01_g_mask.tif", "mask/01_h_mask.tif")  # fmt: skip
    return [
        Entry("images/01_dr.JPG", "", {"diagnosis": "diabetic_retinopathy"}),
        Entry("images/01_g.jpg", "", {"diagnosis": "glaucoma"}),
        Entry("images/01_h.jpg", "", {"diagnosis": "healthy"}),
    ]


# Chest X-rays -----------------------------------------------------------------------------------

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def nih_chestxray14(raw: Path) -> list[Entry]:
    put(raw, "chest", "images_001/images/00000001_000.png", "images_001/images/00000001_001.png",
        "images_012/images/00030805_000.png")  # fmt: skip
    table(raw, "Data_Entry_2017.csv", NIH_HEADER,
          "00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
          "00000001_001.png,Cardiomegaly|Pleural_Thickening,1,1,414,M,AP,2894,2729,0.143,0.143,",
          "00030805_000.png,No Finding,0,30805,27,F,PA,2048,2500,0.171,0.171,",
          "00030806_000.png,No Finding,0,30806,27,F,PA,2048,2500,0.171,0.171,")  # fmt: skip
    return nih_entries()


def nih_entries() -> list[Entry]:
    return [
        Entry("images_001/images/00000001_000.png", "1",
              findings(NIH, "Cardiomegaly", view="PA", sex="male", age="50-59")),
        Entry("images_001/images/00000001_001.png", "1",
              findings(NIH, "Cardiomegaly|Pleural_Thickening", view="AP", sex="male")),
        Entry("images_012/images/00030805_000.png", "30805",
              findings(NIH, "No Finding", view="PA", sex="female", age="20-29")),
    ]  # fmt: skip


def chexpert(raw: Path) -> list[Entry]:
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT)
    top = "CheXpert-v1.0-small"
    table(raw, f"{top}/train.csv", header,
          f"{top}/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,"
          "0.0,,,,1.0",
          f"{top}/train/patient00002/study2/view1_frontal.jpg,Unknown,0,Frontal,PA,,,-1.0,1.0,,"
          "-1.0,-1.0,,-1.0,,-1.0,,1.0,",
          f"{top}/train/patient00002/study1/view2_lateral.jpg,Male,87,Lateral,,,,,1.0,,,,,,,,,,"
          )  # fmt: skip
    table(raw, f"{top}/valid.csv", header,
          f"{top}/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,0.0,1.0,"
          "0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0")  # fmt: skip
    paths = ["train/patient00001/study1/view1_frontal.jpg",
             "train/patient00002/study1/view2_lateral.jpg",
             "train/patient00002/study2/view1_frontal.jpg",
             "valid/patient64541/study1/view1_frontal.jpg"]  # fmt: skip
    put(raw, "chest", *(f"{top}/{path}" for path in paths))
    unsure = dict.fromkeys(
        ["Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"], U
    )
    labels = [
        findings(CHEXPERT, "No Finding|Support Devices", M, view="AP", sex="female", age="60-69")
        | {"Pneumothorax": N},
        findings(CHEXPERT, "Lung Opacity", M, view="lateral", sex="male", age="80-89"),
        findings(CHEXPERT, "Lung Opacity|Fracture", M, view="PA") | unsure,
        findings(CHEXPERT, "Enlarged Cardiomediastinum|Lung Opacity", N, view="AP", sex="male",
                 age="70-79"),
    ]  # fmt: skip
    people = ["patient00001", "patient00002", "patient00002", "patient64541"]
    return [
        Entry(f"{top}/{path}", who, what)
        for path, who, what in zip(paths, people, labels, strict=True)
    ]


def mimic_cxr_jpg(raw: Path) -> list[Entry]:
    header = (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
        "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
        "PatientOrientationCodeSequence_CodeMeaning"
    )
    said = '"CHEST (PA AND LAT)"'
    table(raw, "mimic-cxr-2.0.0-metadata.csv.gz", header,
          f"02aa804e-bde0,10000032,50414267,{said},PA,3056,2544,21800506,213014.531,"
          "CHEST (PA AND LAT),postero-anterior,Erect",
          f"174413ec-4ec4,10000032,50414267,{said},LATERAL,3056,2544,21800506,213014.531,"
          "CHEST (PA AND LAT),lateral,Erect",
          "2a2277a9-b0de,10000764,57375967,,,3056,2544,21800626,165500.312,,,")  # fmt: skip
    table(raw, "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split",
          "02aa804e-bde0,50414267,10000032,train")  # fmt: skip
    table(raw, "mimic-cxr-2.0.0-chexpert.csv.gz", "subject_id,study_id," + ",".join(CHEXPERT),
          "10000032,50414267,,,,1.0,,-1.0,,0.0,,,,,,")  # fmt: skip
    top = "files/p10"
    paths = [f"{top}/p10000032/s50414267/02aa804e-bde0.jpg",
             f"{top}/p10000032/s50414267/174413ec-4ec4.jpg",
             f"{top}/p10000764/s57375967/2a2277a9-b0de.jpg"]  # fmt: skip
    put(raw, "chest", *paths)
    study = findings(CHEXPERT, "Lung Opacity", M) | {"Edema": U, "Pneumonia": N}
    return [
        Entry(paths[0], "10000032", {**study, "view": "PA"}),
        Entry(paths[1], "10000032", {**study, "view": "lateral"}),
        Entry(paths[2], "10000764", {}),
    ]


def rsna_pneumonia(raw: Path) -> list[Entry]:
    one, two = "00436515-870c-4b36-a041-de91049b9ab4", "0004cfab-14fd-4e49-80ba-63a80b6bddd6"
    table(raw, "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", f"{two},,,,,0",
          f"{one},264.0,152.0,213.0,379.0,1", f"{one},562.0,152.0,256.0,453.0,1")  # fmt: skip
    table(raw, "stage_2_detailed_class_info.csv", "patientId,class",
          f"{two},No Lung Opacity / Not Normal", f"{one},Lung Opacity", f"{one},Lung Opacity",
          )  # fmt: skip
    paths = [f"stage_2_train_images/{name}.dcm" for name in (two, one)]
    put(raw, "chest", *paths, "stage_2_test_images/0000a175-0e68-4ca4-b1af-167204a7e0bc.dcm")
    return [
        Entry(paths[0], "", {"opacity": N, "class": "No Lung Opacity / Not Normal"}),
        Entry(paths[1], "", {"opacity": P, "class": "Lung Opacity"}),
    ]


VINDR = ["Aortic enlargement", "Nodule/Mass", "Other diseases", "No finding"]


def vindr_cxr(raw: Path) -> list[Entry]:
    one, two, three = "000434271f63a053c4128a0ba6352c7f", "00053190460d56c53cc3e57321387478", "aa11"
    table(raw, "annotations/image_labels_train.csv", "image_id,rad_id," + ",".join(VINDR),
          f"{one},R2,0,0,0,1", f"{one},R3,1,0,0,0", f"{one},R6,0,0,0,1",
          f"{two},R1,1,1,0,0", f"{two},R9,1,0,0,0", f"{two},R4,1,1,0,0")  # fmt: skip
    table(raw, "annotations/image_labels_test.csv", "image_id," + ",".join(VINDR), "aa11,0,0,1,0")
    table(raw, "annotations/annotations_train.csv",
          "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
          f"{one},R3,Aortic enlargement,1,2,3,4")  # fmt: skip
    paths = [f"test/{three}.dicom", f"train/{one}.dicom", f"train/{two}.dicom"]
    put(raw, "chest", *paths)
    return [
        Entry(paths[0], "", findings(VINDR, "Other diseases")),
        Entry(paths[1], "", findings(VINDR, "No finding")),
        Entry(paths[2], "", findings(VINDR, "Aortic enlargement|Nodule/Mass")),
    ]


# Histology --------------------------------------------------------------------------------------


def nct_crc_he(raw: Path) -> list[Entry]:
    tissues = ["ADI", "BACK", "DEB", "LYM", "TUM"]
    paths = [f"NCT-CRC-HE-100K/{name}/{name}-AAAFLCLY.tif" for name in tissues]
    put(raw, "tissue", *paths)
    return [Entry(path, "", {"tissue": name}) for path, name in zip(paths, tissues, strict=True)]


def crc_msi(raw: Path) -> list[Entry]:
    names = {
        "CRC_DX_TEST/MSS/blk-AAWLCMRSFTTY-TCGA-A6-2686-01Z-00-DX1.png": "TCGA-A6-2686",
        "CRC_DX_TRAIN/MSIMUT/blk-THPNGVSFMQPH-TCGA-CM-6171-01Z-00-DX1.png": "TCGA-CM-6171",
        "CRC_DX_TRAIN/MSIMUT/blk-THPNGVSFMQPI-TCGA-CM-6171-01Z-00-DX1.png": "TCGA-CM-6171",
        "CRC_DX_TRAIN/MSS/blk-AAAA.png": "",
    }
    put(raw, "tissue", *names)
    return [Entry(path, who, {"msi": path.split("/")[1]}) for path, who in names.items()]


def patch_camelyon(raw: Path) -> list[Entry]:
    import h5py

    stem = "camelyonpatch_level_2_split_"
    for part, tumour in (("train", [0, 1, 1]), ("valid", [1, 0])):
        images = np.stack([pixels("tissue", 96)] * len(tumour))
        with h5py.File(raw / f"{stem}{part}_x.h5", "w") as file:
            file["x"] = images
        with h5py.File(raw / f"{stem}{part}_y.h5", "w") as file:
            file["y"] = np.array(tumour, np.uint8).reshape(-1, 1, 1, 1)
    table(raw, f"{stem}train_meta.csv", ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi",
          "0,3872,14880,False,False,camelyon16_train_normal_033",
          "1,5952,40960,True,True,camelyon16_train_tumor_002",
          "2,5952,40991,True,True,camelyon16_train_tumor_002")  # fmt: skip
    slides = ["camelyon16_train_normal_033", *["camelyon16_train_tumor_002"] * 2]
    train = [
        Entry(f"{stem}train_x.h5", slide, {"tumour": word}, number)
        for number, (slide, word) in enumerate(zip(slides, (N, P, P), strict=True))
    ]
    valid = [
        Entry(f"{stem}valid_x.h5", "", {"tumour": word}, number)
        for number, word in enumerate((P, N))
    ]
    return train + valid


def medmnist(raw: Path) -> list[Entry]:
    labels = {"train": [0, 4], "val": [2], "test": [1, 3]}
    arrays = {f"{part}_labels": np.array(v, np.uint8)[:, None] for part, v in labels.items()}
    for part, some in labels.items():
        arrays[f"{part}_images"] = np.stack([pixels("fundus", 28)] * len(some))
    np.savez_compressed(raw / "retinamnist.npz", **arrays)
    order = [*labels["train"], *labels["val"], *labels["test"]]
    return [
        Entry("retinamnist.npz", "", {"retinopathy": str(label)}, number)
        for number, label in enumerate(order)
    ]


WRITERS = {
    writer.__name__: writer
    for writer in (
        airogs, airogs_light, eyepacs, odir, idrid, drive, chase_db1, hrf,
        nih_chestxray14, chexpert, mimic_cxr_jpg, rsna_pneumonia, vindr_cxr,
        nct_crc_he, crc_msi, patch_camelyon, medmnist,
    )
}  # fmt: skip
