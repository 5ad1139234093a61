"""medsynth: from a folder of patient images to a cohort that may be shared, with the evidence that it may."""

__version__ = "0.1.0"
