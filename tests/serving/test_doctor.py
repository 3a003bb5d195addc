"""`galleria doctor` reports what keeps a deployment from keeping its promises, each with a fix."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from galleria.cli import main
from galleria.durable import sync
from galleria.pipelines.build_index import build_index
from galleria.pipelines.releases import Alias, publish, write_alias
from galleria.serving.config import SEARCH
from galleria.serving.config_file import IMPORT_PATH
from galleria.serving.doctor import MIN_FREE_BYTES, RAY_PORTS, check_storage
from galleria.serving.http.keys import new_key
from tests.serving.conftest import write_table


@pytest.fixture
def deployment(catalogue, tmp_path):
    """Copies that a test may damage, and options that name them."""
    paths = {name: str(tmp_path / name) for name in ("bundle", "table", "index")}
    for name, path in paths.items():
        shutil.copytree(getattr(catalogue.config, name), path)
    return paths


@pytest.fixture
def doctor(deployment, capsys, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):  # a Ray that other tests started sets the second
        monkeypatch.delenv(name, raising=False)

    def run(*options: str, paths=deployment):
        """Exit code, and the checks that are not ok, by name."""
        given = [f"--{name}={path}" for name, path in paths.items()]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["doctor", *given, "--json", "--port", str(unused_port()), *options])
        checks = json.loads(capsys.readouterr().out)
        assert all(check["fix"] for check in checks if check["status"] != "ok")
        ours = [check for check in checks if not check["name"].startswith(("Ray", "user"))]
        return end.value.code, {check["name"]: check for check in checks}, [c for c in ours if c["status"] != "ok"]

    return run


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_sound_deployment_passes(doctor, deployment):
    code, checks, others = doctor("--writable")
    assert others == [] or [check["name"] for check in others] == ["decoder of images", "decoder of videos"]
    assert code == int(checks["Ray's ports"]["status"] == "failed")
    assert checks["keys"]["detail"] == "none: only this machine is served"
    assert "fsync works" in checks[f"storage of {deployment['table']}"]["detail"]
    assert checks["model search"]["detail"].startswith("text_guided: ")
    assert {"version of ray", "version of torch", "version of pylance"} <= set(checks)
    assert not [path for path in Path(deployment["table"]).parent.iterdir() if path.name.startswith(".doctor")]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("bundle/model.safetensors", "model.safetensors is missing or damaged"),
        ("bundle/manifest.json", "manifest.json cannot be read"),
        ("index/current.json", "index"),
        ("index/builds/*/shard-0.faiss", "shard-0.faiss is missing or damaged"),
        ("index/builds/*/shard-0.items.arrow", "shard-0.items.arrow is missing or damaged"),
        ("table/_versions/*", "table"),
    ],
)
def test_damage_is_reported(doctor, deployment, tmp_path, damaged, message):
    files = list(tmp_path.glob(damaged))
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 4] = b"\xff\0\xff\0"
        file.write_bytes(content)
    code, checks, _ = doctor()
    assert code == 1
    assert checks["model search"]["status"] == "failed"
    assert message in checks["model search"]["detail"] + checks["model search"]["fix"]


def test_bundle_of_other_weights_is_reported(doctor, deployment, models):
    code, checks, _ = doctor(paths={**deployment, "bundle": str(models["mood"].path)})
    assert code == 1
    assert "bundle" in checks["model search"]["detail"]


def test_index_of_other_table_is_reported(doctor, deployment, catalogue, rows, tmp_path):
    items = [row for row in rows if row["role"] == "gallery"]
    other = write_table(tmp_path / "other", items, catalogue.vectors[: len(items)], catalogue.bundle.hash)
    build_index(other, tmp_path / "other-index")
    _, checks, others = doctor(paths={**deployment, "index": str(tmp_path / "other-index")})
    name = f"index {tmp_path / 'other-index'}"
    assert checks[name]["status"] == "warning"
    assert "another table" in checks[name]["detail"]
    assert name in [check["name"] for check in others]


def test_missing_keys_are_reported(doctor):
    code, checks, _ = doctor("--host", "0.0.0.0")
    assert (code, checks["keys"]["status"]) == (1, "failed")
    assert "galleria keys" in checks["keys"]["fix"]


def test_keys_file_is_checked(doctor, tmp_path):
    file = tmp_path / "keys.json"
    new_key(file, "shop", "read")
    _, checks, others = doctor("--keys", str(file), "--host", "0.0.0.0", "--writable")
    assert checks["keys"]["detail"] == "1 to read, 0 to write: nobody may write"
    assert checks["keys"] in others
    new_key(file, "owner", "write")
    file.chmod(0o644)
    _, checks, _ = doctor("--keys", str(file), "--writable")
    assert (checks["keys"]["status"], checks["keys file"]["status"]) == ("ok", "warning")
    assert checks["keys file"]["fix"] == f"chmod 600 {file}"
    for content in ("[]", "{", '[{"name": "a"}]'):
        file.write_text(content)
        code, checks, _ = doctor("--keys", str(file))
        assert (code, checks["keys"]["status"]) == (1, "failed")
    file.unlink()
    assert doctor("--keys", str(file))[1]["keys"]["status"] == "failed"


def test_port_in_use_is_reported(doctor):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0)
        code, checks, _ = doctor("--port", str(other.getsockname()[1]))
    assert (code, checks["port"]["status"]) == (1, "failed")


def test_ray_without_token_is_reported(doctor, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    code, checks, _ = doctor()
    assert (code, checks["Ray's authentication"]["status"]) == (1, "failed")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert doctor()[1]["Ray's authentication"]["status"] == "ok"


def test_open_ray_port_is_reported(doctor):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it selects the address on the network
        except OSError:
            return  # this machine has no network
        address = probe.getsockname()[0]
    for port, what in RAY_PORTS.items():
        try:
            listening = socket.create_server((address, port))
        except OSError:  # a Ray of this machine's listens there
            continue
        with listening:
            code, checks, _ = doctor()
        assert (code, checks["Ray's ports"]["status"]) == (1, "failed")
        assert f"{what} ({port})" in checks["Ray's ports"]["detail"]
        return
    raise AssertionError(f"all of {RAY_PORTS} are in use")


def test_audit_in_missing_folder_is_reported(doctor, tmp_path):
    code, checks, _ = doctor("--writable", "--audit", str(tmp_path / "nowhere" / "audit.jsonl"))
    assert code == 1
    assert "does not exist" in checks[f"storage of {tmp_path / 'nowhere' / 'audit.jsonl'}"]["detail"]


@pytest.mark.parametrize(("free", "status"), [(MIN_FREE_BYTES - 1, "warning"), (MIN_FREE_BYTES, "ok")])
@pytest.mark.parametrize("writable", [True, False])
def test_full_disk_is_reported(free, status, writable, tmp_path):
    check = check_storage(str(tmp_path / "table"), tmp_path, free, writable)
    assert (check.status, bool(check.fix)) == (status, status == "warning")


def test_releases_are_checked_by_alias(doctor, deployment, tmp_path):
    folder = tmp_path / "releases"
    release = publish(folder, "shoes", Path(deployment["bundle"]), deployment["table"], deployment["index"])
    code, checks, _ = doctor(paths={"releases": str(folder)})
    assert (code, checks["aliases"]["status"]) == (1, "failed")
    write_alias(folder, SEARCH, Alias(release=release.id), sync)
    _, checks, others = doctor(paths={"releases": str(folder)})
    assert release.id in checks["model search"]["detail"]
    assert "model search" not in [check["name"] for check in others]
    next(folder.glob("releases/shoes/1/release.json")).write_text("{}")
    assert doctor(paths={"releases": str(folder)})[1]["model search"]["status"] == "failed"


def test_config_file_is_read(doctor, deployment, models, tmp_path):
    application = {
        "name": "galleria",
        "import_path": IMPORT_PATH,
        "args": {**deployment, "models": {"mood": str(models["mood"].path), "gone": str(tmp_path / "gone")}},
    }
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": [application], "http_options": {"host": "0.0.0.0"}}))
    code, checks, _ = doctor("--config", str(file), paths={})
    assert code == 1
    assert [checks[f"model {name}"]["status"] for name in ("search", "mood", "gone")] == ["ok", "ok", "failed"]
    assert checks["keys"]["status"] == "failed"


def test_table_names_fixes(deployment, capsys):
    with pytest.raises(SystemExit):
        main(["doctor", *[f"--{name}={path}" for name, path in deployment.items()], "--host", "0.0.0.0"])
    shown = capsys.readouterr().out
    assert "failed" in shown
    assert "galleria" in shown


def test_doctor_imports_no_torch():
    code = "import sys, galleria.serving.doctor; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
