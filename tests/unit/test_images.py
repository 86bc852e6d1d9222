"""The writer of container images: the archive's structure, its determinism, and that it agrees with the Dockerfile."""

import hashlib
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from images.archive import Recipe, write_image, write_layer
from images.contents import LAYERS, recipes
from images.elf import is_elf, shared_libraries
from images.stage import Stage, merged_usr

ROOT = Path(__file__).resolve().parents[2]


def make_stage(root: Path) -> Stage:
    stage = Stage(root)
    merged_usr(stage)
    stage.text("/etc/motd", "hello\n")
    stage.text("/bin/greet", "#!/bin/sh\necho hello\n", executable=True)
    stage.link("/usr/bin/hello", "greet")
    stage.folder("/tmp", mode=0o1777)
    stage.folder("/home/outrigger", owner=65532)
    return stage


def make_image(folder: Path) -> Path:
    folder.mkdir()
    layer = write_layer("base", make_stage(folder / "base"), folder / "base.tar")
    recipe = Recipe(
        "greeter", "outrigger.local/greeter:1.2", ("base",), {"Entrypoint": ["greet"], "User": "65532:65532"}
    )
    write_image(recipe, [layer], folder / "greeter.tar")
    return folder / "greeter.tar"


def read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def blob(archive: tarfile.TarFile, descriptor: dict[str, Any]) -> bytes:
    algorithm, _, digest = descriptor["digest"].partition(":")
    content = read(archive, f"blobs/{algorithm}/{digest}")
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) == descriptor["size"]
    return content


def test_archive_is_an_oci_layout(tmp_path: Path) -> None:
    with tarfile.open(make_image(tmp_path / "a")) as archive:
        assert json.loads(read(archive, "oci-layout")) == {"imageLayoutVersion": "1.0.0"}
        (entry,) = json.loads(read(archive, "index.json"))["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == "outrigger.local/greeter:1.2"
        assert entry["annotations"]["org.opencontainers.image.ref.name"] == "1.2"
        manifest = json.loads(blob(archive, entry))
        config = json.loads(blob(archive, manifest["config"]))
        layers = [blob(archive, layer) for layer in manifest["layers"]]
        assert config["config"] == {"Entrypoint": ["greet"], "User": "65532:65532"}
        assert config["os"] == "linux"
        assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        assert len(config["history"]) == len(layers)


def test_archive_is_a_docker_archive(tmp_path: Path) -> None:
    with tarfile.open(make_image(tmp_path / "a")) as archive:
        (image,) = json.loads(read(archive, "manifest.json"))
        assert image["RepoTags"] == ["outrigger.local/greeter:1.2"]
        diff_ids = json.loads(read(archive, image["Config"]))["rootfs"]["diff_ids"]
        assert diff_ids == [f"sha256:{hashlib.sha256(read(archive, name)).hexdigest()}" for name in image["Layers"]]


def test_layer_has_normal_owners_modes_and_times(tmp_path: Path) -> None:
    stage = make_stage(tmp_path / "base")
    stage.at("/etc/motd").chmod(0o600)
    layer = write_layer("base", stage, tmp_path / "base.tar")
    with tarfile.open(layer.path) as tar:
        entries = {entry.name: entry for entry in tar}
    assert list(entries) == sorted(entries)
    assert {entry.mtime for entry in entries.values()} == {0}
    assert {entry.uname for entry in entries.values()} == {""}
    assert (entries["etc/motd"].uid, entries["etc/motd"].mode) == (0, 0o644)
    assert entries["usr/bin/greet"].mode == 0o755
    assert entries["usr/bin/hello"].linkname == "greet"
    assert entries["bin"].linkname == "usr/bin"
    assert entries["tmp"].mode == 0o1777
    assert (entries["home/outrigger"].uid, entries["home/outrigger"].gid) == (65532, 65532)
    assert entries["home"].uid == 0


def test_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_image(tmp_path / "a"), make_image(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_source_date_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with tarfile.open(make_image(tmp_path / "a")) as archive:
        assert {entry.mtime for entry in archive} == {1700000000}
        (image,) = json.loads(read(archive, "manifest.json"))
        assert json.loads(read(archive, image["Config"]))["created"] == "2023-11-14T22:13:20Z"


def test_shared_libraries_are_found_all_the_way_down() -> None:
    libraries = shared_libraries([Path(sys.executable).resolve()])
    assert "libc.so.6" in libraries
    assert all(path.exists() for path in libraries.values())
    assert any(name.startswith("/") and "ld-" in name for name in libraries), "the loader itself is needed"


def test_elf_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert is_elf(Path(sys.executable).resolve())
    assert not is_elf(tmp_path / "script")
    assert not is_elf(tmp_path)


def test_libraries_of_a_layer_below_are_not_repeated(tmp_path: Path) -> None:
    below, above = Stage(tmp_path / "below"), Stage(tmp_path / "above")
    for stage in (below, above):
        stage.copy(Path(sys.executable).resolve(), "/usr/bin/program")
    below.libraries()
    above.libraries([below])
    assert list(below.root.rglob("libc.so.6"))
    assert [path.name for path in above.root.rglob("*") if path.is_file()] == ["program"]


def test_layers_of_every_image_exist() -> None:
    for recipe in recipes():
        assert set(recipe.layers) <= set(LAYERS)


def test_images_agree_with_the_dockerfile() -> None:
    """Both ways of building run the same command, as the same user, with the same environment."""
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stages = re.split(r"^FROM ", dockerfile, flags=re.M)
    for recipe in recipes():
        name = recipe.name.removesuffix("-runtime")  # which is the same with more files
        stage = next(stage for stage in stages if re.match(rf"\S+ AS {name}\n", stage))
        variables = dict(pair.split("=", 1) for line in re.findall(r"^ENV (.+)$", stage, re.M) for pair in line.split())
        config = recipe.config
        made = dict(pair.split("=", 1) for pair in config["Env"])
        # A distribution's Python finds its certificates by itself; a copied one is told.
        made.pop("SSL_CERT_FILE")
        assert made == variables
        assert json.loads(re.findall(r"^ENTRYPOINT (.+)$", stage, re.M)[0]) == config["Entrypoint"]
        assert json.loads(re.findall(r"^CMD (.+)$", stage, re.M)[0]) == config["Cmd"]
        assert re.findall(r"^USER (.+)$", stage, re.M)[-1] == config["User"]
        assert re.findall(r"^STOPSIGNAL (.+)$", stage, re.M) == [config["StopSignal"]]
        assert re.findall(r"^WORKDIR (.+)$", stage, re.M) == [config["WorkingDir"]]
        assert {f"{port}/tcp" for port in re.findall(r"^EXPOSE (.+)$", stage, re.M)[0].split()} == set(
            config["ExposedPorts"]
        )


def test_docker_context_has_what_the_dockerfile_copies() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    copies = re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.M)
    for source in [part for line in copies for part in line.split()[:-1]]:
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in allowed), source
