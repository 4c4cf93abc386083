"""What a series takes is told before, from above, and holds: measured in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from etl.dicom.inflate import inflated
from etl.errors import SeriesError
from etl.plan.checks import check_worker
from etl.workers.pool import open_pool

# Plans and processes a stack of one frame that all slices show, and says what it took.
CHILD = """
import json, re, sys
from pathlib import Path
import numpy as np
from etl.config import build_config, load_preset
from etl.plan.plan import make_plan
from etl.process.series import process
from etl.scan.scan import ScanResult
from etl.stack import Location, PixelFormat, Slices, Stack, StackKey

n, rows, columns, options, syntax, folder = json.loads(sys.argv[1])
folder, nan = Path(folder), float("nan")
frame = np.random.default_rng(0).integers(-1000, 2000, (rows, columns), "i2")
content = frame.astype("<i2").tobytes()
(folder / "frame").write_bytes(content)
state = (folder / "frame").stat()
fmt = PixelFormat(syntax, rows, columns, 1, 16, 16, 15, 1, "MONOCHROME2", 1)
slices = Slices(
    locations=(Location(str(folder), "frame"),) * n, frame=np.zeros(n, np.int32), format=np.zeros(n, np.int16),
    pixel_offset=np.zeros(n, np.int64), pixel_length=np.full(n, len(content)),
    file_bytes=np.full(n, len(content)), modified_ns=np.full(n, state.st_mtime_ns),
    changed_ns=np.full(n, state.st_ctime_ns), inode=np.full(n, state.st_ino), crc32=np.full(n, -1),
    sop_instance_uid=np.array([f"1.2.{k}".encode() for k in range(n)], "S64"),
    instance_number=np.arange(n, dtype=np.int32), position_lps_mm=np.array([[0.0, 0.0, k] for k in range(n)]),
    slope=np.ones(n), intercept=np.zeros(n), padding=np.full((n, 2), [options.pop("padding", nan), nan]),
    thickness_mm=np.ones(n), plane=np.zeros(n, np.int32), header=np.zeros(n, np.int32),
    marks=np.empty((n, 0), np.int32),
)
key = StackKey("P", "1", "1.2", 1, "1.2.840.10008.5.1.4.1.1.2", "CT", rows, columns, 1, (1.0, 0, 0, 0, 1.0, 0),
               (0.5, 0.5), "HU", False, True, False)
config = build_config(load_preset(options.pop("preset", "head-ct")), {"min_slices": 2, **options})
plan = make_plan(ScanResult(stacks=(Stack(key, slices, (fmt,)),)), config)
def peak_kb():
    # Not ru_maxrss, which a child takes over from the process that starts it.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak_kb()
