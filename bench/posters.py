"""Poster downloads per second on one core, compared with img2dataset: same images, same server, same size.

python bench/posters.py [--images 4000] [--runs 3] [--work DIR] [--peer-venv DIR]

The server runs on core 0, each downloader with all its processes on core 1. Exits with 1 if mmgenre is slower, if
either omits images or writes another size, or if the two write different pictures.
"""

import argparse
import contextlib
import io
import math
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
from aiohttp import web
from PIL import Image

from mmgenre.labels import GENRES
from mmgenre.posters.images import reuse_memory, shrink
from mmgenre.sandbox.posters import draw
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import ENRICHED, POSTERS
from mmgenre.tables.table import Table, TableWriter

ROOT = Path(__file__).parent.parent
SERVER_CORE, CLIENT_CORE = 0, 1
# An upscaled small drawing has the soft edges and the byte size of a photo.
DRAWN, SIZE, QUALITY = (171, 256), (342, 513), 87
MAX_SIDE = 384
THREADS = (16, 32, 64)
OUR_SETTINGS = (f"max_side={MAX_SIDE}", "allow_private=true", "actors=1", "requests_per_second=100000")
PEER_SETTINGS = (
    *("--output_format=parquet", "--processes_count=1", "--extract_exif=False"),
    *(f"--image_size={MAX_SIDE}", "--resize_mode=keep_ratio_largest", "--resize_only_if_bigger=True"),
    *("--encode_format=jpg", "--encode_quality=90"),
)
# img2dataset's dependency checks the Internet for updates; Ray's workers run at niceness 15 by default.
ENVIRONMENT = {"NO_ALBUMENTATIONS_UPDATE": "1", "no_proxy": "127.0.0.1", "RAY_worker_niceness": "0"}
COMPARED = 10
MIN_PSNR_DB = 30
BUSY = 0.8
PEER = (
    "img2dataset==1.47.0",
    "albumentations==1.4.24",
    "numpy==2.4.6",
    "opencv-python-headless==4.14.0.94",
    "pandas==2.3.3",
    "pyarrow==26.0.1",
    "wandb==0.31.0",
)


class Run(NamedTuple):
    """Time of one download; `down` is from the first request to the end."""

    images_per_s: float
    cpu_s: float
    cpu_s_down: float
    cpu_s_down_of_busiest_process: float
    wall_s: float
    server_share: float


