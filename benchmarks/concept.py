"""Does a concept learned from few images show what it was learned from?

    python benchmarks/concept.py PROTOCOL RAW OUT --attribute label --value NORMAL --shots 8 16 64

One value of an attribute is held out of everything that the base model sees. Half of the patients
are the model's: it trains on those of them who have other values, and the concept learns from the
first 8, 16 and 64 images of the value. The other half are the judge's: classifiers of real images
learn all values from them, cross-validated by patient. The judge is then asked what it sees in
images drawn with the concept, with every token that the base model had, and in real ones; all
drawn under the same guidance, and again under each other that is asked for.

A concept has shown something where its share of images called by the value lies above that of the
best existing token under that guidance. Started again it goes on. RAW is "phantoms" for made-up
patients.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsynth import pipeline, protocol, synthesis
from medsynth.cohort import Cohort
from medsynth.data import phantoms
from medsynth.finding import Finding, write_findings
from medsynth.models.prompted import open_denoiser
from medsynth.pictures import grid_png
from medsynth.pipeline.evidence import teacher
from medsynth.pipeline.run import open_autoencoder
from medsynth.release.pictures import encode_png
from medsynth.runtime import choose_device, derive_seed
from medsynth.validation import agreement
from medsynth.validation.statistics import clopper_pearson
from medsynth.vocabulary import Vocabulary


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    protocol: Path
    raw: str
    out: Path
    attribute: str
    value: str
    shots: list[int]
    images: int
    seen: int
    guidance: list[float]
    patients: int
    profile: str | None
    set: list[str]


def main() -> None:
    """Measure what the command line asks for and print it."""
    asked = _parse()
    study = protocol.load(asked.protocol, profile=asked.profile, changes=_changes(asked.set))
    everyone = _everyone(asked, study)
    mine, judges = _halves(everyone, study.seed)
    run = _base(asked, study, everyone, mine)
    judge = agreement.train_judge(
        everyone.take(judges),
        asked.attribute,
        teach=teacher(run),
        seed=study.seed,
        seen=asked.seen,
    )
    number = judge.values.index(asked.value)
    rows = {"real": _on_real(judge, number)}
    _write_shots(asked, everyone, mine)
    for shots in asked.shots:
        _learn(asked, run, shots)
    for guidance in asked.guidance:
        for name, labels in _tokens(run).items():
            pixels = _draw(run, labels, asked.images, guidance)
            rows[f"token {name}, guidance {guidance:g}"] = _share(judge, number, pixels)
        for shots in asked.shots:
            pixels = _drawn(asked, run, shots, guidance)
            rows[f"concept {shots}, guidance {guidance:g}"] = _share(judge, number, pixels)
    _report(asked, judge, rows)


def _parse() -> Asked:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("protocol", type=Path)
    asked.add_argument("raw")
    asked.add_argument("out", type=Path)
    asked.add_argument("--attribute", required=True)
    asked.add_argument("--value", required=True)
    asked.add_argument("--shots", type=int, nargs="*", default=[8, 16, 64])
    asked.add_argument("--images", type=int, default=200, help="drawn of each kind")
    asked.add_argument("--seen", type=int, default=agreement.SEEN, help="images a judge learns")
    asked.add_argument("--guidance", type=float, nargs="*", default=[protocol.Concept().guidance])
    asked.add_argument("--patients", type=int, default=400, help="of phantoms")
    asked.add_argument("--profile")
    asked.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    return Asked(**vars(asked.parse_args()))


def _changes(pairs: list[str]) -> dict:
    from ruamel.yaml import YAML

    return {
        key: YAML(typ="safe").load(value) for key, _, value in (p.partition("=") for p in pairs)
    }


def _everyone(asked: Asked, study: protocol.Protocol) -> Cohort:
    """Read all images once."""
    raw = Path(asked.raw)
    if asked.raw == "phantoms":
        raw = asked.out / "phantoms"
        if not (raw / "labels.csv").exists():
            phantoms.write_folder(
                raw,
                domain=study.domain,
                patients=asked.patients,
                seed=7,
                size_px=study.image.size_px,
            )
    run = pipeline.start(study, asked.out / "everyone")
    pipeline.ingest(run, raw)
    return Cohort.read(run.folder / "intake")


def _halves(everyone: Cohort, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the images by patient, at random: the model's and the judge's."""
    patients = everyone.patients
    rng = np.random.default_rng(derive_seed(seed, "concept benchmark"))
    mine = (rng.permutation(patients.max() + 1) % 2 == 0)[patients]
    return np.flatnonzero(mine), np.flatnonzero(~mine)


def _base(asked: Asked, study: protocol.Protocol, everyone: Cohort, mine) -> pipeline.Run:
    """Train on the model's patients who have another value of the attribute."""
    labels = everyone.labels(asked.attribute)
    named = {everyone.patients[i] for i in range(len(everyone)) if labels[i] == asked.value}
    rest = [i for i in mine if labels[i] and everyone.patients[i] not in named]
    raw = asked.out / "raw"
    if not (raw / "labels.csv").exists():
        _write_raw(raw, everyone.take(rest), asked.attribute)
    data = study.data.model_copy(
        update={"layout": None, "path_column": "path", "path_format": "{}", "keep": {},
                "rename": {}, "patient_column": "patient_id", "label_columns": (asked.attribute,)}
    )  # fmt: skip
    run = pipeline.start(study.model_copy(update={"data": data}), asked.out / "run")
    pipeline.ingest(run, raw)
    pipeline.split(run)
    pipeline.fit(run)
    return run


