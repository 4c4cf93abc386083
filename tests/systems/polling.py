"""Read a store in a bucket again and again until a file appears: fail where a volume is not whole.

A volume is whole where its values have the digest that its metadata state, and each of its source slices its UID.
One whose metadata changed while it was read is read again next time; that is the moment at which it was replaced.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import etl
from etl.digests import volume_digest
from etl.errors import StoreError

TRIES = 5
"""A server that is away for a moment is no broken volume; what is broken stays so."""


def digest_of(volume):
    """Give the digest of a volume's values; what is wrong, where they or its source slices cannot be read."""
    for attempt in range(TRIES):
        try:
            if not all(found.sop_instance_uid for found in volume.source_slices):
                return "a source slice without a UID"
            return volume_digest(volume[:])
        except Exception as error:  # noqa: BLE001 - judged by who asks
            found = f"{type(error).__name__}: {error}"
        time.sleep(attempt)
    return found


def provenance_of(store, volume):
    """Give what the store says now of a volume; None where it does not have it, or does not answer."""
    try:
        return etl.open_store(store)[volume.patient_id][volume.key].attributes["provenance"]
    except (StoreError, KeyError):
        return None


def look(store):
    """Read every volume; give how many are whole, and what is wrong with the others."""
    try:
        volumes = [volume for patient in etl.open_store(store).values() for volume in patient.values()]
    except StoreError:
        # Before the first root is there, and while the server is away.
        return 0, []
    whole, problems = 0, []
    for volume in volumes:
        stated = volume.attributes["provenance"]
        found = digest_of(volume)
        if found == stated["volume_digest"]:
            whole += 1
        elif provenance_of(store, volume) == stated and digest_of(volume) != stated["volume_digest"]:
            # Asked again once the server answers: it may have been away for longer than the tries.
            problems.append(f"{volume.node} {found} {stated['volume_digest']}")
    return whole, problems


def poll(store, over):
    """Look until the file is there, and once more; say how many whole volumes were met, and at the last look."""
    total, problems, is_last = 0, [], False
    while not is_last:
        time.sleep(0.1)
        is_last = over.exists()
        whole, wrong = look(store)
        total += whole
        problems += wrong
    print(total, whole)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(poll(sys.argv[1], Path(sys.argv[2])))