[task] = plan.tasks
(folder / "lock").touch()
(folder / "s.zarr").mkdir()
receipt = process(task, config, str(folder / "s.zarr"), str(folder / "lock"))
print(json.dumps({
    "outcome": receipt.entry.outcome, "detail": receipt.entry.detail, "estimate": task.memory_bytes,
    "before": before << 10, "peak": peak_kb() << 10,
}))
"""
NATIVE = "1.2.840.10008.1.2.1"
MB = 1 << 20


def measured(n: int, rows: int, columns: int, folder: Path, **options: Any) -> dict[str, Any]:
    """Process such a stack in a child."""
    folder.mkdir(exist_ok=True)
    given = json.dumps([n, rows, columns, options, NATIVE, str(folder)])
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, given], capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, **one_thread},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["outcome"] == "written", found
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "options", "most_mb"),
    [
        pytest.param((9, 16000, 1), {}, 150, id="a spline over 16,000 rows"),
        pytest.param((9, 16000, 1), {"spacing_mm": [1, 0.5, 0.5]}, 150, id="the same, at its own spacing"),
        pytest.param((9, 16000, 2), {"preset": "article"}, 150, id="the same, by scipy's zoom"),
        pytest.param((20000, 8, 8), {}, 200, id="20,000 slices"),
        pytest.param((20000, 8, 8), {"preset": "article"}, 200, id="20,000 slices as they are"),
        pytest.param((3000, 8, 8), {"zoom": [0.5, 1, 1]}, 200, id="zoomed along"),
        pytest.param((10, 64, 64), {"chunk": [800, 800, 800]}, 150, id="chunks beyond the volume"),
        pytest.param((200, 256, 256), {"native": True, "precision_bits": "full"}, 350, id="full precision"),
        pytest.param((12, 1500, 1500), {"native": True}, 500, id="large slices"),
        pytest.param((12, 1500, 1500), {"padding": -2000}, 500, id="large slices with padding"),
        pytest.param((150, 64, 64), {"spacing_mm": [0.2, 0.2, 0.2]}, 600, id="more voxels than pixels"),
    ],
)
def test_a_series_takes_no_more_than_was_told(
    shape: tuple[int, int, int], options: dict[str, Any], most_mb: int, tmp_path: Path
) -> None:
    found = measured(*shape, tmp_path / "t", **options)
    assert found["peak"] <= found["estimate"], found
    assert found["peak"] <= most_mb * MB, found


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(3, 400),
    rows=st.integers(2, 400),
    columns=st.integers(2, 400),
    spacing=st.sampled_from([0.3, 0.5, 1.0, 3.0]),
)
def test_small_series_of_any_shape_take_no_more_than_was_told(
    n: int, rows: int, columns: int, spacing: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = measured(n, rows, columns, tmp_path_factory.mktemp("m"), spacing_mm=[1.0, spacing, spacing])
    assert found["peak"] <= found["estimate"], found


def deflated(size: int) -> bytes:
    """A deflated file of so many zeros behind its meta group."""
    uid = b"1.2.840.10008.1.2.1.99"
    meta = b"\x02\0\x10\0UI" + len(uid).to_bytes(2, "little") + uid
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = b"".join(packer.compress(bytes(min(MB, size - at))) for at in range(0, size, MB)) + packer.flush()
    return bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + len(meta).to_bytes(4, "little") + meta + body


@pytest.mark.parametrize(("kept_mb", "most_mb"), [(None, 160), (1, 8)])
def test_a_deflated_file_is_held_once_and_no_more_of_it_than_is_needed(kept_mb: int | None, most_mb: int) -> None:
    import tracemalloc

    packed = BytesIO(deflated(128 * MB))
    tracemalloc.start()
    try:
        whole = inflated(packed, limit_bytes=200 * MB, kept_bytes=None if kept_mb is None else kept_mb * MB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most_mb * MB
    assert whole.seek(0, 2) >= (128 if kept_mb is None else kept_mb) * MB


def test_a_deflated_file_beyond_the_limit_is_given_up_at_it() -> None:
    with pytest.raises(ValueError, match="larger than the allowed"):
        inflated(BytesIO(deflated(64 * MB)), limit_bytes=8 * MB, kept_bytes=MB)


def test_a_task_that_no_worker_has_the_memory_for_is_refused_with_both_numbers() -> None:
    check_worker(100 * MB, 100 * MB)
    check_worker(100 * MB, None)
    with pytest.raises(SeriesError, match="needs 101 MB, the largest worker has 100 MB") as raised:
        check_worker(101 * MB, 100 * MB)
    assert raised.value.code == "too-large"


def test_workers_of_this_machine_are_bounded_by_its_memory_alone() -> None:
    with open_pool(0, None) as pool:
        assert pool.largest_worker_bytes is None


@pytest.mark.slow
def test_the_weights_of_long_and_short_stacks_are_those_of_the_whole_matrix() -> None:
    from etl.volume.slice_weights import SliceWeights, linear_matrix, linear_weights, zoom_weights

    def dense(weights: SliceWeights, planes: int) -> NDArray[np.float64]:
        matrix = np.zeros((planes, len(weights)))
        for k in range(len(weights)):
            into, shares = weights[k]
            assert np.all(shares != 0)
            matrix[into, k] = shares
        return matrix

    rng = np.random.default_rng(3)
    for n, m, sigma in ((2, 1, 0.0), (2, 700, 0.0), (700, 300, 0.9), (900, 1500, 0.0), (40, 600, 5.0)):
        position = np.cumsum(rng.uniform(0.4, 1.7, n))
        target = np.linspace(position[0], position[-1], m)[:: rng.choice([-1, 1])]
        expected = linear_matrix(position, target, sigma_mm=sigma)
        np.testing.assert_array_equal(dense(linear_weights(position, target, sigma_mm=sigma), m), expected)
    for flipped in (False, True):
        np.testing.assert_array_equal(
            dense(zoom_weights(5, 1.0, flipped=flipped), 5), np.eye(5)[:: 1 - 2 * flipped]
        )


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 0.6, 3.0])
def test_a_long_axis_is_resampled_as_if_at_once(sigma: float) -> None:
    from etl.volume.spline import dense_spline, dense_zoom, spline_operator, zoom_operator

    n = 1500
    line = np.random.default_rng(5).uniform(-1000, 2000, (n, 1))
    index = np.linspace(-0.4, n - 0.6, 700)
    found = spline_operator(n, index, sigma=sigma, dtype=np.float64).along_rows(line, np.empty((700, 1)))
    np.testing.assert_allclose(found, dense_spline(n, index, sigma=sigma) @ line, atol=1e-3)
    zoomed = zoom_operator(n, 0.5).along_rows(line, np.empty((750, 1)))
    np.testing.assert_allclose(zoomed, dense_zoom(n, 0.5) @ line, atol=1e-3)
