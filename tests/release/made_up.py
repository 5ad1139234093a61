"""A made-up study that could pass: a synthetic cohort, findings, rules, a split, a verdict."""

from __future__ import annotations

import numpy as np

from medsynth.cohort import Cohort, Record
from medsynth.finding import Finding
from medsynth.release import gate

RECALLS = {"exact": 25, "flip": 25, "quarter_turn": 24, "crop": 21, "jpeg": 25, "elastic": 22}
PROTOCOL = """
name: retina-demo
domain: fundus
seed: 7
image: {size_px: 64}
card:
  title: Synthetic retinas, demonstration
  licence: CC BY 4.0
  contact: research@hospital.example
gate:
  rules:
    - {finding: memorization.p_value, not_rejected_at: 0.05}
    - {finding: memorization.copy_rate, at_most: 0.03}
    - {finding: memorization.exact_copies, at_most: 0}
    - {finding: "memorization.recall.*", at_least: 0.6}
    - {finding: fidelity.precision, at_least: 0.4}
    - {finding: reconstruction.ssim, at_least: 0.8}
"""
SPLIT = {
    "parts": {
        "train": {"patients": 120, "images": 243, "labels": {"disease": {"rarity": 1}}},
        "validation": {"patients": 20, "images": 41, "labels": {}},
        "holdout": {"patients": 100, "images": 199, "labels": {}},
    },
    "foresight": {
        "sentence": "With 120 training and 100 held-out patients the gate can see copies of at "
        "least so many different patients: 5 at 5.0%, 8 at 1.0%, 11 at 0.1%."
    },
    "patients_known": True,
    "claim": "Every image's patient is known, and no patient stands in two parts: what is found "
    "about leakage is about patients.",
}


def make_findings() -> dict[str, Finding]:
    held_out = "held-out real patients"
    floor = "real against real"
    rows = [
        Finding("memorization.p_value", 0.412, 0.391, 0.433, 1999, "probability",
                "higher is better", "patient permutation, largest of five cut-offs and two spaces"),
        Finding("memorization.copy_rate", 0.0, 0.0, 0.0137, 300, "share of synthetic images",
                "lower is better", "registered nearest against second-nearest patient; "
                "Clopper-Pearson over the attack's recall", 0.01, held_out),
        Finding("memorization.exact_copies", 0, 0, 0, 300, "images", "lower is better",
                "equal pixels under eight symmetries"),
        Finding("memorization.nearest_similarity", 0.612, 0.598, 0.627, 300, "",
                "lower is better", "registered correlation, mean over patients", 0.605, held_out),
        Finding("fidelity.frechet", 12.4, 10.9, 14.1, 199, "squared feature distance",
                "lower is better", "features of the lens, jackknife over patients", 4.2, floor),
        Finding("fidelity.precision", 0.71, 0.64, 0.78, 199, "share of synthetic images",
                "higher is better", "k = 3, features of the lens", 0.86, floor),
        Finding("fidelity.recall", 0.55, 0.46, 0.63, 199, "share of real images",
                "higher is better", "k = 3, features of the lens", 0.84, floor),
        Finding("fidelity.sharpness", 0.93, 0.90, 0.97, 199, "", "neither",
                "ratio of high-frequency energy, synthetic over real", 1.01, floor),
        Finding("reconstruction.ssim", 0.914, 0.905, 0.922, 100, "", "higher is better",
                "mean over held-out patients, bootstrap", 0.921, "training images"),
        Finding("reconstruction.psnr", 31.2, 30.8, 31.7, 100, "dB", "higher is better",
                "mean over held-out patients, bootstrap", 31.9, "training images"),
    ]  # fmt: skip
    for change, hits in RECALLS.items():
        value = hits / 25
        name, low, high = f"memorization.recall.{change}", value - 0.18, min(1.0, value + 0.05)
        method = "planted copies flagged, Clopper-Pearson"
        unit, direction = "share of planted copies", "higher is better"
        rows.append(Finding(name, value, low, high, 25, unit, direction, method))
    return {row.name: row for row in rows}


def make_cohort(images: int = 24, size_px: int = 64, channels: int = 3) -> Cohort:
    """Discs with a bright spot: enough to look at, drawn from nobody."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:size_px, :size_px] / size_px - 0.5
    pixels = np.zeros((images, size_px, size_px, channels), np.uint8)
    for image in pixels:
        disc = (np.hypot(x, y) < 0.47) * random.uniform(90, 150)
        u, v = random.uniform(-0.25, 0.25, 2)
        spot = 90 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.006)
        tint = np.array([1.0, 0.55, 0.3])[:channels]
        noise = random.normal(0, 4, (size_px, size_px, 1))
        image[:] = np.clip((disc + spot * (disc > 0))[..., None] * tint + noise, 0, 255)
    records = tuple(
        Record(f"syn-{i + 1:06d}", "synthetic", seed=1000 + i,
               labels={"disease": ("none", "retinopathy")[i % 2]})
        for i in range(images)
    )  # fmt: skip
    return Cohort("fundus", records, pixels)


def judged(settings, cohort, findings, *, split=SPLIT) -> dict:
    """Put a study before the gate; return what `write_release` takes."""
    digests = {
        "protocol": settings.digest,
        "split": "5" * 64,
        "autoencoder": "a" * 64,
        "diffusion": "d" * 64,
        "lens": "1" * 64,
        "synthetic": cohort.digest,
        "evidence": gate.digest_findings(findings),
    }
    verdict = gate.decide(
        findings,
        settings.gate.rules,
        attempt=1,
        claim=gate.claims(split, domain=settings.domain),
        digests=digests,
    )
    models = {name: digests[name] for name in ("autoencoder", "diffusion", "lens")}
    return {"cohort": cohort, "protocol": settings, "findings": findings, "verdict": verdict,
            "split": split, "models": models}  # fmt: skip