def main() -> None:
    """Measure, print a table, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000, help="posters per run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each downloader; the median is reported")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench"), help="work folder")
    parser.add_argument("--peer-venv", type=Path, default=ROOT / "runs/bench/img2dataset-venv", help="made if missing")
    options = parser.parse_args()
    peer = install(options.peer_venv.absolute())
    posters = generate(options.work.absolute(), options.images)
    os.sched_setaffinity(0, {SERVER_CORE})
    with serving(posters) as server:
        downloads = Downloads(server, peer, options.work.absolute(), options.images)
        medians = compare(downloads, options.runs)
    print_costs(pq.read_table(posters)["jpeg"].to_pylist(), medians["ours"])
    same = are_same(downloads.ours(), downloads.theirs(), options.images)
    sys.exit(0 if same and medians["ours"].images_per_s >= medians["theirs"].images_per_s else 1)


def install(venv: Path) -> Path:
    """Install img2dataset in its own virtual environment; return the program."""
    program = venv / "bin/img2dataset"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "--quiet", *PEER], check=True)
    return program


def generate(work: Path, num_images: int) -> Path:
    """A Parquet file with this many different JPEGs, cached between runs."""
    posters = work / f"posters-{num_images}.parquet"
    if not posters.exists():
        work.mkdir(parents=True, exist_ok=True)
        unfinished = posters.with_suffix(".unfinished")
        pq.write_table(pa.table({"jpeg": [poster(number) for number in range(num_images)]}), unfinished)
        unfinished.rename(posters)
    return posters


def poster(number: int) -> bytes:
    """One JPEG, deterministic in its number."""
    genres = (GENRES[number % 9], GENRES[number // 9 % 9])
    drawing = Image.open(io.BytesIO(draw(imdb_id(number), genres, DRAWN)))
    content = io.BytesIO()
    drawing.resize(SIZE, Image.Resampling.BICUBIC).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def imdb_id(number: int) -> str:
    """The movie id of a poster."""
    return f"tt{number:07}"


@dataclass(frozen=True)
class Server:
    """A running server; `marks` holds the time of the first request and the number of requests since the last reset."""

    process: psutil.Process
    port: int
    marks: Any

    def address(self, number: int) -> str:
        """URL of a poster."""
        return f"http://127.0.0.1:{self.port}/{number}.jpg"


@contextlib.contextmanager
def serving(posters: Path) -> Iterator[Server]:
    """Start a server in its own process."""
    context = multiprocessing.get_context("spawn")
    marks = context.RawArray("d", 2)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        process = context.Process(target=serve, args=(posters, listener, marks), daemon=True)
        process.start()
        server = Server(psutil.Process(process.pid), listener.getsockname()[1], marks)
    try:
        urllib.request.urlopen(server.address(0)).close()  # noqa: S310 - answered once all posters are in memory
        yield server
    finally:
        process.terminate()
        process.join()


def serve(posters: Path, listener: socket.socket, marks: Any) -> None:
    """Serve from memory until terminated, with persistent connections like those of image hosts."""
    os.sched_setaffinity(0, {SERVER_CORE})
    images = pq.read_table(posters)["jpeg"].to_pylist()

    async def answer(request: web.Request) -> web.Response:
        marks[0] = marks[0] or time.monotonic()
        marks[1] += 1
        return web.Response(body=images[int(request.match_info["number"])], content_type="image/jpeg")

    application = web.Application()
    application.add_routes([web.get(r"/{number:\d+}.jpg", answer)])
    web.run_app(application, sock=listener, access_log=None, print=None)


class Downloads:
    """The two downloaders and their latest outputs.

    Args:
        server: of the posters.
        peer: the program img2dataset.
        work: folder for inputs and outputs.
        num_images: posters per run.
    """

    def __init__(self, server: Server, peer: Path, work: Path, num_images: int):
        self.server, self.num_images = server, num_images
        self._peer = peer
        self._enriched, self._ours = work / "enriched", work / "ours"
        self._addresses, self._theirs = work / "addresses.txt", work / "theirs"
        self._write_inputs()

    def run_ours(self) -> Run:
        """Download with one actor."""
        job = [sys.executable, ROOT / "jobs/posters.py", ROOT / "configs/posters/default.yaml"]
        files = [f"enriched={self._enriched}", f"output={self._ours}"]
        host = f"allowed_hosts=[127.0.0.1:{self.server.port}]"
        return self._run([*job, *files, host, *OUR_SETTINGS], self._ours)

    def run_theirs(self, num_threads: int) -> Run:
        """Download with one process and one shard: with several, it would wait for the last image of each."""
        files = [f"--url_list={self._addresses}", f"--output_folder={self._theirs}"]
        sizes = [f"--thread_count={num_threads}", f"--number_sample_per_shard={self.num_images}"]
        return self._run([self._peer, *files, *sizes, *PEER_SETTINGS], self._theirs)

    def ours(self) -> dict[int, bytes]:
        """JPEGs by number."""
        rows = Table(str(self._ours), POSTERS).read(["imdb_id", "image"]).to_pylist()
        return {int(row["imdb_id"].removeprefix("tt")): row["image"] for row in rows if row["image"]}

    def theirs(self) -> dict[int, bytes]:
        """JPEGs by number."""
        rows = [row for part in self._theirs.glob("*.parquet") for row in pq.read_table(part).to_pylist()]
        return {int(Path(row["url"]).stem): row["jpg"] for row in rows if row["jpg"]}

    def _write_inputs(self) -> None:
        addresses = [self.server.address(number) for number in range(self.num_images)]
        self._addresses.write_text("\n".join(addresses) + "\n")
        columns: dict[str, Any] = {name: [None] * self.num_images for name in ENRICHED.names}
        columns["imdb_id"] = [imdb_id(number) for number in range(self.num_images)]
        columns["provider"] = columns["status"] = ["ok"] * self.num_images
        columns["poster_url"] = addresses
        columns["fetched_at"] = [0] * self.num_images
        shutil.rmtree(self._enriched, ignore_errors=True)
        with Output(str(self._enriched), Recipe(job="bench", settings={}, inputs={})) as output:
            table = TableWriter(output, ENRICHED)
            table.write(pa.table(columns))
            table.finish(rows_in=self.num_images)

    def _run(self, command: Sequence[object], output: Path) -> Run:
        shutil.rmtree(output, ignore_errors=True)
        return measure([str(part) for part in command], self.server, self.num_images, output.with_suffix(".log"))


def measure(command: list[str], server: Server, num_images: int, log: Path) -> Run:
    """Run a command on the client core and sample its processes ten times per second."""
    environment = os.environ | ENVIRONMENT
    environment.pop("RAY_ADDRESS", None)
    server.marks[:] = (0, 0)
    served, at_first = cpu_seconds(server.process), {}
    began = time.monotonic()
    with log.open("w") as output:
        pinned = ["taskset", "--cpu-list", str(CLIENT_CORE), *command]
        process = subprocess.Popen(pinned, env=environment, stdout=output, stderr=output)
        family = Family(process.pid)
        while process.poll() is None:
            seconds = family.cpu_seconds()
            at_first = at_first if server.marks[0] else seconds
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    ended = time.monotonic()
    served = cpu_seconds(server.process) - served
    first, num_requests = server.marks
    if process.returncode or num_requests != num_images:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}, {num_requests:.0f} requests; see {log}")
    family.outlive()
    seconds, down = family.cpu_seconds(), ended - first
    since = [spent - at_first.get(one, 0.0) for one, spent in seconds.items()]
    return Run(num_images / down, sum(seconds.values()), sum(since), max(since), ended - began, served / down)


class Family:
    """A process and all its descendants, including those that outlive their parents."""

    def __init__(self, pid: int):
        self._ancestor = psutil.Process(pid)
        self._cpu_seconds = {self._ancestor: 0.0}

    def cpu_seconds(self) -> dict[psutil.Process, float]:
        """CPU seconds of each process ever seen, as of its last sample."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._cpu_seconds = dict.fromkeys(self._ancestor.children(recursive=True), 0.0) | self._cpu_seconds
        for process in self._cpu_seconds:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._cpu_seconds[process] = cpu_seconds(process)
        return dict(self._cpu_seconds)

    def outlive(self) -> None:
        """Wait until all processes have ended, so that none slows down the next run."""
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in self._cpu_seconds):
            self.cpu_seconds()
            time.sleep(0.1)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process, without its children."""
    times = process.cpu_times()
    return times.user + times.system


def compare(downloads: Downloads, num_runs: int) -> dict[str, Run]:
    """Print and return the medians of alternating runs; img2dataset uses its best number of threads."""
    tried = {num_threads: downloads.run_theirs(num_threads).images_per_s for num_threads in THREADS}
    print(
        "img2dataset, images/s: " + ", ".join(f"{rate:.0f} with {threads} threads" for threads, rate in tried.items())
    )
    best = max(THREADS, key=tried.__getitem__)
    runs: dict[str, list[Run]] = {"ours": [], "theirs": []}
    for _ in range(num_runs):
        runs["ours"].append(downloads.run_ours())
        runs["theirs"].append(downloads.run_theirs(best))
    medians = {name: Run(*map(statistics.median, zip(*taken, strict=True))) for name, taken in runs.items()}
    ours, theirs = medians.values()
    per_1000 = 1000 / downloads.num_images
    print(f"{downloads.num_images:,} posters, medians of {num_runs}, {best} threads for img2dataset")
    print(f"{'':<36} {'ours':>8} {'theirs':>8} {'ratio':>6}")
    for name, mine, its in (
        ("images/s, first request to the end", ours.images_per_s, theirs.images_per_s),
        ("CPU s per 1,000 images", ours.cpu_s * per_1000, theirs.cpu_s * per_1000),
        ("  from the first request on", ours.cpu_s_down * per_1000, theirs.cpu_s_down * per_1000),
        (
            "    of the process that downloads",
            ours.cpu_s_down_of_busiest_process * per_1000,
            theirs.cpu_s_down_of_busiest_process * per_1000,
        ),
        ("total seconds, including start", ours.wall_s, theirs.wall_s),
        ("server's share of its core", ours.server_share, theirs.server_share),
    ):
        print(f"{name:<36} {mine:>8.2f} {its:>8.2f} {mine / its:>6.2f}")
    if max(ours.server_share, theirs.server_share) > BUSY:
        print("the server is the bottleneck: the downloaders are faster than these figures")
    return medians


def print_costs(images: list[bytes], ours: Run) -> None:
    """Print how mmgenre's time divides into resizing, which bounds one core, and the rest."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    reuse_memory()
    began = time.process_time()
    for image in images[:1000]:
        shrink(image, MAX_SIDE, max_pixels=25_000_000)
    alone = (time.process_time() - began) / len(images[:1000])
    actor, all_of_it = ours.cpu_s_down_of_busiest_process / len(images), ours.cpu_s_down / len(images)
    print(
        f"resizing alone: {1 / alone:.0f} images/s\n"
        f"mmgenre, CPU ms per image: resizing {alone * 1000:.2f}, the actor's network, threads and files "
        f"{(actor - alone) * 1000:.2f}, driver and Ray {(all_of_it - actor) * 1000:.2f}; "
        f"before the first request {ours.cpu_s - ours.cpu_s_down:.1f} s of CPU in total"
    )


