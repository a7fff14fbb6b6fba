#!/usr/bin/env python3
"""The parts of the binary as a CycloneDX 1.5 document on standard output.

Only what is linked in: dependencies for tests, for builds and of macros are not. Nothing in it depends on the time or the
machine, so two builds of one commit give one document. It promises what Cargo.lock says, checksums included; it does
not look into the binary.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What cargo resolves for; the same crates on both platforms that are built.
TARGET = "x86_64-unknown-linux-musl"


def linked(metadata):
    """Ids of all packages that are linked into the root package: macros and what they need only write code."""
    macros = {
        package["id"]
        for package in metadata["packages"]
        if any("proc-macro" in target["kind"] for target in package["targets"])
    }
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    reached, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package in reached or package in macros:
            continue
        reached.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return reached


def component(package, checksums):
    name, version = package["name"], package["version"]
    purl = f"pkg:cargo/{name}@{version}"
    found = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if package.get("license"):
        found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if (name, version) in checksums:
        found["hashes"] = [{"alg": "SHA-256", "content": checksums[name, version]}]
    return found


def main():
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={TARGET}"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {
        (package["name"], package["version"]): package["checksum"]
        for package in lock["package"]
        if "checksum" in package
    }
    reached = linked(metadata)
    packages = {package["id"]: package for package in metadata["packages"] if package["id"] in reached}
    # What has no source is in this tree: a part of the program, not of others.
    packages = {name: package for name, package in packages.items() if package["source"] or name == metadata["resolve"]["root"]}
    root = packages.pop(metadata["resolve"]["root"])
    main_component = component(root, checksums) | {"type": "application"}
    parts = sorted((component(p, checksums) for p in packages.values()), key=lambda part: part["bom-ref"])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": main_component},
        "components": parts,
    }
    json.dump(document, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
