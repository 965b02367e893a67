"""Estimated hours and dollars to label a whole IMDb dump, from measured rates, API limits and list prices.

python bench/cost.py [--movies 700000] [--gpu-text-rows-per-second RATE] [--gpu-node-usd-per-hour PRICE] …

Nothing runs. Each figure is an option, and `--help` names the source of its default: docs/results.md for figures
measured by this project, otherwise a data sheet or price list. No GPU was measured: unless you give a measured rate, a
GPU's rate is the two cores' rate times the ratio of published bf16 peaks times `--gpu-utilisation`. Prints Markdown.
Not included: a head node, disks, traffic, node start-up, the training of a poster model.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

MEASURED_CORES = 2
MEASURED, ESTIMATE, GIVEN, API, REQUESTS = "measured", "estimate", "given", "API's rate", "request limit"
# One more machine is worthwhile if it saves this share of the time.
WORTH = 0.05
PRICE = "Linux on demand in us-east-1, list price as public repositories quoted it on 2026-11-22; check it"


def figure(default: float | None, source: str, *, zero: bool = False) -> Any:
    """A field of Figures: its default, its source, and whether it may be 0."""
    return field(default=default, metadata={"source": source, "zero": zero})


@dataclass(frozen=True)
class Figures:
    """Inputs of the calculation; each is an option of the same name."""

    titles: float = figure(12_000_000, "rows of the dump; docs/results.md, Catalogue")
    movies: float = figure(
        700_000, "movies enriched and tagged, assuming that all have a plot and a poster; docs/results.md, Cost"
    )
    new_movies: float = figure(7_000, "new movies in the next dump; an assumption: 1% of the movies", zero=True)
    training_movies: float = figure(10_293, "docs/results.md, The data")
    epochs: float = figure(3, "docs/results.md, Plots: MiniLM")

    catalogue_rows_per_second: float = figure(
        round(12_000_000 / 15.1), "docs/results.md, Catalogue: 12 million rows in 15.1 s, configs/catalog/tagging.yaml"
    )
    enrich_requests_per_second: float = figure(
        40, "TMDB's limit, one request per movie; docs/results.md, Enrichment: one actor reaches 100.3% of it"
    )
    cached_titles_per_second: float = figure(63_963, "docs/results.md, Enrichment: titles already in the table")
    images_per_second_a_core: float = figure(89.9, "docs/results.md, Downloads: one core, with the server on another")
    image_requests_per_second: float = figure(500, "the posters job's own limit per host")
    train_rows_per_second: float = figure(
        27.6, "two cores; docs/results.md, Training speed: MiniLM, batches of 32; 13.5 on a slower day, batches of 8"
    )
    text_rows_per_second: float = figure(187.2, "two cores; docs/results.md, Tagging speed: ELECTRA-Small's shape")
    poster_rows_per_second: float = figure(
        26.7, "two cores; docs/results.md, Tagging speed: VGG-16 with the light head"
    )
    most_rows_per_second: float = figure(
        round(1_000_000 / 97),
        "upper bound of tag; docs/results.md, Tagging speed: TF-IDF, a million rows in 97 s",
    )
    start_seconds: float = figure(
        24, "start of each job on Ray; docs/results.md, Tagging speed: Python 9 s, Ray and the models 15 s", zero=True
    )

    efficiency: float = figure(
        0.85,
        "scaling over cores, GPUs or machines; an assumption: what bench/tagging.py requires of two actors",
    )
    cpu_bf16_tflops_a_core: float = figure(
        2.05, "peak of the measured cores; Intel: AMX does 1,024 bf16 operations per cycle, at 2.0 GHz"
    )
    gpu_bf16_tflops: float = figure(121, "peak of one GPU without sparsity; NVIDIA's data sheet of the L4 (H200: 989)")
    gpu_utilisation: float = figure(0.5, "utilisation of a GPU's peak relative to that of the two cores; an assumption")
    gpu_train_rows_per_second: float | None = figure(None, "rate of one GPU, if you measured it")
    gpu_text_rows_per_second: float | None = figure(None, "rate of one GPU, if you measured it")
    gpu_poster_rows_per_second: float | None = figure(None, "rate of one GPU, if you measured it")

    laptop_usd_per_hour: float = figure(0, "your own laptop, without electricity", zero=True)
    cpu_node_usd_per_hour: float = figure(0.4032, f"m7i.2xlarge, 4 cores; {PRICE}", zero=True)
    gpu_node_usd_per_hour: float = figure(0.9776, f"g6.2xlarge, 4 cores, 1 L4; {PRICE}", zero=True)
    eight_gpus_usd_per_hour: float = figure(13.3504, f"g6.48xlarge, 96 cores, 8 L4; {PRICE}", zero=True)


@dataclass(frozen=True)
class Setup:
    """Machines of one kind, held from the first stage to the last one."""

    name: str
    cores: int
    gpus: int
    usd_per_hour: float
    machines: int = 1

    @property
    def is_measured(self) -> bool:
        """Whether the measured rates are from such a machine."""
        return (self.cores, self.gpus, self.machines) == (MEASURED_CORES, 0, 1)


class Work(NamedTuple):
    """The amount of work."""

    titles: float
    cached_movies: float
    movies: float
    training_rows: float


class Stage(NamedTuple):
    """Hours of a stage, and whether they are measured or estimated."""

    name: str
    hours: float
    basis: str


def main() -> None:
    """Print the estimate."""
    figures = parse()
    laptop, cpu, *gpus = setups(figures)
    first = Work(figures.titles, 0, figures.movies, figures.training_movies * figures.epochs)
    second = Work(figures.titles, figures.movies, figures.new_movies, 0)
    columns = [laptop, *gpus]
    print(f"{figures.titles:,.0f} titles, {figures.movies:,.0f} of them movies to enrich and tag:\n")
    print(account([(setup, stages(setup, first, figures)) for setup in columns]))
    print("\nMeasured: the rate of two Xeon cores with AMX; a laptop without AMX trains and tags more slowly.")
    print(f"\n{about_gpus(columns[1], first, figures)}")
    print(f"\n{about_two_kinds(cpu, columns[1], first, figures)}")
    print(f"\nA second dump with {figures.new_movies:,.0f} new movies, all others in the tables, same model:\n")
    print(account([(setup, stages(setup, second, figures)) for setup in columns]))
    everything = hours(figures.movies, figures.enrich_requests_per_second)
    print(
        "\nReading the existing tables is counted for enrich only. TMDB allows caching its answers for six months; "
        f"then all must be requested again (max_age_days=180), {everything:.2f} h."
    )
    print(f"\nMachines up to which one more saves at least {WORTH:.0%} of the time; enrich bounds the total:\n")
    print(about_machines([cpu, *gpus], first, figures))


def parse() -> Figures:
    """Figures from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for known in fields(Figures):
        default = "estimated" if known.default is None else f"{known.default:,.10g}"
        parser.add_argument(
            f"--{known.name.replace('_', '-')}",
            type=number(zero=known.metadata["zero"]),
            default=known.default,
            metavar="N",
            help=f"{known.metadata['source']} ({default})".replace("%", "%%"),
        )
    return Figures(**vars(parser.parse_args()))


