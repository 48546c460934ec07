"""DICOM files for tests: series of one image per file, and files of several frames."""

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, MR, PET = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "4", "128"))
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL = ((1, 0, 0), (0, 1, 0))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
CORONAL = ((1, 0, 0), (0, 0, -1))
SPACING = (0.7, 0.5, 2.5)  # of columns, rows and slices
STUDY = {  # what a segmentation repeats of its series
    "Modality": "CT",
    "FrameOfReferenceUID": "1.2.3.4",
    "StudyID": "1",
    "StudyDate": "20200101",
    "StudyTime": "120000",
    "AccessionNumber": "1",
    "PatientSex": "O",
    "ReferringPhysicianName": "",
}


def stored_voxels(seed=0, size=(6, 8, 10)):
    """What the files store, (slices, rows, columns)."""
    return np.random.default_rng(seed).integers(-900, 900, size).astype(np.int16)


def position(origin, axes, i, spacing=SPACING):
    """Of the first pixel of slice i, in mm."""
    row, column = np.array(axes, float)
    return np.asarray(origin, float) + i * spacing[2] * np.cross(row, column)


def dataset(path, sop_class, *, patient="P1", series=None, number=1, **elements):
    """A DICOM dataset without an image; further elements by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    made.PatientID, made.PatientName, made.PatientBirthDate = patient, "Doe^Jane", "19700101"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", series or generate_uid()
    made.SeriesNumber, made.SeriesDescription, made.InstitutionName = number, "secret series", "Secret Hospital"
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def set_pixels(made, pixels):
    """Grey pixels, (rows, columns) or (frames, rows, columns), or colours with a last axis of 3."""
    colours = 3 if pixels.shape[-1] == 3 else 1
    made.Rows, made.Columns = pixels.shape[-3:-1] if colours == 3 else pixels.shape[-2:]
    made.SamplesPerPixel = colours
    made.PhotometricInterpretation = "RGB" if colours == 3 else "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * pixels.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    if colours == 3:
        made.PlanarConfiguration = 0
    made.PixelData = pixels.tobytes()


def save(made, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder,
    voxels,
    *,
    sop_class=CT,
    axes=AXIAL,
    origin=(-20.0, 30.5, 100.0),
    spacing=SPACING,
    slope=None,
    series=None,
    name="IM{:04d}.dcm",
    change=lambda made, i: None,
    **elements,
):
    """One file per slice, named in another order; ``change(dataset, slice)`` is called before it is saved.

    Returns the files, by slice.
    """
    series = series or generate_uid()
    files = []
    names = np.random.default_rng(1).permutation(len(voxels))
    for i, pixels in enumerate(voxels):
        path = folder / name.format(names[i])
        made = dataset(path, sop_class, series=series, **elements)
        set_pixels(made, pixels)
        made.ImagePositionPatient = position(origin, axes, i, spacing).tolist()
        made.ImageOrientationPatient = [float(x) for axis in axes for x in axis]
        made.PixelSpacing, made.SliceThickness = [spacing[1], spacing[0]], 1.0  # which is not the distance of slices
        if slope:
            made.RescaleSlope, made.RescaleIntercept = map(str, slope)
        change(made, i)
        files.append(save(made, path))
    return files


def item(**elements):
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return Sequence([made])


def write_frames(path, voxels, positions, *, axes=AXIAL, slopes=None, spacing=SPACING, sop_class=ENHANCED_CT):
    """One file of several frames, each with its place, and with its slope and intercept where they are given."""
    made = dataset(path, sop_class, NumberOfFrames=len(voxels))
    set_pixels(made, voxels)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=1.0)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[float(x) for axis in axes for x in axis])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for i, place in enumerate(positions):
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=[float(x) for x in place])
        if slopes:
            slope, intercept = map(str, slopes[i])
            frame.PixelValueTransformationSequence = item(RescaleSlope=slope, RescaleIntercept=intercept)
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return save(made, path)


def write_segmentation(path, series, masks, names):
    """A DICOM SEG; masks of shape (slices, rows, columns, segments); empty frames are left out, as tools do."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, start=1)
    ]
    made = hd.seg.Segmentation(
        source_images=series,
        pixel_array=masks,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
    )
    made.save_as(path)
    return path


def masks(*of):
    return np.stack(of, axis=-1).astype(np.uint8)


def write_contours(path, structures, *, kind="CLOSED_PLANAR"):
    """An RTSTRUCT: name to curves of points in millimetres, (n, 3); and a structure that nobody has drawn."""
    made = dataset(path, "1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT")
    rois, drawn = [], []
    for number, (name, curves) in enumerate({**structures, "isocentre": []}.items(), start=1):
        rois += item(ROINumber=number, ROIName=name)
        contours = [
            item(
                ContourGeometricType=kind,
                NumberOfContourPoints=len(points),
                ContourData=np.round(points, 4).ravel().tolist(),
            )[0]
            for points in curves
        ]
        drawn += item(ReferencedROINumber=number, **({"ContourSequence": Sequence(contours)} if contours else {}))
    made.StructureSetROISequence, made.ROIContourSequence = Sequence(rois), Sequence(drawn)
    return save(made, path)
