"""Input in a bucket gives the volumes of the same files in a folder."""

from __future__ import annotations

import io
import threading
import zipfile
from collections import Counter

import pytest
from kills import contents as local_contents
from seaweed import contents, upload
from tiny_ct import QUICK, ROOT, day, lines, slice_bytes, write_series

from etl.dicom.sources import find_sources

pytestmark = pytest.mark.systems


@pytest.fixture
def dicom(tmp_path):
    folder = tmp_path / "dicom"
    write_series(folder / "p/a b#c %20 ü", ks=range(8))
    write_series(folder / "q", "Q", series=f"{ROOT}.2", ks=range(9), hu=40)
    write_series(folder, "R", series=f"{ROOT}.3", ks=range(7), hu=50)
    (folder / "q/notes.txt").write_text("no DICOM")
    with zipfile.ZipFile(folder / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(30):
            content = slice_bytes(patient="S", series=f"{ROOT}.4", sop=f"{ROOT}.4.{k}", k=k, hu=70 + k)
            archive.writestr(f"x/{k}.dcm", content)
    with zipfile.ZipFile(folder / "q/inner.zip", "w") as archive:
        for k in range(6):
            content = slice_bytes(patient="T", series=f"{ROOT}.5", sop=f"{ROOT}.5.{k}", k=k, hu=7 + k)
            archive.writestr(f"{k}.dcm", content)
    return folder


def place(url):
    from etl.buckets.bucket import Bucket

    return Bucket(url)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_prefix_gives_the_store_of_a_folder(in_process, dicom, bucket, tmp_path, workers):
    upload(dicom, f"{bucket}/in")
    assert lines(day(in_process, dicom, tmp_path / "local.zarr")) == [("written", None)] * 5
    done = day(in_process, f"{bucket}/in", tmp_path / "s.zarr", "--workers", workers)
    assert lines(done) == [("written", None)] * 5, done.why
    assert done.json["files"] == 61
    assert done.json["ignored_paths"] == [f"{bucket}/in/q/notes.txt"]
    assert local_contents(tmp_path / "s.zarr") == local_contents(tmp_path / "local.zarr")
    # Both ends in buckets.
    assert lines(day(in_process, f"{bucket}/in/", f"{bucket}/out/s.zarr")) == [("written", None)] * 5
    assert contents(f"{bucket}/out/s.zarr") == local_contents(tmp_path / "local.zarr")
    assert in_process("verify", f"{bucket}/out/s.zarr", "--input", f"{bucket}/in").status == 0


def test_a_second_run_reads_no_object_and_a_replaced_one_is_noticed(
    in_process, dicom, bucket, tmp_path, monkeypatch
):
    from etl.buckets.bucket import Bucket

    upload(dicom, f"{bucket}/in")
    day(in_process, f"{bucket}/in", tmp_path / "s.zarr")
    asked = Counter()
    for name in ("get", "get_small", "get_range", "head", "walk"):
        original = getattr(Bucket, name)

        def counted(self, *given, original=original, name=name):
            asked[name] += 1
            return original(self, *given)

        monkeypatch.setattr(Bucket, name, counted)
    assert lines(day(in_process, f"{bucket}/in", tmp_path / "s.zarr")) == [("unchanged", None)] * 5
    # Two zips are known by their first bytes, and each answers for its members.
    assert asked["get"] == asked["get_small"] == 0
    assert asked["get_range"] <= 8
    # Within the same second, of the same size.
    path = dicom / "q" / "003.dcm"
    place(f"{bucket}/in/q").put("003.dcm", path.read_bytes()[:-2] + b"\x07\x04")
    assert ("written", None) in lines(day(in_process, f"{bucket}/in", tmp_path / "s.zarr"))


def test_objects_zips_and_what_is_not_there(in_process, dicom, bucket, tmp_path):
    upload(dicom, f"{bucket}/in")
    assert lines(day(in_process, f"{bucket}/in/s.zip", tmp_path / "z.zarr")) == [("written", None)]
    [one] = find_sources([f"{bucket}/in/q/003.dcm"])
    assert (one.container, one.members) == (f"{bucket}/in/q/", ("003.dcm",))
    done = day(in_process, f"{bucket}/nothing", tmp_path / "n.zarr")
    assert done.status == 2
    assert "does not exist" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["s5cmd", "csv"])
def test_a_manifest_makes_each_line_a_source(in_process, dicom, bucket, tmp_path, kind):
    upload(dicom, f"{bucket}/in")
    day(in_process, [dicom / "p", dicom / "q"], tmp_path / "local.zarr")
    manifest = tmp_path / f"cohort.{kind}"
    urls = [f"{bucket}/in/p/*", f"{bucket}/in/q/*"]
    if kind == "s5cmd":
        manifest.write_text("# To download: s5cmd run cohort.s5cmd\n" + "".join(f"cp {url} .\n" for url in urls))
    else:
        manifest.write_text("series,url\n" + "".join(f'{n},"{url}"\n' for n, url in enumerate(urls)))
    assert [source.container for source in find_sources([str(manifest)])] == [
        f"{bucket}/in/p/",
        f"{bucket}/in/q/",
    ]
    assert lines(day(in_process, manifest, tmp_path / "s.zarr")) == [("written", None)] * 3
    assert local_contents(tmp_path / "s.zarr") == local_contents(tmp_path / "local.zarr")