def number(*, zero: bool) -> Callable[[str], float]:
    """A parser of finite numbers that are positive, or not negative."""

    def amount(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise argparse.ArgumentTypeError(f"{text}: expected a number {'>= 0' if zero else '> 0'}")
        return value

    return amount


def setups(figures: Figures) -> list[Setup]:
    """A laptop, and nodes with no, one and eight GPUs; a core is a physical core, two vCPUs."""
    return [
        Setup("laptop (2 cores)", 2, 0, figures.laptop_usd_per_hour),
        Setup("m7i.2xlarge (no GPU)", 4, 0, figures.cpu_node_usd_per_hour),
        Setup("g6.2xlarge (1 L4)", 4, 1, figures.gpu_node_usd_per_hour),
        Setup("g6.48xlarge (8 L4)", 96, 8, figures.eight_gpus_usd_per_hour),
    ]


def stages(setup: Setup, work: Work, figures: Figures) -> list[Stage]:
    """The stages in order."""
    posters_rate, posters_basis = download_rate(setup, figures)
    cached_hours = hours(work.cached_movies, figures.cached_titles_per_second)
    asked_hours = job_hours(work.movies, figures.enrich_requests_per_second, figures)
    computed = [
        ("train", work.training_rows, figures.train_rows_per_second, figures.gpu_train_rows_per_second),
        ("tag text", work.movies, figures.text_rows_per_second, figures.gpu_text_rows_per_second),
        ("tag posters", work.movies, figures.poster_rows_per_second, figures.gpu_poster_rows_per_second),
    ]
    found = [
        Stage("catalogue", hours(work.titles, figures.catalogue_rows_per_second), known_from(setup.is_measured)),
        Stage("enrich", cached_hours + asked_hours, API),
        Stage("posters", job_hours(work.movies, posters_rate, figures), posters_basis),
    ]
    for name, rows, on_cores, on_gpu in computed:
        rate, basis = model_rate(setup, on_cores, on_gpu, figures)
        if name != "train":
            rate = min(rate, figures.most_rows_per_second)
        found.append(Stage(name, job_hours(rows, rate, figures), basis))
    return found


def download_rate(setup: Setup, figures: Figures) -> tuple[float, str]:
    """Posters per second, and the basis of that figure."""
    cores = setup.cores * setup.machines
    rate = together(figures.images_per_second_a_core, cores, figures.efficiency)
    if rate >= figures.image_requests_per_second:
        return figures.image_requests_per_second, REQUESTS
    return rate, known_from(cores == 1)


def model_rate(setup: Setup, on_cores: float, on_gpu: float | None, figures: Figures) -> tuple[float, str]:
    """Rows per second of a model, and the basis of that figure.

    Args:
        setup: computes on its GPUs if it has any.
        on_cores: rows per second measured on MEASURED_CORES cores.
        on_gpu: rows per second of one GPU, if measured.
        figures: efficiency and GPU estimates.
    """
    if not setup.gpus:
        pairs = setup.cores * setup.machines / MEASURED_CORES
        return together(on_cores, pairs, figures.efficiency), known_from(setup.is_measured)
    num_gpus = setup.gpus * setup.machines
    rate = together(on_gpu or estimated_on_gpu(on_cores, figures), num_gpus, figures.efficiency)
    return rate, GIVEN if on_gpu and num_gpus == 1 else ESTIMATE


def estimated_on_gpu(on_cores: float, figures: Figures) -> float:
    """Rows per second of one GPU, from the cores' rate and the ratio of peaks."""
    ratio = figures.gpu_bf16_tflops / (MEASURED_CORES * figures.cpu_bf16_tflops_a_core)
    return on_cores * ratio * figures.gpu_utilisation


def together(rate_of_one: float, count: float, efficiency: float) -> float:
    """The combined rate of several."""
    return rate_of_one if count == 1 else rate_of_one * count * efficiency


def hours(rows: float, rows_per_second: float) -> float:
    """Hours for rows at a rate."""
    return rows / rows_per_second / 3600


def job_hours(rows: float, rows_per_second: float, figures: Figures) -> float:
    """Hours including the job's start; 0 without rows."""
    return hours(rows, rows_per_second) + figures.start_seconds / 3600 if rows else 0


def total_hours(found: list[Stage]) -> float:
    """Hours of all stages."""
    return sum(stage.hours for stage in found)


def usd(setup: Setup, held_hours: float) -> float:
    """Cost of the machines."""
    return held_hours * setup.machines * setup.usd_per_hour


def known_from(is_measured: bool) -> str:
    """The label of a figure's basis."""
    return MEASURED if is_measured else ESTIMATE


def account(columns: list[tuple[Setup, list[Stage]]]) -> str:
    """A Markdown table of stages by machines."""
    lines = [row("stage", *(setup.name for setup, _ in columns)), "|---|" + "---:|" * len(columns)]
    for place, stage in enumerate(columns[0][1]):
        lines.append(row(stage.name, *(cell(setup, found[place]) for setup, found in columns)))
    lines.append(row("**sum**", *(f"**{told(setup, total_hours(found))}**" for setup, found in columns)))
    lines.append(row("longest stage", *(limit(found) for _, found in columns)))
    return "\n".join(lines)


def cell(setup: Setup, stage: Stage) -> str:
    """Hours, dollars and their basis; empty for a stage that does not run."""
    return f"{told(setup, stage.hours)}, {stage.basis}" if stage.hours else ""


def limit(found: list[Stage]) -> str:
    """The longest stage and its share of the time."""
    longest = max(found, key=lambda stage: stage.hours)
    return f"{longest.name}, {longest.hours / total_hours(found):.0%} of the time"


def about_gpus(setup: Setup, work: Work, figures: Figures) -> str:
    """The assumed GPU rates, and how sensitive the result is to them."""
    pairs = [
        ("train", figures.train_rows_per_second, figures.gpu_train_rows_per_second),
        ("tag text", figures.text_rows_per_second, figures.gpu_text_rows_per_second),
        ("tag posters", figures.poster_rows_per_second, figures.gpu_poster_rows_per_second),
    ]
    rates = [
        f"{name} {on_gpu:,.0f} ({GIVEN})"
        if on_gpu
        else f"{name} {estimated_on_gpu(on_cores, figures):,.0f} ({ESTIMATE})"
        for name, on_cores, on_gpu in pairs
    ]
    ratio = estimated_on_gpu(1, figures)
    slow, fast = (
        total_hours(stages(setup, work, replace(figures, gpu_utilisation=figures.gpu_utilisation * factor)))
        for factor in (0.25, 4)
    )
    return (
        f"Rows/s of one GPU: {', '.join(rates)}. No GPU was measured: an estimate is {ratio:.1f} times the two cores' "
        f"rate ({figures.gpu_bf16_tflops:g} TFLOPS against {MEASURED_CORES * figures.cpu_bf16_tflops_a_core:g}, times "
        f"{figures.gpu_utilisation:g}). Were the estimates a quarter or four times that, {setup.name} would take "
        f"{slow:.2f} or {fast:.2f} h."
    )


def about_two_kinds(cpu: Setup, gpu: Setup, work: Work, figures: Figures) -> str:
    """Cost with a GPU node only for the stages that need one."""
    on_cpu, on_gpu = stages(cpu, work, figures)[:3], stages(gpu, work, figures)[3:]
    both = usd(cpu, total_hours(on_cpu)) + usd(gpu, total_hours(on_gpu))
    return (
        f"Catalogue, enrich and posters on {cpu.name}, the rest on {gpu.name}: "
        f"{total_hours(on_cpu) + total_hours(on_gpu):.2f} h, ${both:.2f}."
    )


def about_machines(kinds: list[Setup], work: Work, figures: Figures) -> str:
    """A Markdown table: one machine, the worthwhile number, and twice that."""
    lines = [row("kind", "one", "worthwhile", "twice as many"), "|---|---:|---:|---:|"]
    for kind in kinds:
        enough = worthwhile_machines(kind, work, figures)
        held = [replace(kind, machines=machines) for machines in (1, enough, 2 * enough)]
        costs = [f"{setup.machines}: {told(setup, total_hours(stages(setup, work, figures)))}" for setup in held]
        lines.append(row(kind.name, *costs))
    return "\n".join(lines)


def worthwhile_machines(kind: Setup, work: Work, figures: Figures) -> int:
    """The number of machines beyond which one more saves too little."""
    machines = 1
    while True:
        now, then = (
            total_hours(stages(replace(kind, machines=count), work, figures)) for count in (machines, machines + 1)
        )
        if now - then < WORTH * now:
            return machines
        machines += 1


def told(setup: Setup, held_hours: float) -> str:
    """Hours and dollars, as text; below a tenth of an hour with three decimals."""
    return f"{held_hours:.{2 if held_hours >= 0.1 else 3}f} h, ${usd(setup, held_hours):,.2f}"


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
