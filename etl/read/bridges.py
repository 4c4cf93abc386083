"""A volume as the image of another library, with its geometry and its labels.

Of all of them the same holds. Values are Hounsfield units, float32, unless ``hu=False`` asks for the normalized
ones. Without `labels` the image itself is given; with some a dictionary, the image under ``"image"`` and each
label under its own name. The libraries are imported where they are asked for; none is required.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError, UsageError
from etl.read.optional_library import optional_library
from etl.read.stored_array import read_values
from etl.read.volume_labels import VolumeLabels

IMAGE = "image"
MAX_SHEAR = 1e-4
"""Cosine of the angle between two axes above which they are not at right angles; files round at about 1e-6."""


class BridgedVolume(VolumeLabels):
    """One series as images of other libraries; see `VolumeMetadata` for the parameters."""

    def to_sitk(self, *, hu: bool = True, labels: Sequence[str] = ()) -> Any:
        """Give a `SimpleITK.Image`, in patient space as SimpleITK has it: LPS, mm.

        Parameters
        ----------
        hu : bool
            Hounsfield units, or normalized values.
        labels : sequence of str
            Labels that are wanted too.

        Returns
        -------
        SimpleITK.Image, or dict of them

        Raises
        ------
        UsageError
            SimpleITK is not installed, there is no such label, or the axes are not at right angles: a tilted
            series that was stored with ``--native``. ITK keeps such axes, but most of its filters and file
            formats take them for right angles.
        StoreError
            An array cannot be read.
        """
        sitk = optional_library("SimpleITK", wanted_for="Volume.to_sitk", install="SimpleITK>=2.3")
        origin, spacing, direction = self.rectangular("Volume.to_sitk")

        def make(values: NDArray[Any], _is_label: bool) -> Any:
            image = sitk.GetImageFromArray(values)
            image.SetOrigin(origin.tolist())
            image.SetSpacing(spacing.tolist())
            image.SetDirection(direction.ravel().tolist())
            return image

        return self._images(make, hu, labels)

    def to_itk(self, *, hu: bool = True, labels: Sequence[str] = ()) -> Any:
        """Give an `itk.Image`; see `to_sitk`."""
        itk = optional_library("itk", wanted_for="Volume.to_itk", install="itk>=5.3")
        origin, spacing, direction = self.rectangular("Volume.to_itk")

        def make(values: NDArray[Any], _is_label: bool) -> Any:
            image = itk.image_from_array(values)
            image.SetOrigin(origin.tolist())
            image.SetSpacing(spacing.tolist())
            image.SetDirection(itk.matrix_from_array(direction))
            return image

        return self._images(make, hu, labels)

    def to_nibabel(self, *, hu: bool = True, labels: Sequence[str] = ()) -> Any:
        """Give a `nibabel.Nifti1Image`: axes (x, y, z), affine to RAS mm, sform and qform of the scanner.

        The axes of a tilted series that was stored with ``--native`` are not at right angles: the sform has them
        exactly, and there is no qform, which could not.

        Parameters
        ----------
        hu, labels
            See `to_sitk`.

        Raises
        ------
        UsageError
            nibabel is not installed, or there is no such label.
        StoreError
            An array cannot be read.
        """
        return self._images(lambda values, _: self.nifti_of(values), hu, labels)

    def nifti_of(self, values: NDArray[Any]) -> Any:
        """Give values on the volume's grid, (z, y, x), as a `nibabel.Nifti1Image`; see `to_nibabel`."""
        nib = optional_library("nibabel", wanted_for="Volume.to_nibabel", install="ct-etl[labels]")
        image = nib.Nifti1Image(values.T, self.affine_ras_xyz)
        image.set_sform(self.affine_ras_xyz, code="scanner")
        image.set_qform(self.affine_ras_xyz if self.is_rectangular else None, code=int(self.is_rectangular))
        image.header.set_xyzt_units("mm")
        return image

    def to_monai(self, *, hu: bool = True, labels: Sequence[str] = ()) -> Any:
        """Give a `monai.data.MetaTensor` as `monai.transforms.LoadImage` does: (1, x, y, z), affine to RAS mm.

        Parameters
        ----------
        hu, labels
            See `to_sitk`. The dictionary is what MONAI's dictionary transforms take.

        Raises
        ------
        UsageError
            MONAI is not installed, or there is no such label.
        StoreError
            An array cannot be read.
        """
        data = optional_library("monai.data", wanted_for="Volume.to_monai", install="monai>=1.3")
        torch = optional_library("torch", wanted_for="Volume.to_monai", install="ct-etl[torch]")

        def make(values: NDArray[Any], _is_label: bool) -> Any:
            tensor = torch.from_numpy(_for_torch(values).T.copy()[None])
            return data.MetaTensor(tensor, affine=torch.from_numpy(self.affine_ras_xyz))

        return self._images(make, hu, labels)

    def to_torchio(self, *, hu: bool = True, labels: Sequence[str] = ()) -> Any:
        """Give a `torchio.Subject`: a `ScalarImage` ``image`` and a `LabelMap` a label, (1, x, y, z), RAS mm.

        Parameters
        ----------
        hu, labels
            See `to_sitk`.

        Raises
        ------
        UsageError
            TorchIO is not installed, there is no such label, or the axes are not at right angles, which TorchIO
            hands on to SimpleITK (see `to_sitk`).
        StoreError
            An array cannot be read.
        """
        torchio = optional_library("torchio", wanted_for="Volume.to_torchio", install="torchio>=0.20")
        torch = optional_library("torch", wanted_for="Volume.to_torchio", install="ct-etl[torch]")
        self.rectangular("Volume.to_torchio")

        def make(values: NDArray[Any], is_label: bool) -> Any:
            kind = torchio.LabelMap if is_label else torchio.ScalarImage
            tensor = torch.from_numpy(_for_torch(values).T.copy()[None])
            return kind(tensor=tensor, affine=self.affine_ras_xyz)

        found = self._images(make, hu, labels)
        images = found if isinstance(found, dict) else {IMAGE: found}
        return torchio.Subject(**images)

    def to_xarray(self, *, hu: bool = True, labels: Sequence[str] = ()) -> Any:
        """Give an `xarray.DataArray` (z, y, x), or with labels an `xarray.Dataset` of several.

        ``z``, ``y`` and ``x`` are coordinates in mm (LPS) where the grid is axis-aligned; ``affine_lps`` and
        ``affine_ras`` are always among the attributes, from (k, j, i, 1) to mm, as 16 numbers row by row.

        Parameters
        ----------
        hu, labels
            See `to_sitk`.

        Raises
        ------
        UsageError
            xarray is not installed, or there is no such label.
        StoreError
            An array cannot be read.
        """
        xarray = optional_library("xarray", wanted_for="Volume.to_xarray", install="xarray>=2024.10")
        geometry = self.geometry
        names = ("z", "y", "x")
        towards = {"z": "towards the head", "y": "towards the back", "x": "towards the left"}
        coordinates = (
            {
                name: (name, values, {"units": "mm", "long_name": towards[name]})
                for name, values in zip(names, geometry.coordinates_mm(), strict=True)
            }
            if geometry.is_axis_aligned
            else {}
        )
        about = {
            "patient_id": self.patient_id,
            "series_key": self.key,
            "affine_lps": geometry.affine_lps.ravel().tolist(),
            "affine_ras": geometry.affine_ras.ravel().tolist(),
        }
        units = {"units": "HU" if hu else "1", "long_name": "attenuation" if hu else "normalized attenuation"}

        def make(values: NDArray[Any], is_label: bool) -> Any:
            attributes = about if is_label else {**about, **units}
            return xarray.DataArray(values, coords=coordinates, dims=names, attrs=attributes, name=IMAGE)

        found = self._images(make, hu, labels)
        return xarray.Dataset(found, attrs=about) if isinstance(found, dict) else found

    @property
    def affine_ras_xyz(self) -> NDArray[np.float64]:
        """(4, 4), from (i, j, k, 1) to RAS mm: for arrays whose axes are (x, y, z)."""
        return np.ascontiguousarray(self.geometry.affine_ras[:, [2, 1, 0, 3]])

    @property
    def is_rectangular(self) -> bool:
        """Whether the axes of the grid are at right angles."""
        columns = self.geometry.affine_lps[:3, :3] / np.linalg.norm(self.geometry.affine_lps[:3, :3], axis=0)
        return bool(np.abs(columns.T @ columns - np.eye(3)).max() <= MAX_SHEAR)

    def rectangular(self, wanted_for: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Give a grid as ITK describes it.

        Parameters
        ----------
        wanted_for : str
            What needs it, for the message.

        Returns
        -------
        (3,) float64 array
            Origin (x, y, z), LPS mm.
        (3,) float64 array
            Spacing along (x, y, z), mm.
        (3, 3) float64 array
            Direction: column a is the unit vector of array axis a of (x, y, z).

        Raises
        ------
        UsageError
            The axes are not at right angles.
        """
        if not self.is_rectangular:
            raise UsageError(
                f"{self.node}: gantry tilt {self.geometry.gantry_tilt_deg:.2f} degrees, stored with --native, "
                f"so that its axes are not at right angles, which {wanted_for} needs; use to_nibabel or to_monai, "
                "or a store without --native, where tilt is resampled"
            )
        steps = self.geometry.affine_lps[:3, [2, 1, 0]]
        spacing = np.linalg.norm(steps, axis=0)
        return self.geometry.affine_lps[:3, 3].copy(), spacing, steps / spacing

    def label_values(self, name: str) -> NDArray[Any]:
        """Read a whole label.

        Returns
        -------
        (z, y, x) uint8 or uint16 array

        Raises
        ------
        UsageError
            There is no such label.
        StoreError
            It is not on the volume's grid, or cannot be read.
        """
        if name not in self.labels:
            raise UsageError(f"{self.node} has no label {name!r}; it has {', '.join(self.labels) or 'none'}")
        array = self.label(name)
        if array.shape != self.shape or array.dtype not in (np.uint8, np.uint16):
            raise StoreError(
                f"label {name!r} is {array.dtype} {array.shape}; uint8 or uint16 {self.shape} is needed"
            )
        with self.reading(f"labels/{name}"):
            return read_values(array, [range(n) for n in array.shape])

    def _images(self, make: Callable[[NDArray[Any], bool], Any], hu: bool, labels: Sequence[str]) -> Any:
        """Give the image, or a dictionary of it and the labels."""
        if isinstance(labels, str):
            raise UsageError(f"labels {labels!r}: allowed is a sequence of names, as ({labels!r},)")
        if IMAGE in labels:
            raise UsageError(f"label {IMAGE!r}: the volume itself has this name in the result")
        masks = {name: self.label_values(name) for name in labels}
        image = make(self.hu_from(self._whole()) if hu else self._whole(), False)
        if not labels:
            return image
        return {IMAGE: image, **{name: make(mask, True) for name, mask in masks.items()}}

    def _whole(self) -> NDArray[np.float32]:
        values = np.empty(self.shape, np.float32)
        self.read_into([range(n) for n in self.shape], values)
        return values


def _for_torch(values: NDArray[Any]) -> NDArray[Any]:
    """PyTorch has uint16, but hardly an operation on it."""
    return values.astype(np.int32) if values.dtype == np.uint16 else values