def test_a_line_of_a_manifest_that_names_nothing_is_told(in_process, dicom, bucket, tmp_path):
    upload(dicom / "p", f"{bucket}/in/p")
    manifest = tmp_path / "cohort.s5cmd"
    manifest.write_text("".join(f"cp {bucket}/in/{name}/* .\n" for name in ("p", "gone")))
    done = day(in_process, manifest, tmp_path / "s.zarr")
    assert sorted(lines(done), key=str) == [("failed", "unreadable"), ("written", None)]
    assert done.status == 3


def test_a_public_bucket_needs_no_credentials(in_process, dicom, seaweed, bucket, tmp_path, monkeypatch, ct_etl):
    name = tmp_path.name
    upload(dicom / "q", f"s3://public/{name}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # In a process of its own: a connection keeps the credentials that it was made with.
    done = ct_etl("run", f"s3://public/{name}", tmp_path / "s.zarr", *QUICK, "--json")
    assert sorted(line["outcome"] for line in done.json["series"]) == ["written"] * 2, done.why
    done = ct_etl("run", dicom / "q", f"s3://public/{name}-out.zarr", "--native", "--workers", "0", "-q")
    assert done.status in (1, 2)


def test_an_object_is_a_file_to_whoever_reads_it(bucket):
    import random

    from etl.dicom.ranged_stream import ranged_stream

    content = random.Random(1).randbytes(200_000)
    place(bucket).put("x", content)
    chosen = random.Random(2)
    for piece in (1, 1000, 300_000):
        stream = ranged_stream(
            place(bucket), place(bucket).head("x"), start=content[:16384], piece_bytes=max(piece, 1000)
        )
        known = io.BytesIO(content)
        for _ in range(40):
            offset, whence = chosen.choice([(chosen.randrange(210_000), 0), (-chosen.randrange(1000), 2)])
            assert stream.seek(offset, whence) == known.seek(offset, whence)
            length = chosen.choice([0, 1, 100, 20_000])
            assert stream.read(length) == known.read(length)


def test_an_object_that_was_replaced_is_not_read_on(bucket):
    from etl.dicom.ranged_stream import ranged_stream

    place(bucket).put("x", b"a" * 100_000)
    stream = ranged_stream(place(bucket), place(bucket).head("x"), piece_bytes=1000)
    assert stream.read(10) == b"a" * 10
    place(bucket).put("x", b"b" * 100_000)
    with pytest.raises(OSError, match="x"):
        stream.seek(50_000) and stream.read(10)


def test_each_object_is_fetched_once_for_its_pixels_and_some_ahead(
    in_process, dicom, bucket, monkeypatch, tmp_path
):
    from etl.buckets.bucket import Bucket

    upload(dicom / "q", f"{bucket}/in")
    fetched, at_once = Counter(), []
    get_small = Bucket.get_small

    def counted(self, name, limit_bytes):
        fetched[name] += 1
        at_once.append(threading.current_thread().name)
        return get_small(self, name, limit_bytes)

    monkeypatch.setattr(Bucket, "get_small", counted)
    assert ("written", None) in lines(day(in_process, f"{bucket}/in", tmp_path / "s.zarr"))
    assert {name: n for name, n in fetched.items() if name.endswith(".dcm")} == {
        f"{k:03d}.dcm": 1 for k in range(9)
    }
    assert len(set(at_once)) > 1


def test_headers_of_large_objects_are_read_by_one_range_each_and_ahead(in_process, bucket, monkeypatch, tmp_path):
    """16 kB of 131 kB each; what ends within 64 kB is read whole, also by one request."""
    from etl.buckets.bucket import Bucket

    write_series(tmp_path / "large/p", ks=range(12), rows=256)
    write_series(tmp_path / "small/p", ks=range(12))
    for size, expected in (("large", 1 << 14), ("small", (tmp_path / "small/p/000.dcm").stat().st_size)):
        upload(tmp_path / size, f"{bucket}/{size}")
        asked, threads = Counter(), set()

        def ranged(self, found, start, length, original=Bucket.get_range, asked=asked, threads=threads):
            asked[found.name, start, length] += 1
            threads.add(threading.current_thread().name)
            return original(self, found, start, length)

        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "get_range", ranged)
            for name in ("get", "get_small"):
                patch.delattr(Bucket, name)
            done = in_process("scan", f"{bucket}/{size}")
        assert done.status == 0, done.why
        assert asked == {(f"{k:03d}.dcm", 0, expected): 1 for k in range(12)}
        assert len(threads) > 1