def _write_raw(folder: Path, cohort: Cohort, attribute: str) -> None:
    (folder / "images").mkdir(parents=True)
    rows = [("path", "patient_id", attribute)]
    for record, pixels, who in zip(cohort.records, cohort.pixels, cohort.patients, strict=True):
        name = f"images/{record.id}.png"
        (folder / name).write_bytes(encode_png(np.asarray(pixels), synthetic=False))
        rows.append((name, f"P{who}", record.labels[attribute]))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _write_shots(asked: Asked, everyone: Cohort, mine: np.ndarray) -> None:
    """Write the concept's images, one a patient as far as they go; fewer are among the more."""
    labels = everyone.labels(asked.attribute)
    shown = [i for i in mine if labels[i] == asked.value]
    first = {everyone.patients[i]: i for i in reversed(shown)}
    order = sorted(shown, key=lambda i: first[everyone.patients[i]] != i)
    for shots in asked.shots:
        folder = asked.out / f"shots{shots}"
        if not folder.exists():
            folder.mkdir()
            for i in order[:shots]:
                path = folder / f"{everyone.records[i].id}.png"
                path.write_bytes(encode_png(np.asarray(everyone.pixels[i]), synthetic=False))


def _learn(asked: Asked, run: pipeline.Run, shots: int) -> None:
    shown, name = asked.out / f"shots{shots}", f"held-{shots}"
    said = pipeline.learn_concept(run, shown, name, start=asked.attribute)
    print(*pipeline.tell_concept(said), sep="\n", flush=True)


def _drawn(asked: Asked, run: pipeline.Run, shots: int, guidance: float) -> np.ndarray:
    out = asked.out / f"drawn{shots}-{guidance:g}"
    drawn = pipeline.sample_concept(
        run, f"held-{shots}", out, images=asked.images, guidance=guidance
    )
    (asked.out / f"{out.name}.png").write_bytes(grid_png(drawn.pixels[:16], columns=8))
    return drawn.floats()


def _tokens(run: pipeline.Run) -> dict[str, dict[str, str]]:
    """Return what can be asked of the base model: each token, and none."""
    vocabulary = Vocabulary.read(run.folder / "diffusion" / "vocabulary.json")
    return {"none": {}} | {f"{a}={v}": {a: v} for a, v in vocabulary.tokens}


def _draw(run: pipeline.Run, labels: dict[str, str], count: int, guidance: float) -> np.ndarray:
    device = choose_device()
    return synthesis.sample(
        open_denoiser(run.folder / "diffusion").to(device),
        open_autoencoder(run, device),
        Vocabulary.read(run.folder / "diffusion" / "vocabulary.json"),
        [labels] * count,
        settings=run.protocol.sample.model_copy(update={"guidance": guidance}),
        diffusion=run.protocol.diffusion,
        seeds=[derive_seed(run.protocol.seed, "benchmark", i) for i in range(count)],
        device=device,
    )


def _says(judge: agreement.Judge, images: np.ndarray) -> np.ndarray:
    """Return what the judge's networks say together, (N,)."""
    return sum(net(images) for net in judge.nets).argmax(1)


def _share(judge: agreement.Judge, number: int, images: np.ndarray) -> tuple[int, int]:
    return int((_says(judge, images) == number).sum()), len(images)


def _on_real(judge: agreement.Judge, number: int) -> tuple[int, int]:
    """Real images of the value that the judge knows, each asked of a network that never saw its
    patient."""
    asked = judge.truth == number
    return int((judge.before[asked] == number).sum()), int(asked.sum())


def _report(asked: Asked, judge: agreement.Judge, rows: dict[str, tuple[int, int]]) -> None:
    other = judge.truth != judge.values.index(asked.value)
    wrong = (judge.before == judge.values.index(asked.value))[other].mean()
    print(f"\nimages called {asked.attribute}={asked.value} by a judge that is right on "
          f"{judge.right:.0%} of real ones (others called so: {wrong:.0%})")  # fmt: skip
    found = []
    for name, (hits, n) in rows.items():
        share = clopper_pearson(hits, n)
        print(f"{name:<40} {share.value:6.1%}  ({share.low:.1%} to {share.high:.1%})  n={n}")
        if name.startswith("concept"):
            drawn, guidance = name.split(", ")
            floors = [k for k in rows if k.startswith("token") and k.endswith(f", {guidance}")]
            best = max(floors, key=lambda k: rows[k][0])
            found.append(
                Finding(
                    f"concept.recognised.{drawn.split()[1]}.{guidance.replace(' ', '_')}",
                    share.value,
                    share.low,
                    share.high,
                    n,
                    "share of images",
                    "higher is better",
                    f"drawn with a concept of {drawn.split()[1]} images and called "
                    f"{asked.attribute}={asked.value} by classifiers of real images; "
                    "Clopper-Pearson interval",
                    clopper_pearson(*rows[best]).value,
                    f"the base model's best {best}",
                )
            )
    write_findings(asked.out / "findings.jsonl", found)


if __name__ == "__main__":
    main()