def are_same(ours: dict[int, bytes], theirs: dict[int, bytes], num_images: int) -> bool:
    """Print and return whether both wrote all images, in the right size, with the same content."""
    wanted = set(range(num_images))
    sizes = {max(Image.open(io.BytesIO(jpeg)).size) for found in (ours, theirs) for jpeg in found.values()}
    if set(ours) != wanted or set(theirs) != wanted or sizes != {MAX_SIDE}:
        print(f"NOT THE SAME: {len(ours)} images and {len(theirs)}, of {num_images}; longest sides {sorted(sizes)} px")
        return False
    found = [psnr(ours[number], theirs[number]) for number in range(0, num_images, -(-num_images // COMPARED))]
    kilobytes = [sum(map(len, images.values())) / num_images / 1000 for images in (ours, theirs)]
    print(
        f"all images present, longest side {MAX_SIDE} px, {kilobytes[0]:.1f} and {kilobytes[1]:.1f} kB each; PSNR of "
        f"the two in {len(found)} images: {min(found):.1f} to {max(found):.1f} dB (at least {MIN_PSNR_DB})"
    )
    return min(found) >= MIN_PSNR_DB


def psnr(one: bytes, other: bytes) -> float:
    """Peak signal-to-noise ratio of two JPEGs of equal size, in decibels."""
    first, second = (np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), float) for jpeg in (one, other))
    return 10 * math.log10(255**2 / max(np.mean((first - second) ** 2), 1e-9))


if __name__ == "__main__":
    main()
