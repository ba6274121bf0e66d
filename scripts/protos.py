"""Generate proto/gen from the files in proto/poolmanager, or check that it is up to date.

Beside protoc's own modules come type stubs by mypy-protobuf. Its option `only_async` makes the
servicers and stubs those of `grpc.aio`, the only ones used here. There is no `__init__.py`:
nothing in proto/gen is written by hand, and namespace packages serve Python, mypy and the wheel
alike. A namespace package says in its leaf that it has types, hence `v1/py.typed`.

Nothing is fetched: protoc, its plugins and Google's own proto files are in the environment.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = PROTO / "gen"
BIN = Path(sys.executable).parent


def generate(target: Path) -> None:
    """Write everything that belongs in proto/gen into the existing, empty folder `target`."""
    sources = sorted(PROTO.glob("poolmanager/**/*.proto"))
    if not sources:
        sys.exit(f"protos: no .proto file in {PROTO.relative_to(ROOT)}/poolmanager")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTO}",
            f"--plugin=protoc-gen-mypy={BIN / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={BIN / 'protoc-gen-mypy_grpc'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet,only_async:{target}",
            *(str(source.relative_to(PROTO)) for source in sources),
        ],
        check=True,
    )
    # The generators write service modules for files without a service, too.
    for source in sources:
        if not any(line.startswith("service ") for line in source.read_text().splitlines()):
            stem = target / source.relative_to(PROTO).with_suffix("")
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                stem.with_name(stem.name + suffix).unlink()
    for folder in {source.parent for source in sources}:
        (target / folder.relative_to(PROTO) / "py.typed").touch()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below `folder`, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Generate proto/gen from proto/poolmanager.")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if proto/gen is out of date"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        generate(fresh)
        wanted, present = contents(fresh), contents(GENERATED)
        stale = sorted(name for name in wanted | present if wanted.get(name) != present.get(name))
        if arguments.check:
            if stale:
                sys.exit("protos: run `make protos`; out of date: " + ", ".join(stale))
            print(f"protos: {len(wanted)} generated files are up to date")
            return
        for name in stale:
            path = GENERATED / name
            if name in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fresh / name, path)
            else:
                path.unlink()
        print(f"protos: {len(wanted)} files, {len(stale)} changed")


if __name__ == "__main__":
    main()
