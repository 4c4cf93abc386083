"""URLs of buckets: one spelling, a local place for what may not lie in a bucket, one line where obstore lacks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from etl.buckets.connecting import client_options, is_anonymous, reading_options
from etl.buckets.urls import is_bucket_url, join_url, local_stand_in, parse_url
from etl.errors import UsageError
from etl.store.keys import resolve_store


@pytest.mark.parametrize("url", ["s3://b/x/y.zarr", "s3://b/x/y.zarr/", "s3://b//x///y.zarr//"])
def test_a_url_has_one_spelling(url):
    assert join_url(parse_url(url)) == resolve_store(url) == "s3://b/x/y.zarr"


@pytest.mark.parametrize(
    "path", ["/data/s3:/x", "s3:/b/x", "S3://b/x", "https://b/x", "x", "file:///x", "./gs://b"]
)
def test_what_is_no_url_of_a_bucket(path):
    assert not is_bucket_url(path)


@pytest.mark.parametrize("url", ["s3://b", "gs://b/", "az://b//"])
def test_a_whole_bucket_is_no_store(url):
    with pytest.raises(UsageError, match="needs a name in it"):
        resolve_store(url)


@pytest.mark.parametrize("url", ["s3://", "s3:///x"])
def test_a_url_without_a_bucket_is_refused(url):
    with pytest.raises(UsageError, match="names no bucket"):
        resolve_store(url)


def test_run_directories_of_a_bucket_lie_in_the_state_folder_and_those_of_folders_beside_them(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert local_stand_in("s3://b/x/y.zarr") == tmp_path / "ct-etl/s3/b/x/y.zarr"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_stand_in("gs://b/y") == tmp_path / ".local/state/ct-etl/gs/b/y"
    assert local_stand_in("/data/y.zarr").as_posix() == "/data/y.zarr"


def test_without_credentials_requests_go_unsigned(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    assert is_anonymous("s3")
    assert reading_options("s3://b/x") == {"anon": True}
    assert reading_options("/data/x") == {}
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "false")
    assert not is_anonymous("s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert reading_options("s3://b/x") == {}


def test_only_an_endpoint_that_says_so_is_reached_without_tls(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    assert "allow_http" not in client_options()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert client_options()["allow_http"] is True


def test_a_missing_library_is_one_line_and_exit_2(in_process, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    done = in_process("run", tmp_path, "s3://not-there/x.zarr")
    assert done.status == 2, done.why
    [line] = done.stderr.splitlines()
    assert "pip install 'ct-etl[bucket]'" in line


def test_nothing_of_it_is_loaded_for_local_paths(tmp_path):
    code = (
        "import sys, etl.run.run, etl.run.rerun, etl.store.verify, etl.store.lock; "
        "print(*(name for name in sys.modules if name.startswith(('obstore', 'etl.buckets.bucket'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
